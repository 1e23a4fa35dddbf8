"""Levels of priority together with unique keys, cancelling and leases of released messages, where claimed."""

from dataclasses import replace

from asynctasq.drivers.base import CancelsRunning, Enqueued, ReservesReleased
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Lease, Message, OnConflict, Release, UniqueKey
from asynctasq.kernel.priority import PRIORITIES, Priority
from asynctasq.testing.conformance.harness import NotPossible
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, Q, StoreUnderTest, ids, message

UNIQUE = "unique"
CANCELS = "cancels_running"
AGAIN = "reserves_released"
LATER = Release(counted=False, delay_s=3600.0)


def _needs_levels(store: StoreUnderTest) -> None:
    if not store.capabilities.priorities:
        raise NotPossible("priorities is not claimed")


def _keyed(
    name: str, level: Priority, key: str = "k", *, on_conflict: OnConflict = "skip", window_s: float | None = None
) -> Message:
    unique = UniqueKey(key=key, on_conflict=on_conflict, window_s=window_s)
    return replace(message(name, priority=level), unique=unique)


async def _holder(store: StoreUnderTest, wanted: Message) -> str | None:
    """Store a message; return who holds its key if another does."""
    new = await store.driver.enqueue([wanted])
    return new.holders.get(wanted.id) if isinstance(new, Enqueued) else None


async def _leases_of_all_levels(store: StoreUnderTest) -> list[Lease]:
    await store.driver.enqueue([message(level, priority=level) for level in PRIORITIES])
    return await store.take(len(PRIORITIES))


async def _assert_shown(store: StoreUnderTest, name: str, level: Priority) -> None:
    found = await store.inspectable().find(name)
    assert found is not None
    assert (found.queue, found.priority) == (Q, level)


# -- unique keys -------------------------------------------------------------------------------------


@conforms("enqueue: a message with a unique key comes at its level", needs=UNIQUE)
async def test_a_message_with_a_key_comes_at_its_level(store: StoreUnderTest) -> None:
    _needs_levels(store)
    batch = [*(_keyed(level, level, level) for level in reversed(PRIORITIES)), message("plain", priority="high")]
    assert await store.driver.enqueue(batch) == ids(batch)
    for level in PRIORITIES:
        await _assert_shown(store, level, level)

    leases = await store.take(4)
    assert ids(leases) == ["high", "plain", "normal", "low"]
    assert {lease.queue for lease in leases} == {Q}


@conforms("enqueue: a unique key is held whatever the levels are, and comes free at each of them", needs=UNIQUE)
async def test_a_key_is_held_over_all_levels(store: StoreUnderTest) -> None:
    _needs_levels(store)
    for level in PRIORITIES:
        assert await store.driver.enqueue([_keyed(level, level)]) == [level]
        for other in PRIORITIES:
            assert await _holder(store, _keyed(f"not {other}", other)) == level
        await store.settle((await store.take_one(), Complete()))
    await store.assert_depth()


@conforms("enqueue: a message with a unique key replaces one of another level, and has its own", needs=UNIQUE)
async def test_a_key_is_replaced_over_levels(store: StoreUnderTest) -> None:
    _needs_levels(store)
    last = "first"
    await store.driver.enqueue([_keyed("first", "low")])
    for number, level in enumerate((*PRIORITIES, *reversed(PRIORITIES))):
        name = f"{number} {level}"
        assert await store.driver.enqueue([_keyed(name, level, on_conflict="replace")]) == [name]
        assert await store.inspectable().find(last) is None
        await _assert_shown(store, name, level)
        await store.assert_depth(ready=1)
        last = name
    assert (await store.take_one()).message_id == last
    await store.assert_nothing_visible()


@conforms("enqueue: a window holds for all levels, and what waits in it is replaced over levels", needs=UNIQUE)
async def test_a_window_holds_over_levels(store: StoreUnderTest) -> None:
    _needs_levels(store)
    assert await store.driver.enqueue([_keyed("low", "low", window_s=LONG_S)]) == ["low"]
    assert await _holder(store, _keyed("skipped", "high", window_s=LONG_S)) == "low"
    new = await store.driver.enqueue([_keyed("high", "high", window_s=LONG_S, on_conflict="replace")])
    assert new == ["high"]

    await _assert_shown(store, "high", "high")
    await store.assert_depth(ready=1)
    await store.settle((await store.take_one(), Complete()))
    assert await _holder(store, _keyed("normal", "normal", window_s=LONG_S)) == "high"
    await store.assert_depth()


@conforms("settle: follow-ups with unique keys have their own levels", needs=UNIQUE)
async def test_follow_ups_with_keys_have_levels(store: StoreUnderTest) -> None:
    _needs_levels(store)
    lease = await store.lease("m")
    follow_ups = tuple(_keyed(level, level, level) for level in reversed(PRIORITIES))
    await store.settle((lease, Complete(follow_ups=follow_ups)))

    assert ids(await store.take(3)) == [*PRIORITIES]


@conforms("redrive: a message with a unique key keeps its level, and holds the key no more", needs=UNIQUE)
async def test_a_redriven_message_with_a_key_keeps_its_level(store: StoreUnderTest) -> None:
    _needs_levels(store)
    await store.driver.enqueue([_keyed(level, level, level) for level in PRIORITIES])
    await store.settle(*((lease, Bury(reason=DeadReason.FAILED)) for lease in await store.take(3)))
    assert await store.driver.redrive(Q, limit=3) == 3
    await store.driver.enqueue([_keyed(f"new {level}", level, level) for level in PRIORITIES])

    assert ids(await store.take(6)) == [name for level in PRIORITIES for name in (level, f"new {level}")]


# -- cancelling --------------------------------------------------------------------------------------


async def _cancel(store: StoreUnderTest) -> dict[str, str]:
    driver = store.driver
    assert isinstance(driver, CancelsRunning), f"{driver} claims {CANCELS} and lacks a method of it"
    return dict(await driver.cancel_running(PRIORITIES))


@conforms(
    "cancel_running: messages of all levels, waiting, released and leased; their queue is empty then", needs=CANCELS
)
async def test_messages_of_all_levels_are_cancelled(store: StoreUnderTest) -> None:
    _needs_levels(store)
    await store.driver.enqueue([message(level, priority=level) for level in PRIORITIES])
    assert await _cancel(store) == dict.fromkeys(PRIORITIES, "")
    leases = await _leases_of_all_levels(store)
    assert ids(leases) == [*PRIORITIES], "nothing is left of those that were cancelled"
    assert await _cancel(store) == {lease.message_id: lease.token for lease in leases}
    assert await store.driver.settle([(lease, Release(counted=True)) for lease in leases]) == {*PRIORITIES}
    await store.settle(*((lease, LATER) for lease in await _leases_of_all_levels(store)))
    assert await _cancel(store) == dict.fromkeys(PRIORITIES, "")

    assert await store.keeps_results().fetch_result("high") is not None, "its mark is kept"
    await store.assert_depth()
    await store.assert_nothing_visible()
    assert await store.inspectable().queues() == []


# -- leasing what was released -----------------------------------------------------------------------


@conforms("reserve_released: a message of any level, whose lease names its queue", needs=AGAIN)
async def test_a_released_message_of_any_level_is_leased_again(store: StoreUnderTest) -> None:
    _needs_levels(store)
    driver = store.driver
    assert isinstance(driver, ReservesReleased), f"{driver} claims {AGAIN} and lacks its method"
    leases = await _leases_of_all_levels(store)
    await store.settle(*((lease, LATER) for lease in leases))

    again = await driver.reserve_released(leases, lease_s=LONG_S)

    assert [(lease.message_id, lease.queue) for lease in again] == [(level, Q) for level in PRIORITIES]
    await store.assert_depth(reserved=3)
    for level in PRIORITIES:
        await _assert_shown(store, level, level)
    assert await driver.extend(again, lease_s=LONG_S) == set()
    await store.settle(*((lease, Release(counted=True)) for lease in again))
    assert ids(await store.take(3)) == [*PRIORITIES]
