"""Leases: never given away early, taken over when they ran out, extended by whoever holds the latest."""

import asyncio

from asynctasq.kernel.messages import Bury, Complete, DeadReason, Release
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, Q, StoreUnderTest, ids


@conforms("a redelivery before a lease ran out is a bug")
async def test_a_lease_holds_to_its_end(store: StoreUnderTest) -> None:
    await store.lease("m", lease_s=store.brief_s)

    await store.advance(store.brief_s * (0.5 if store.virtual else 0.25))

    await store.assert_nothing_visible()
    await store.assert_depth(reserved=1)


@conforms("reserve: takes over messages whose lease ran out, counting a crash on each")
async def test_an_expired_lease_is_taken_over_as_a_crash(store: StoreUnderTest) -> None:
    await store.lease("m", lease_s=store.brief_s)
    for crashes in (1, 2, 3):
        await store.expire()

        lease = await store.take_one(lease_s=store.brief_s)

        assert (lease.message_id, lease.attempt, lease.crashes) == ("m", 1, crashes), "a crash is not an attempt"


@conforms("reserve: takes over messages whose lease ran out, counting a crash on each")
async def test_all_of_a_dead_workers_messages_come_back(store: StoreUnderTest) -> None:
    names = [f"m{number}" for number in range(store.sized(60))]
    await store.put(*names)
    assert len(await store.take(len(names), lease_s=store.brief_s * (1 if store.exact else 2))) == len(names)
    await store.expire()
    if not store.exact:
        await store.expire()

    again = await store.take(len(names))

    assert sorted(ids(again)) == sorted(names)
    assert {lease.crashes for lease in again} == {1}


@conforms("Depth: an expired lease counts as ready")
async def test_an_expired_lease_counts_as_ready(store: StoreUnderTest) -> None:
    await store.lease("m", lease_s=store.brief_s)

    await store.expire()

    await store.assert_depth(ready=1)


@conforms("Release: a hand-back is neither an attempt nor a crash")
async def test_a_hand_back_counts_nothing(store: StoreUnderTest) -> None:
    await store.settle((await store.lease("m"), Release(counted=False)))
    await store.advance(LONG_S * 2 if store.virtual else 0.5)

    lease = await store.take_one()

    assert (lease.attempt, lease.crashes) == (1, 0)


@conforms("extend: let the leases end `lease_s` from now")
async def test_an_extended_lease_holds_to_its_new_end(store: StoreUnderTest) -> None:
    lease = await store.lease("m", lease_s=store.brief_s)
    await store.advance(store.brief_s / 2)

    assert await store.driver.extend([lease], lease_s=store.brief_s * (1 if store.virtual else 2)) == set()

    await store.advance(store.brief_s * (0.75 if store.virtual else 1))
    await store.assert_nothing_visible()
    await store.expire()
    assert (await store.take_one()).crashes == 1


@conforms("extend: from now, so it may also end a lease earlier")
async def test_extend_may_shorten_a_lease(store: StoreUnderTest) -> None:
    lease = await store.lease("m", lease_s=LONG_S)

    assert await store.driver.extend([lease], lease_s=store.brief_s) == set()

    await store.expire()
    assert (await store.take_one()).crashes == 1


@conforms("extend: the extended lease still settles")
async def test_an_extended_lease_settles(store: StoreUnderTest) -> None:
    lease = await store.lease("m", lease_s=store.brief_s)
    for _ in range(3):
        assert await store.driver.extend([lease], lease_s=LONG_S) == set()

    await store.settle((lease, Release(counted=True)))

    assert (await store.take_one()).attempt == 2


@conforms("extend: a lease that ran out but was not taken over is renewed")
async def test_an_expired_lease_that_nobody_took_is_renewed(store: StoreUnderTest) -> None:
    lease = await store.lease("m", lease_s=store.brief_s)
    await store.expire()

    assert await store.driver.extend([lease], lease_s=LONG_S) == set()

    await store.assert_nothing_visible()
    await store.settle((lease, Release(counted=False)))
    assert (await store.take_one()).crashes == 0, "a lease that was renewed in time is no crash"


@conforms("extend: return the ids whose token is no longer the latest", needs="fenced")
async def test_a_stolen_lease_extends_nothing(store: StoreUnderTest) -> None:
    stale = await store.lease("m", lease_s=store.brief_s)
    await store.expire()
    latest = await store.take_one(lease_s=store.brief_s)

    assert await store.driver.extend([stale], lease_s=LONG_S) == {"m"}

    await store.expire()
    assert (await store.take_one()).crashes == 2, "the stale extend must not have moved the new lease"
    assert await store.driver.extend([latest], lease_s=LONG_S) == {"m"}


@conforms("extend: a lease that was settled is lost")
async def test_a_settled_lease_extends_nothing(store: StoreUnderTest) -> None:
    await store.put("a", "b", "c")
    leases = {lease.message_id: lease for lease in await store.take(3)}
    await store.settle(
        (leases["a"], Complete()),
        (leases["b"], Release(counted=False)),
        (leases["c"], Bury(reason=DeadReason.FAILED)),
    )

    assert await store.driver.extend(list(leases.values()), lease_s=LONG_S) == {"a", "b", "c"}

    await store.assert_depth(ready=1, dead=1)
    assert (await store.take_one()).message_id == "b"


@conforms("extend: compare-and-set on each token")
async def test_a_batch_extends_each_lease_by_itself(store: StoreUnderTest) -> None:
    names = [f"m{number}" for number in range(5)]
    await store.put(*names)
    leases = {lease.message_id: lease for lease in await store.take(5, lease_s=store.brief_s)}
    await store.settle((leases["m1"], Complete()), (leases["m3"], Release(counted=False, delay_s=LONG_S)))

    assert await store.driver.extend(list(leases.values()), lease_s=LONG_S) == {"m1", "m3"}

    await store.expire()
    await store.assert_nothing_visible()
    await store.assert_depth(reserved=3, scheduled=1)


@conforms("extend: an empty batch")
async def test_extending_nothing_loses_nothing(store: StoreUnderTest) -> None:
    assert await store.driver.extend([], lease_s=1) == set()


@conforms("extend and reserve: of an expired lease exactly one wins", needs="fenced")
async def test_a_race_of_extend_and_takeover_has_one_winner(store: StoreUnderTest) -> None:
    for number in range(store.sized(25)):
        lease = await store.lease(f"m{number}", lease_s=store.brief_s)
        await store.expire()

        extend, reserve = (
            store.driver.extend([lease], lease_s=LONG_S),
            store.driver.reserve([Q], limit=1, lease_s=LONG_S),
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
        await store.settle((winner, Complete()))
