"""Leases: never given away early, taken over when they ran out, extended by whoever holds the latest."""

import asyncio

from asynctasq.kernel.messages import Bury, Complete, DeadReason, Release
from asynctasq.testing.conformance.trial import LONG_S, Q, Trial, ids
from asynctasq.testing.conformance.verdict import conforms


@conforms("a redelivery before a lease ran out is a bug")
async def test_a_lease_holds_to_its_end(trial: Trial) -> None:
    await trial.lease("m", lease_s=trial.brief_s)

    await trial.advance(trial.brief_s * (0.5 if trial.virtual else 0.25))

    await trial.assert_nothing_visible()
    await trial.assert_depth(reserved=1)


@conforms("reserve: takes over messages whose lease ran out, counting a crash on each")
async def test_an_expired_lease_is_taken_over_as_a_crash(trial: Trial) -> None:
    await trial.lease("m", lease_s=trial.brief_s)
    for crashes in (1, 2, 3):
        await trial.expire()

        lease = await trial.take_one(lease_s=trial.brief_s)

        assert (lease.message_id, lease.attempt, lease.crashes) == ("m", 1, crashes), "a crash is not an attempt"


@conforms("reserve: takes over messages whose lease ran out, counting a crash on each")
async def test_all_of_a_dead_workers_messages_come_back(trial: Trial) -> None:
    names = [f"m{number}" for number in range(trial.sized(60))]
    await trial.put(*names)
    assert len(await trial.take(len(names), lease_s=trial.brief_s * (1 if trial.exact else 2))) == len(names)
    await trial.expire()
    if not trial.exact:
        await trial.expire()

    again = await trial.take(len(names))

    assert sorted(ids(again)) == sorted(names)
    assert {lease.crashes for lease in again} == {1}


@conforms("Depth: an expired lease counts as ready")
async def test_an_expired_lease_counts_as_ready(trial: Trial) -> None:
    await trial.lease("m", lease_s=trial.brief_s)

    await trial.expire()

    await trial.assert_depth(ready=1)


@conforms("Release: a hand-back is neither an attempt nor a crash")
async def test_a_hand_back_counts_nothing(trial: Trial) -> None:
    await trial.settle((await trial.lease("m"), Release(counted=False)))
    await trial.advance(LONG_S * 2 if trial.virtual else 0.5)

    lease = await trial.take_one()

    assert (lease.attempt, lease.crashes) == (1, 0)


@conforms("extend: let the leases end `lease_s` from now")
async def test_an_extended_lease_holds_to_its_new_end(trial: Trial) -> None:
    lease = await trial.lease("m", lease_s=trial.brief_s)
    await trial.advance(trial.brief_s / 2)

    assert await trial.driver.extend([lease], lease_s=trial.brief_s * (1 if trial.virtual else 2)) == set()

    await trial.advance(trial.brief_s * (0.75 if trial.virtual else 1))
    await trial.assert_nothing_visible()
    await trial.expire()
    assert (await trial.take_one()).crashes == 1


@conforms("extend: from now, so it may also end a lease earlier")
async def test_extend_may_shorten_a_lease(trial: Trial) -> None:
    lease = await trial.lease("m", lease_s=LONG_S)

    assert await trial.driver.extend([lease], lease_s=trial.brief_s) == set()

    await trial.expire()
    assert (await trial.take_one()).crashes == 1


@conforms("extend: the extended lease still settles")
async def test_an_extended_lease_settles(trial: Trial) -> None:
    lease = await trial.lease("m", lease_s=trial.brief_s)
    for _ in range(3):
        assert await trial.driver.extend([lease], lease_s=LONG_S) == set()

    await trial.settle((lease, Release(counted=True)))

    assert (await trial.take_one()).attempt == 2


@conforms("extend: a lease that ran out but was not taken over is renewed")
async def test_an_expired_lease_that_nobody_took_is_renewed(trial: Trial) -> None:
    lease = await trial.lease("m", lease_s=trial.brief_s)
    await trial.expire()

    assert await trial.driver.extend([lease], lease_s=LONG_S) == set()

    await trial.assert_nothing_visible()
    await trial.settle((lease, Release(counted=False)))
    assert (await trial.take_one()).crashes == 0, "a lease that was renewed in time is no crash"


@conforms("extend: return the ids whose token is no longer the latest", needs="fenced")
async def test_a_stolen_lease_extends_nothing(trial: Trial) -> None:
    stale = await trial.lease("m", lease_s=trial.brief_s)
    await trial.expire()
    latest = await trial.take_one(lease_s=trial.brief_s)

    assert await trial.driver.extend([stale], lease_s=LONG_S) == {"m"}

    await trial.expire()
    assert (await trial.take_one()).crashes == 2, "the stale extend must not have moved the lease of the thief"
    assert await trial.driver.extend([latest], lease_s=LONG_S) == {"m"}


@conforms("extend: a lease that was settled is lost")
async def test_a_settled_lease_extends_nothing(trial: Trial) -> None:
    await trial.put("a", "b", "c")
    leases = {lease.message_id: lease for lease in await trial.take(3)}
    await trial.settle(
        (leases["a"], Complete()),
        (leases["b"], Release(counted=False)),
        (leases["c"], Bury(reason=DeadReason.FAILED)),
    )

    assert await trial.driver.extend(list(leases.values()), lease_s=LONG_S) == {"a", "b", "c"}

    await trial.assert_depth(ready=1, dead=1)
    assert (await trial.take_one()).message_id == "b"


@conforms("extend: compare-and-set on each token")
async def test_a_batch_extends_each_lease_by_itself(trial: Trial) -> None:
    names = [f"m{number}" for number in range(5)]
    await trial.put(*names)
    leases = {lease.message_id: lease for lease in await trial.take(5, lease_s=trial.brief_s)}
    await trial.settle((leases["m1"], Complete()), (leases["m3"], Release(counted=False, delay_s=LONG_S)))

    assert await trial.driver.extend(list(leases.values()), lease_s=LONG_S) == {"m1", "m3"}

    await trial.expire()
    await trial.assert_nothing_visible()
    await trial.assert_depth(reserved=3, scheduled=1)


@conforms("extend: an empty batch")
async def test_extending_nothing_loses_nothing(trial: Trial) -> None:
    assert await trial.driver.extend([], lease_s=1) == set()


@conforms("extend and reserve: of an expired lease exactly one wins", needs="fenced")
async def test_a_race_of_extend_and_takeover_has_one_winner(trial: Trial) -> None:
    for number in range(trial.sized(25)):
        lease = await trial.lease(f"m{number}", lease_s=trial.brief_s)
        await trial.expire()

        extend, reserve = (
            trial.driver.extend([lease], lease_s=LONG_S),
            trial.driver.reserve([Q], limit=1, lease_s=LONG_S),
        )
        if number % 2:
            lost, taken = await asyncio.gather(extend, reserve)
        else:
            taken, lost = await asyncio.gather(reserve, extend)

        if taken:
            assert lost, "extend said the lease is ours and reserve gave the message away"
        else:
            assert not lost, "extend said the lease is lost and nobody has the message"
        winner = taken[0] if taken else lease
        assert winner.crashes == (1 if taken else 0)
        await trial.settle((winner, Complete()))
