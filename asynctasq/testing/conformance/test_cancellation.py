"""Every call, cancelled at each of its awaits: no message lost or half stored, no connection lost or desynchronised."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from asynctasq.kernel.messages import Bury, Complete, DeadReason, Lease, Release
from asynctasq.testing.conformance.cancelling import cancel_at_each_suspension
from asynctasq.testing.conformance.harness import NotPossible
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, Q, StoreUnderTest, ids, message, repeated
from asynctasq.testing.patience import patient_s

Call = Coroutine[Any, Any, object]


async def _assert_usable(store: StoreUnderTest) -> None:
    """Check that no connection was lost: more calls at once than a pool that leaked could serve."""
    async with asyncio.timeout(patient_s(20)):
        depths = await asyncio.gather(*(store.driver.depth("untouched") for _ in range(store.sized(30))))
    assert all(depth.ready == 0 for depth in depths)
    await store.put("last", queue="after")
    lease = await store.take_one("after")
    assert lease.body == b"last"
    await store.settle((lease, Complete()))


@conforms("enqueue cancelled: the batch is there whole or not at all", needs="atomic_enqueue")
async def test_a_cancelled_enqueue_stores_all_or_none(store: StoreUnderTest) -> None:
    number = 0

    async def call() -> Call:
        nonlocal number
        number += 1
        return store.driver.enqueue([message(f"m{number}-{part}", queue=f"q{number}") for part in range(3)])

    async def check() -> None:
        # A command whose reply nobody waits for may still be on its way; once the id is taken again it has arrived.
        names = [f"m{number}-{part}" for part in range(3)]
        new = await store.driver.enqueue([message(name, queue=f"q{number}") for name in names])
        assert new in ([], names), f"after a cancelled enqueue of {names} only {new} were new: it was stored in part"
        if store.capabilities.idempotent_enqueue.level == "yes":
            await store.assert_depth(ready=3, queue=f"q{number}")

    await cancel_at_each_suspension(call, check, at_least=store.sized(30))
    await _assert_usable(store)


@conforms("reserve cancelled: what it may have leased comes back when the lease ends")
async def test_a_cancelled_reserve_loses_no_message(store: StoreUnderTest) -> None:
    names = [f"m{number}" for number in range(4)]
    await store.put(*names)

    async def call() -> Call:
        return store.driver.reserve([Q], limit=2, lease_s=store.brief_s)

    async def check() -> None:
        await store.expire()
        leases = await store.take(4)
        assert sorted(ids(leases)) == names, "a cancelled reserve lost a message"
        await store.settle(*((lease, Release(counted=False)) for lease in leases))

    await cancel_at_each_suspension(call, check, at_least=store.sized(30))
    await _assert_usable(store)


@conforms("a waiting reserve cancelled: nothing is taken with it")
async def test_a_cancelled_waiting_reserve_loses_no_message(store: StoreUnderTest) -> None:
    async def call() -> Call:
        # Suspends on until a message is due; each is cancelled earlier or ends by itself.
        return store.driver.reserve([Q], limit=1, lease_s=store.brief_s, wait_s=0.2 if store.exact else 1)

    async def check() -> None:
        await store.put("m")
        lease = await store.take_one()
        await store.settle((lease, Complete()))

    await cancel_at_each_suspension(call, check, at_least=store.sized(30))
    await _assert_usable(store)


@conforms("settle cancelled: it happened whole or not at all, and may be repeated", needs="atomic_settle")
async def test_a_cancelled_settle_happens_whole_or_not_at_all(store: StoreUnderTest) -> None:
    number = 0
    lease: Lease

    async def call() -> Call:
        nonlocal number, lease
        number += 1
        lease = await store.lease(f"m{number}")
        follow_up = message(f"f{number}", queue="next")
        return store.driver.settle([(lease, Complete(follow_ups=(follow_up,)))])

    async def check() -> None:
        follow_up = message(f"f{number}", queue="next")
        lost = await store.driver.settle([(lease, Complete(follow_ups=(follow_up,)))])
        assert lost in (set(), {lease.message_id})
        await store.assert_depth()
        await store.assert_depth(ready=1, queue="next")
        await store.settle((await store.take_one("next"), Complete()))

    await cancel_at_each_suspension(call, check, at_least=store.sized(30))
    await _assert_usable(store)


@conforms("settle cancelled: an outcome counts once, however often it is repeated", needs="fenced")
async def test_a_cancelled_release_counts_once(store: StoreUnderTest) -> None:
    await store.put("m")
    lease = await store.take_one()

    async def call() -> Call:
        return store.driver.settle([(lease, Release(counted=True))])

    async def check() -> None:
        nonlocal lease
        await store.driver.settle([(lease, Release(counted=True))])
        again = await store.take_one()
        assert again.attempt == lease.attempt + 1, "a release that was cancelled and repeated counted twice, or never"
        lease = again

    await cancel_at_each_suspension(call, check, at_least=store.sized(30))
    await _assert_usable(store)


@conforms("turn cancelled: settled or not, and nothing lost")
async def test_a_cancelled_turn_loses_no_message(store: StoreUnderTest) -> None:
    number = 0

    async def call() -> Call:
        nonlocal number
        number += 1
        lease = await store.lease(f"m{number}")
        await store.put(f"n{number}")
        return store.driver.turn([(lease, Complete())], [Q], limit=1, lease_s=store.brief_s)

    async def check() -> None:
        await store.expire()
        await store.advance(LONG_S if store.virtual else 0)
        leases = await store.take(3 if store.exact else 1)
        names = ids(leases)
        assert f"n{number}" in names, "a cancelled turn lost the message it had reserved"
        assert not repeated(names)
        await store.settle(*((lease, Complete()) for lease in leases))

    await cancel_at_each_suspension(call, check, at_least=store.sized(30))
    await _assert_usable(store)


@conforms("extend cancelled: the lease is ours, extended or not")
async def test_a_cancelled_extend_keeps_the_lease(store: StoreUnderTest) -> None:
    lease = await store.lease("m")

    async def call() -> Call:
        return store.driver.extend([lease], lease_s=LONG_S)

    async def check() -> None:
        assert await store.driver.extend([lease], lease_s=LONG_S) == set()

    await cancel_at_each_suspension(call, check, at_least=store.sized(30))
    await store.settle((lease, Complete()))
    await _assert_usable(store)


@conforms("redrive cancelled: a dead letter is dead or ready, nothing else", needs="redrive")
async def test_a_cancelled_redrive_loses_no_dead_letter(store: StoreUnderTest) -> None:
    if not store.exact:
        raise NotPossible(
            "what a cancelled redrive took comes back after a minute or so; too long to wait at each await"
        )
    names = ["a", "b", "c"]
    await store.put(*names)

    async def call() -> Call:
        leases = await store.take(3)
        assert sorted(ids(leases)) == names, "a cancelled redrive lost a dead letter"
        await store.settle(*((lease, Bury(reason=DeadReason.FAILED)) for lease in leases))
        return store.driver.redrive(Q, limit=3)

    async def check() -> None:
        await store.driver.redrive(Q, limit=3)
        await store.assert_depth(ready=3)

    await cancel_at_each_suspension(call, check, at_least=store.sized(30))
    await _assert_usable(store)


@conforms("depth cancelled: the next call is answered with its own reply")
async def test_a_cancelled_depth_does_not_mix_up_replies(store: StoreUnderTest) -> None:
    await store.put("a", "b")
    await store.put("c", queue="other")

    async def call() -> Call:
        return store.driver.depth(Q)

    async def check() -> None:
        await store.assert_depth(ready=1, queue="other")

    await cancel_at_each_suspension(call, check, at_least=store.sized(30))
    await _assert_usable(store)


@conforms("the first call of a loop cancelled while it connects: the next one connects")
async def test_a_call_cancelled_while_connecting_may_be_repeated(store: StoreUnderTest) -> None:
    await store.put("m", queue="other")

    async def call() -> Call:
        await store.driver.close()
        return store.driver.depth(Q)

    async def check() -> None:
        if store.capabilities.durable:
            await store.assert_depth(ready=1, queue="other")

    await cancel_at_each_suspension(call, check, at_least=store.sized(30))
    await _assert_usable(store)


@conforms("close cancelled: it can be closed again, and used again")
async def test_a_cancelled_close_may_be_repeated(store: StoreUnderTest) -> None:
    async def call() -> Call:
        await store.driver.depth(Q)
        return store.driver.close()

    async def check() -> None:
        async with asyncio.timeout(patient_s(10)):
            await store.driver.close()

    await cancel_at_each_suspension(call, check, at_least=store.sized(30))
    await _assert_usable(store)
