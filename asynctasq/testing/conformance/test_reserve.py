"""What `reserve` promises, order apart: limits, only these queues, each message under one lease at a time."""

from asynctasq.kernel.messages import Complete, Release
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, Q, StoreUnderTest, ids


@conforms("reserve: lease up to `limit` visible messages")
async def test_reserve_takes_at_most_the_limit(store: StoreUnderTest) -> None:
    await store.put(*(f"m{number}" for number in range(7)))

    first = await store.driver.reserve([Q], limit=3, lease_s=LONG_S)

    assert 0 < len(first) <= 3 if not store.exact else len(first) == 3
    await store.assert_depth(ready=7 - len(first), reserved=len(first))


@conforms("reserve: lease up to `limit` visible messages")
async def test_a_limit_beyond_what_is_there_takes_all(store: StoreUnderTest) -> None:
    names = [f"m{number}" for number in range(store.sized(40))]
    await store.put(*names)

    assert sorted(ids(await store.take(len(names) + (100 if store.exact else 0)))) == sorted(names)

    await store.assert_nothing_visible()


@conforms("reserve: up to `limit`")
async def test_a_limit_of_zero_takes_nothing(store: StoreUnderTest) -> None:
    await store.put("m")

    assert await store.driver.reserve([Q], limit=0, lease_s=LONG_S) == []

    await store.assert_depth(ready=1)


@conforms("reserve: of the queues given")
async def test_reserve_takes_from_no_other_queue(store: StoreUnderTest) -> None:
    await store.put("m", queue="other")
    await store.put("n", queue="work.other")

    await store.assert_nothing_visible(Q, "wor", "work.", "ork")

    await store.assert_depth(ready=1, queue="other")


@conforms("reserve: of the queues given")
async def test_no_queue_or_a_queue_that_never_was_gives_nothing(store: StoreUnderTest) -> None:
    await store.put("m")

    assert await store.driver.reserve([], limit=5, lease_s=LONG_S) == []
    assert await store.driver.reserve(["never-was"], limit=5, lease_s=LONG_S) == []


@conforms("reserve: of the queues given")
async def test_a_queue_given_twice_gives_each_message_once(store: StoreUnderTest) -> None:
    await store.put("a", "b", "c")

    leases = await store.take(3, Q, Q)

    assert sorted(ids(leases)) == ["a", "b", "c"]
    await store.assert_nothing_visible(Q, Q)


@conforms("a redelivery before a lease ran out is a bug")
async def test_a_reserved_message_is_not_given_again(store: StoreUnderTest) -> None:
    await store.put("a", "b")

    first = await store.take(2)

    assert sorted(ids(first)) == ["a", "b"]
    await store.assert_nothing_visible()
    await store.assert_nothing_visible()
    await store.assert_depth(reserved=2)


@conforms("Lease.token differs at every reserve of the message")
async def test_every_reserve_of_a_message_has_a_new_token(store: StoreUnderTest) -> None:
    lease = await store.lease("m")
    tokens = [lease.token]
    for _ in range(4):
        await store.settle((lease, Release(counted=False)))
        lease = await store.take_one()
        tokens.append(lease.token)

    assert len(set(tokens)) == 5, f"tokens repeat: {tokens}"


@conforms("Lease.token: an id used again is another message")
async def test_a_lease_of_an_earlier_life_settles_nothing(store: StoreUnderTest) -> None:
    old = await store.lease("m")
    await store.settle((old, Complete()))
    await store.lease("m")

    lost = await store.driver.settle([(old, Complete())])

    if lost != {"m"}:
        await store.assert_depth(reserved=1)
        raise AssertionError("the lease of a completed message was not reported as lost")
    await store.assert_depth(reserved=1)


@conforms("reserve: a lease is granted for `lease_s` from the instant of the grant")
async def test_a_lease_ends_lease_s_after_the_grant(store: StoreUnderTest) -> None:
    lease_s = 45.25 if store.virtual else 45
    await store.put("m")

    lease = await store.take_one(lease_s=lease_s)

    granted_at = lease.expires_at - lease_s
    assert -1e-3 if store.exact else -1.5 <= granted_at - lease.enqueued_at < 30


@conforms("reserve: up to `limit`, in one call")
async def test_one_call_takes_a_thousand(store: StoreUnderTest) -> None:
    names = [f"m{number}" for number in range(store.sized(1000))]
    await store.put(*names)

    leases = await store.take(len(names))

    assert len({lease.message_id for lease in leases}) == len(leases) == len(names)
    lost = await store.driver.settle([(lease, Complete()) for lease in leases])
    assert lost == set()
    await store.assert_depth()
