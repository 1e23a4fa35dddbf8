"""Waiting for work: woken by what becomes visible, never late by much, holding nothing and blocking nobody."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from asynctasq.drivers.base import Driver
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Lease, Release
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, Q, StoreUnderTest, ids, message
from asynctasq.testing.patience import patient_s

WAIT_S = patient_s(30)
PROMPT_S = patient_s(4)
"""Well before `WAIT_S` ends: a reserve that sleeps through a wake-up fails, a slow machine does not."""


def _prompt_s(store: StoreUnderTest) -> float:
    """Return how soon a wake-up must have come; a driver that is not woken by others looks every few seconds."""
    return PROMPT_S * (1 if store.capabilities.wakes_waiting.level == "yes" else 2)


async def _settled_down() -> None:
    """Let a task that was just started get to where it waits. Nothing depends on it having got there."""
    for _ in range(6):
        await asyncio.sleep(0.02)


async def _wakes(
    store: StoreUnderTest, wake: Callable[[], Awaitable[object]], *, driver: Driver | None = None
) -> list[Lease]:
    """Return what a waiting reserve got, having checked that `wake` woke it."""
    waiting = driver or store.driver
    task = asyncio.create_task(waiting.reserve(["urgent", Q], limit=5, lease_s=LONG_S, wait_s=WAIT_S))
    await _settled_down()
    assert not task.done(), "nothing is visible, and reserve did not wait"
    started = time.perf_counter()
    await wake()
    leases = await task
    took_s = time.perf_counter() - started
    assert leases, "reserve waited to its end in spite of a visible message"
    assert took_s < _prompt_s(store), f"reserve woke {took_s:.1f} s after the message was there"
    return leases


@conforms("reserve: at the latest `wait_s` later with none")
async def test_a_wait_ends_with_nothing(store: StoreUnderTest) -> None:
    wait_s = 0.4 if store.exact else 1.0
    started = time.perf_counter()

    assert await store.driver.reserve([Q], limit=1, lease_s=LONG_S, wait_s=wait_s) == []

    assert wait_s * 0.9 <= time.perf_counter() - started < wait_s + PROMPT_S


@conforms("reserve: returns as soon as there is at least one")
async def test_a_wait_does_not_last_when_there_is_something(store: StoreUnderTest) -> None:
    await store.put("m")
    started = time.perf_counter()

    leases = await store.driver.reserve([Q], limit=50, lease_s=LONG_S, wait_s=WAIT_S)

    assert ids(leases) == ["m"]
    assert time.perf_counter() - started < PROMPT_S, "reserve waited for more messages than there were"


@conforms("reserve: waiting sleeps until a wake-up: an enqueue of this instance")
async def test_an_enqueue_wakes_a_waiting_reserve(store: StoreUnderTest) -> None:
    assert ids(await _wakes(store, lambda: store.put("m"))) == ["m"]


@conforms("reserve: a wake-up in any of the queues given")
async def test_every_queue_given_wakes(store: StoreUnderTest) -> None:
    assert ids(await _wakes(store, lambda: store.put("m", queue="urgent"))) == ["m"]
    assert ids(await _wakes(store, lambda: store.put("n"))) == ["n"]


@conforms("reserve: waiting sleeps until a wake-up: an enqueue of another process", needs="cross_process")
async def test_an_enqueue_elsewhere_wakes_a_waiting_reserve(store: StoreUnderTest) -> None:
    other = store.other()

    assert ids(await _wakes(store, lambda: other.enqueue([message("m")]))) == ["m"]
    assert ids(await _wakes(store, lambda: store.put("n"), driver=other)) == ["n"]


@conforms("reserve: waiting sleeps until a wake-up: a release")
async def test_a_release_wakes_a_waiting_reserve(store: StoreUnderTest) -> None:
    lease = await store.lease("m")

    leases = await _wakes(store, lambda: store.settle((lease, Release(counted=True))))

    assert [(one.message_id, one.attempt) for one in leases] == [("m", 2)]


@conforms("reserve: waiting sleeps until a wake-up: a follow-up")
async def test_a_follow_up_wakes_a_waiting_reserve(store: StoreUnderTest) -> None:
    await store.put("m", queue="elsewhere")
    lease = await store.take_one("elsewhere")

    leases = await _wakes(store, lambda: store.settle((lease, Complete(follow_ups=(message("next"),)))))

    assert ids(leases) == ["next"]


@conforms("reserve: waiting sleeps until a wake-up: a redrive", needs="redrive")
async def test_a_redrive_wakes_a_waiting_reserve(store: StoreUnderTest) -> None:
    await store.settle((await store.lease("m"), Bury(reason=DeadReason.FAILED)))

    assert ids(await _wakes(store, lambda: store.driver.redrive(Q, limit=1))) == ["m"]


@conforms("reserve: waiting sleeps until a wake-up: a redrive by id", needs="inspects")
async def test_a_redrive_by_id_wakes_a_waiting_reserve(store: StoreUnderTest) -> None:
    await store.settle((await store.lease("m"), Bury(reason=DeadReason.FAILED)))

    assert ids(await _wakes(store, lambda: store.inspectable().redrive_ids(["m"]))) == ["m"]


@conforms("reserve: waiting sleeps until the next `visible_at`: a delay that ends")
async def test_a_delay_that_ends_ends_the_wait(store: StoreUnderTest) -> None:
    delay_s = 0.6 if store.virtual else 2.0
    await store.put("far", delay_s=600.0)
    await store.put("near", delay_s=delay_s)
    started = time.perf_counter()

    leases = await store.driver.reserve([Q], limit=5, lease_s=LONG_S, wait_s=WAIT_S)

    assert ids(leases) == ["near"]
    assert time.perf_counter() - started < delay_s + PROMPT_S


@conforms("reserve: waiting sleeps until the next `visible_at`, also of what is stored meanwhile")
async def test_a_delay_that_began_meanwhile_ends_the_wait(store: StoreUnderTest) -> None:
    delay_s = 0.5 if store.virtual else 1.0

    leases = await _wakes(store, lambda: store.put("m", delay_s=delay_s))

    assert ids(leases) == ["m"]


@conforms("reserve: waiting sleeps until the next `visible_at`: a lease that ends")
async def test_a_lease_that_ends_ends_the_wait(store: StoreUnderTest) -> None:
    await store.lease("m", lease_s=0.6 if store.virtual else 2.0)
    started = time.perf_counter()

    leases = await store.driver.reserve([Q], limit=5, lease_s=LONG_S, wait_s=WAIT_S)

    assert [(one.message_id, one.crashes) for one in leases] == [("m", 1)]
    assert time.perf_counter() - started < PROMPT_S + 1


@conforms("the worker settles, turns and extends while a reserve of the same instance waits")
async def test_a_waiting_reserve_blocks_no_other_call(store: StoreUnderTest) -> None:
    await store.put("a", "b", queue="other")
    waiting = asyncio.create_task(store.driver.reserve([Q], limit=1, lease_s=LONG_S, wait_s=WAIT_S))
    await _settled_down()
    started = time.perf_counter()

    lease = await store.take_one("other")
    assert await store.driver.extend([lease], lease_s=LONG_S) == set()
    lost, _ = await store.driver.turn([(lease, Complete())], ["other"], limit=1, lease_s=LONG_S)
    await store.driver.depth(Q)
    took_s = time.perf_counter() - started

    assert lost == set()
    assert not waiting.done(), "nothing came into its queue, and the waiting reserve ended"
    assert took_s < PROMPT_S * (1 if store.exact else 3), f"other calls took {took_s:.1f} s while a reserve waited"
    await store.put("m")
    assert ids(await waiting) == ["m"]


@conforms("reserve: several waiting calls, each message to one of them")
async def test_each_message_wakes_somebody_and_goes_to_one(store: StoreUnderTest) -> None:
    calls = [asyncio.create_task(store.driver.reserve([Q], limit=1, lease_s=LONG_S, wait_s=WAIT_S)) for _ in range(4)]
    await _settled_down()
    names = [f"m{number}" for number in range(4)]
    started = time.perf_counter()

    for name in names:
        await store.put(name)
    leases = [lease for leases in await asyncio.gather(*calls) for lease in leases]

    assert sorted(ids(leases)) == names
    assert time.perf_counter() - started < PROMPT_S * 2


@conforms("Every call may be cancelled at any await: cancelling a waiting reserve loses nothing")
async def test_a_cancelled_wait_takes_nothing_with_it(store: StoreUnderTest) -> None:
    for number in range(store.sized(6)):
        waiting = asyncio.create_task(store.driver.reserve([Q], limit=1, lease_s=LONG_S, wait_s=WAIT_S))
        await _settled_down()
        waiting.cancel()
        assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], asyncio.CancelledError)

        lease = await store.lease(f"m{number}")
        await store.settle((lease, Complete()))


@conforms("wait_visible: True as soon as a message is visible", needs="wakes_waiting")
async def test_wait_visible_is_woken_and_takes_nothing(store: StoreUnderTest) -> None:
    waiting = asyncio.create_task(store.notifies().wait_visible(["urgent", Q], wait_s=WAIT_S))
    await _settled_down()
    assert not waiting.done()
    started = time.perf_counter()
    await store.put("m")

    assert await waiting is True

    assert time.perf_counter() - started < PROMPT_S
    await store.assert_depth(ready=1)
    assert await store.notifies().wait_visible([Q], wait_s=WAIT_S) is True, "a message that is visible already"


@conforms("wait_visible: another process enqueues", needs="wakes_waiting")
async def test_wait_visible_is_woken_from_elsewhere(store: StoreUnderTest) -> None:
    other = store.other()
    waiting = asyncio.create_task(store.notifies().wait_visible([Q], wait_s=WAIT_S))
    await _settled_down()
    started = time.perf_counter()
    await other.enqueue([message("m")])

    assert await waiting is True

    assert time.perf_counter() - started < _prompt_s(store)


@conforms("wait_visible: False after `wait_s` seconds", needs="wakes_waiting")
async def test_wait_visible_ends_with_false(store: StoreUnderTest) -> None:
    await store.put("later", delay_s=600.0)
    await store.put("elsewhere", queue="other")
    started = time.perf_counter()

    assert await store.notifies().wait_visible([Q], wait_s=0.4) is False

    assert 0.36 <= time.perf_counter() - started < PROMPT_S


@conforms("wait_visible: sees a delay end", needs="wakes_waiting")
async def test_wait_visible_sees_a_delay_end(store: StoreUnderTest) -> None:
    await store.put("m", delay_s=0.5 if store.virtual else 1.0)
    started = time.perf_counter()

    assert await store.notifies().wait_visible([Q], wait_s=WAIT_S) is True

    assert time.perf_counter() - started < PROMPT_S
    assert ids(await store.take(1)) == ["m"]


@conforms("wait_visible, reserve: a lease that `extend` lets end sooner wakes", needs="wakes_waiting")
async def test_a_lease_made_shorter_ends_the_wait_sooner(store: StoreUnderTest) -> None:
    """Half of the usual time is allowed: a driver that looks every few seconds on the side is not to pass by luck."""
    soon_s = 0.5 if store.virtual else 1.0
    lease = await store.lease("m")
    waiting = asyncio.create_task(store.notifies().wait_visible(["urgent", Q], wait_s=WAIT_S))
    await _settled_down()
    assert not waiting.done()
    started = time.perf_counter()

    assert await store.driver.extend([lease], lease_s=soon_s) == set()

    assert await waiting is True
    took_s = time.perf_counter() - started
    assert took_s < soon_s + _prompt_s(store) / 2, f"the lease ended after {soon_s} s and was seen after {took_s:.1f} s"
    again = await store.take_one()
    elsewhere = store.other() if store.capabilities.cross_process else store.driver
    leases = await _wakes(store, lambda: store.driver.extend([again], lease_s=soon_s), driver=elsewhere)
    assert [(one.message_id, one.crashes) for one in leases] == [("m", 2)]
