"""What `reserve` promises, order apart: limits, only these queues, each message under one lease at a time."""

from asynctasq.kernel.messages import Complete, Release
from asynctasq.testing.conformance.trial import LONG_S, Q, Trial, ids
from asynctasq.testing.conformance.verdict import conforms


@conforms("reserve: lease up to `limit` visible messages")
async def test_reserve_takes_at_most_the_limit(trial: Trial) -> None:
    await trial.put(*(f"m{number}" for number in range(7)))

    first = await trial.driver.reserve([Q], limit=3, lease_s=LONG_S)

    assert 0 < len(first) <= 3 if not trial.exact else len(first) == 3
    await trial.assert_depth(ready=7 - len(first), reserved=len(first))


@conforms("reserve: lease up to `limit` visible messages")
async def test_a_limit_beyond_what_is_there_takes_all(trial: Trial) -> None:
    names = [f"m{number}" for number in range(trial.sized(40))]
    await trial.put(*names)

    assert sorted(ids(await trial.take(len(names) + (100 if trial.exact else 0)))) == sorted(names)

    await trial.assert_nothing_visible()


@conforms("reserve: up to `limit`")
async def test_a_limit_of_zero_takes_nothing(trial: Trial) -> None:
    await trial.put("m")

    assert await trial.driver.reserve([Q], limit=0, lease_s=LONG_S) == []

    await trial.assert_depth(ready=1)


@conforms("reserve: of the queues given")
async def test_reserve_takes_from_no_other_queue(trial: Trial) -> None:
    await trial.put("m", queue="other")
    await trial.put("n", queue="work.other")

    await trial.assert_nothing_visible(Q, "wor", "work.", "ork")

    await trial.assert_depth(ready=1, queue="other")


@conforms("reserve: of the queues given")
async def test_no_queue_or_a_queue_that_never_was_gives_nothing(trial: Trial) -> None:
    await trial.put("m")

    assert await trial.driver.reserve([], limit=5, lease_s=LONG_S) == []
    assert await trial.driver.reserve(["never-was"], limit=5, lease_s=LONG_S) == []


@conforms("reserve: of the queues given")
async def test_a_queue_given_twice_gives_each_message_once(trial: Trial) -> None:
    await trial.put("a", "b", "c")

    leases = await trial.take(3, Q, Q)

    assert sorted(ids(leases)) == ["a", "b", "c"]
    await trial.assert_nothing_visible(Q, Q)


@conforms("a redelivery before a lease ran out is a bug")
async def test_a_reserved_message_is_not_given_again(trial: Trial) -> None:
    await trial.put("a", "b")

    first = await trial.take(2)

    assert sorted(ids(first)) == ["a", "b"]
    await trial.assert_nothing_visible()
    await trial.assert_nothing_visible()
    await trial.assert_depth(reserved=2)


@conforms("Lease.token differs at every reserve of the message")
async def test_every_reserve_of_a_message_has_a_new_token(trial: Trial) -> None:
    lease = await trial.lease("m")
    tokens = [lease.token]
    for _ in range(4):
        await trial.settle((lease, Release(counted=False)))
        lease = await trial.take_one()
        tokens.append(lease.token)

    assert len(set(tokens)) == 5, f"tokens repeat: {tokens}"


@conforms("Lease.token: an id used again is another message")
async def test_a_lease_of_an_earlier_life_settles_nothing(trial: Trial) -> None:
    old = await trial.lease("m")
    await trial.settle((old, Complete()))
    await trial.lease("m")

    lost = await trial.driver.settle([(old, Complete())])

    if lost != {"m"}:
        await trial.assert_depth(reserved=1)
        raise AssertionError("the lease of a completed message was not reported as lost")
    await trial.assert_depth(reserved=1)


@conforms("reserve: a lease is granted for `lease_s` from the instant of the grant")
async def test_a_lease_ends_lease_s_after_the_grant(trial: Trial) -> None:
    lease_s = 45.25 if trial.virtual else 45
    await trial.put("m")

    lease = await trial.take_one(lease_s=lease_s)

    granted_at = lease.expires_at - lease_s
    assert -1e-3 if trial.exact else -1.5 <= granted_at - lease.enqueued_at < 30


@conforms("reserve: up to `limit`, in one call")
async def test_one_call_takes_a_thousand(trial: Trial) -> None:
    names = [f"m{number}" for number in range(trial.sized(1000))]
    await trial.put(*names)

    leases = await trial.take(len(names))

    assert len({lease.message_id for lease in leases}) == len(leases) == len(names)
    lost = await trial.driver.settle([(lease, Complete()) for lease in leases])
    assert lost == set()
    await trial.assert_depth()
