"""Moments in a worker's life that a seed once found to go wrong; each is told by hand here."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from collections.abc import Set as AbstractSet
from random import Random
from typing import Any

import pytest

from asynctasq.core.in_flight import InFlightAttempt
from asynctasq.core.leases import LoopLeaseRenewer
from asynctasq.core.runtime import SimulatedRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Settlements
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import DriverUnavailable
from asynctasq.kernel.ledger import Kind, check
from asynctasq.kernel.messages import Depth, Lease
from asynctasq.queue import MessageFactory
from asynctasq.tasks import AsyncTask
from asynctasq.tasks.application import Application
from asynctasq.testing import Delay, Duplicate, FailBefore, FakeQueue, VirtualClock
from asynctasq.testing.loop import SimulationLoop

RAN: Counter[str] = Counter()
UNEVEN_S = 50.00625
"""From here on a third of a lease is, as a difference of floats, at times less than a third."""
INEXACT_US = 24_871_210
"""Thirty seconds later, as a sum of floats, is later than the clock will ever show."""


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


class Long(AsyncTask[None]):
    max_attempts = 1

    async def execute(self) -> None:
        RAN["begun"] += 1
        await asyncio.sleep(100)

    def failed(self, exception: Exception) -> None:
        RAN["failed"] += 1


def worker_on(driver: MemoryDriver, clock: VirtualClock) -> Worker:
    settings = WorkerSettings(application=Application(), handle_signals=False)
    return Worker(driver, settings=settings, runtime=SimulatedRuntime(clock=clock, rng=Random(1), name="w"))


async def ready(driver: MemoryDriver, clock: VirtualClock) -> None:
    await driver.enqueue([MessageFactory(clock=clock).message(Long())])


def run(clock: VirtualClock, program: Coroutine[Any, Any, Depth]) -> Depth:
    return SimulationLoop(clock=clock).run(program)


def test_an_attempt_that_is_interrupted_before_its_first_step_is_handed_back() -> None:
    class StopsWhenItGives(MemoryDriver):
        async def turn(
            self, settlements: Settlements, queues: Sequence[str], *, limit: int, lease_s: float
        ) -> tuple[AbstractSet[str], list[Lease]]:
            reply = await super().turn(settlements, queues, limit=limit, lease_s=lease_s)
            if reply[1]:
                worker.stop(immediate=True)
            return reply

    clock = VirtualClock()
    driver = StopsWhenItGives(clock=clock)
    worker = worker_on(driver, clock)

    async def program() -> Depth:
        await ready(driver, clock)
        await worker.start()
        return await driver.depth("default")

    assert run(clock, program()).ready == 1
    assert worker.idle
    assert RAN == {}


def test_a_worker_that_gets_its_own_message_again_goes_on_with_the_newer_lease() -> None:
    with FakeQueue(workers=1, faults=[Duplicate()]) as queue:
        Long().dispatch_sync()
        queue.run_until_idle_sync()

    kinds = Counter(entry.kind for entry in queue.ledger)
    assert check(queue.ledger) == []
    assert (kinds[Kind.RESERVED], kinds[Kind.LOST], kinds[Kind.SETTLED]) == (2, 1, 1)
    assert RAN == {"begun": 2}
    queue.assert_completed(Long)


def test_a_late_answer_about_an_older_lease_does_not_end_the_newer_one() -> None:
    clock = VirtualClock()
    lost: list[AbstractSet[str]] = []

    class TakesOverMeanwhile(MemoryDriver):
        async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
            renewer.add(held("2"))
            return {lease.message_id for lease in leases}

    def held(token: str) -> InFlightAttempt:
        lease = Lease(
            message_id="m", queue="q", body=b"", token=token, attempt=1, crashes=0, enqueued_at=0, expires_at=30
        )
        return InFlightAttempt(lease, deadline=clock.monotonic() + 30)

    renewer = LoopLeaseRenewer(TakesOverMeanwhile(clock=clock), lease_s=30, clock=clock, record=None, worker="w")

    async def program() -> None:
        renewer.start(lost.append)
        renewer.add(held("1"))
        await asyncio.sleep(11)
        renewer.remove(held("1"))
        await renewer.stop()

    SimulationLoop(clock=clock).run(program())

    assert lost == []
    assert len(renewer._renewals) == 1


def test_a_worker_may_be_stopped_before_it_starts() -> None:
    clock = VirtualClock()
    driver = MemoryDriver(clock=clock)
    worker = worker_on(driver, clock)

    async def program() -> Depth:
        await ready(driver, clock)
        worker.stop()
        await worker.start()
        return await driver.depth("default")

    assert run(clock, program()).ready == 1


class SlowToFail(MemoryDriver):
    """Its backend is away, and that takes a second to find out."""

    calls = 0

    async def turn(self, *_: Any, **__: Any) -> Any:
        self.calls += 1
        await asyncio.sleep(1)
        raise DriverUnavailable("away")


@pytest.mark.parametrize("immediate", [True, False])
@pytest.mark.parametrize("call", range(1, 12))
def test_a_stop_during_a_call_that_fails_is_not_slept_over(call: int, immediate: bool) -> None:
    clock = VirtualClock()
    driver = SlowToFail(clock=clock)
    worker = worker_on(driver, clock)

    async def seconds_to_stop() -> float:
        running = asyncio.get_running_loop().create_task(worker.start())
        while driver.calls < call:
            await asyncio.sleep(0.01)
        asked = clock.monotonic()
        worker.stop(immediate=immediate)
        await running
        return clock.monotonic() - asked

    assert SimulationLoop(clock=clock).run(seconds_to_stop()) <= 1


def test_a_drain_ends_at_its_deadline_whatever_the_sum_of_floats_is() -> None:
    clock = VirtualClock()
    clock.move_to_us(INEXACT_US)
    assert clock.monotonic() + 30.0 > (INEXACT_US + 30_000_000) / 1e6
    driver = MemoryDriver(clock=clock)
    worker = worker_on(driver, clock)

    async def program() -> Depth:
        await ready(driver, clock)
        running = asyncio.get_running_loop().create_task(worker.start())
        while not RAN["begun"]:
            await asyncio.sleep(0)
        worker.stop()
        await running
        return await driver.depth("default")

    assert run(clock, program()).ready == 1
    assert clock.elapsed_us == INEXACT_US + 30_000_000


def test_a_worker_that_is_cancelled_fails_none_of_its_tasks() -> None:
    clock = VirtualClock()
    driver = MemoryDriver(clock=clock)

    async def program() -> Depth:
        await ready(driver, clock)
        running = asyncio.get_running_loop().create_task(worker_on(driver, clock).start())
        await asyncio.sleep(1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return await driver.depth("default")

    depth = run(clock, program())

    assert RAN == {"begun": 1}
    assert (depth.dead, depth.reserved) == (0, 1)


@pytest.mark.parametrize("nth", range(1, 5))
def test_one_failed_renewal_and_a_slow_one_cost_no_lease(nth: int) -> None:
    slow = Delay(at="extend:before", seconds=0.01, nth=nth + 1)
    with FakeQueue(workers=2, faults=[FailBefore(at="extend", nth=nth), slow]) as queue:
        Long().delay(UNEVEN_S).dispatch_sync()
        queue.run_until_idle_sync()

    assert RAN == {"begun": 1}
    assert check(queue.ledger, exact=True) == []


def test_a_renewal_that_hangs_is_given_up_and_tried_again_in_time() -> None:
    with FakeQueue(workers=2, faults=[Delay(at="extend:before", seconds=60)]) as queue:
        Long().dispatch_sync()
        queue.run_until_idle_sync()

    assert RAN == {"begun": 1}
