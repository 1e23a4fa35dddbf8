"""The driver by itself, step by step in virtual time: what each call must answer is written here, not asked."""

import asyncio

from asynctasq.core.in_flight import InFlightAttempt
from asynctasq.core.progress import ProgressReports
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import AsyncTasqError, ResultNotKept
from asynctasq.kernel.messages import (
    Bury,
    Complete,
    DeadReason,
    ErrorRecord,
    Lease,
    Message,
    Progress,
    Release,
)
from asynctasq.queue import MessageFactory, Queue
from asynctasq.tasks import AsyncTask
from asynctasq.testing import Simulation
from tests.mutants.oracle import want

ERROR = ErrorRecord(type="ValueError", message="why")


async def contract(sim: Simulation) -> None:
    """Walk through leases, settlements, follow-ups, results, counters and what the operator sees."""
    for part in (
        _leases,
        _stale,
        _later,
        _follow_ups,
        _results,
        _waits,
        _holders,
        _tasks,
        _counters,
        _batch,
        _limits,
        _skewed,
        _operator,
    ):
        driver = MemoryDriver(clock=sim.clock)
        await part(sim, driver)
        await driver.close()


def _message(name: str, *, delay_s: float = 0.0, queue: str = "q") -> Message:
    return Message(id=name, queue=queue, body=name.encode(), delay_s=delay_s)


async def _take(driver: MemoryDriver, limit: int = 10) -> list[Lease]:
    return await driver.reserve(["q"], limit=limit, lease_s=10)


async def _leases(sim: Simulation, driver: MemoryDriver) -> None:
    await driver.enqueue([_message("a")])
    [first] = await _take(driver)
    want(first.expires_at == sim.clock.now() + 10, "lease", f"ends at {first.expires_at}")
    await asyncio.sleep(9.999999)
    want(await _take(driver) == [], "lease", "given out again a microsecond before its end")
    want(await driver.extend([first], lease_s=10) == set(), "lease", "could not be renewed in time")
    await asyncio.sleep(9.999999)
    want(await _take(driver) == [], "lease", "a renewed one did not last as long as asked")
    await asyncio.sleep(0.000001)
    taken = await _take(driver)
    want(len(taken) == 1, "lease", "not given out at its end")
    want(taken[0].token != first.token, "lease", "two leases have one token")
    want((taken[0].attempt, taken[0].crashes) == (1, 1), "lease", f"an expired one counted wrongly: {taken[0]}")
    want(await driver.extend([first], lease_s=10) == {"a"}, "lease", "a lost one could be renewed")


async def _stale(sim: Simulation, driver: MemoryDriver) -> None:
    await driver.enqueue([_message("a")])
    [first] = await _take(driver)
    await asyncio.sleep(11)
    [second] = await _take(driver)
    lost = await driver.settle([(first, Complete())])
    want(lost == {"a"}, "stale", "a stale token settled")
    want(await driver.settle([(second, Complete())]) == set(), "stale", "the holder could not settle")
    want(await driver.settle([(second, Release(counted=True))]) == {"a"}, "stale", "settled twice")
    await driver.enqueue([_message("a")])
    [third] = await _take(driver)
    want(third.token not in (first.token, second.token), "stale", "a token came again")


async def _later(sim: Simulation, driver: MemoryDriver) -> None:
    """A settlement after the lease's end counts while nobody else has reserved."""
    await driver.enqueue([_message("a")])
    [lease] = await _take(driver)
    await asyncio.sleep(11)
    want(await driver.settle([(lease, Complete())]) == set(), "late settle", "refused though nobody had it")
    want(await _take(driver) == [], "late settle", "it came again")


async def _follow_ups(sim: Simulation, driver: MemoryDriver) -> None:
    await driver.enqueue([_message("a"), _message("lost")])
    first, stale = await _take(driver)
    await asyncio.sleep(11)
    await _take(driver)
    await driver.settle([(stale, Complete(follow_ups=(_message("never"),)))])
    want(await driver.find("never") is None, "follow-ups", "of a stale settlement were stored")
    [again] = [lease for lease in await _retake(driver) if lease.message_id == "a"]
    await driver.settle([(again, Complete(follow_ups=(_message("b"), _message("c"))))])
    ids = [lease.message_id for lease in await _take(driver)]
    want(ids == ["b", "c"], "follow-ups", f"brought {ids}")
    want(first.message_id == "a", "order", "the first was not first")


async def _retake(driver: MemoryDriver) -> list[Lease]:
    await asyncio.sleep(11)
    return await _take(driver)


async def _results(sim: Simulation, driver: MemoryDriver) -> None:
    await driver.enqueue([_message("a")])
    [lease] = await _take(driver)
    await driver.settle([(lease, Complete(result=b"r", result_ttl_s=60))])
    want(await driver.fetch_result("a") == b"r", "results", "not kept")
    await asyncio.sleep(59)
    want(await driver.fetch_result("a") == b"r", "results", "not kept as long as asked")
    await asyncio.sleep(1)
    want(await driver.fetch_result("a") is None, "results", "kept too long")


async def _waits(sim: Simulation, driver: MemoryDriver) -> None:
    """Wait for ends: of what completes, dies, is retried, and of what was never there."""
    await driver.enqueue([_message("a"), _message("b"), _message("c")])
    a, b, c = await _take(driver)
    waits = [asyncio.create_task(driver.wait_result(name, wait_s=5)) for name in ("a", "b", "c")]
    await asyncio.sleep(1)
    await driver.settle([(a, Complete(result=b"r", result_ttl_s=60)), (c, Release(counted=True, error=ERROR))])
    await driver.settle([(b, Bury(reason=DeadReason.FAILED, error=ERROR))])
    await asyncio.sleep(0.5)
    want([wait.done() for wait in waits] == [True, True, False], "waits", "an end was not told, or one that is none")
    want(not await driver.wait_result("c", wait_s=1), "waits", "a retry was taken for the end")
    began = sim.clock.now()
    want([await driver.wait_result(name, wait_s=9) for name in "abx"] == [True] * 3, "waits", "an end was not seen")
    want(sim.clock.now() == began, "waits", "who came late had to wait")
    want(await asyncio.gather(*waits) == [True, True, False], "waits", "the answers are others")


async def _holders(sim: Simulation, driver: MemoryDriver) -> None:
    """Look at who holds a lease, and at the progress, from one lease to the next."""
    await driver.enqueue([_message("a")])
    driver.holder = "w1"
    [first] = await _take(driver)
    await driver.report_progress([(first, Progress(1, 2))])
    want(await _lease_of(driver) == ("w1", Progress(1, 2)), "holders", f"after a report {await _lease_of(driver)}")
    driver.holder = "w2"
    [second] = await _retake(driver)
    want(await _lease_of(driver) == ("w2", None), "holders", f"after a takeover {await _lease_of(driver)}")
    await driver.report_progress([(first, Progress(2, 2))])
    want(await _lease_of(driver) == ("w2", None), "holders", "a stale token reported")
    await driver.report_progress([(second, Progress(1, 2))])
    await driver.settle([(second, Release(counted=True))])
    want(await _lease_of(driver) == ("", None), "holders", f"after its end {await _lease_of(driver)}")
    await _take(driver)
    want(await _lease_of(driver) == ("w2", None), "holders", f"in the next attempt {await _lease_of(driver)}")


async def _lease_of(driver: MemoryDriver) -> tuple[str, Progress | None]:
    found = await driver.find("a")
    want(found is not None, "holders", "the message is gone")
    assert found is not None
    return found.reserved_by, found.progress


class _Kept(AsyncTask[int]):
    keep_result = True

    async def execute(self) -> int:
        return 1


class _Dropped(AsyncTask[int]):
    async def execute(self) -> int:
        return 1


async def _tasks(sim: Simulation, driver: MemoryDriver) -> None:
    """Ask for results by their ids, and report more often than is written."""
    other = MemoryDriver(clock=sim.clock)
    _Kept._driver_override = other
    queue = Queue(driver, factory=MessageFactory(clock=sim.clock))
    kept, dropped = await queue.dispatch([_Kept(), _Dropped()])
    [lease] = await other.reserve(["default"], limit=1, lease_s=10)
    await other.settle([(lease, Complete(result=b"\x01", result_ttl_s=60))])
    want(await _answer(queue, kept, _Kept) == 1, "tasks", "the result is not found where its task went")
    told = await _answer(queue, dropped, _Dropped)
    want(isinstance(told, ResultNotKept), "tasks", f"a task that keeps no result: {told!r}")
    await driver.enqueue([_message("a")])
    [lease] = await _take(driver)
    reports, attempt = ProgressReports(driver, clock=sim.clock, limit_s=1), InFlightAttempt(lease, 10.0)
    for done in range(4):
        reports.add(attempt, Progress(done, 9))
        if done:
            await reports.write()
    want(await _lease_of(driver) == ("", Progress(1, 9)), "tasks", f"reported at once: {await _lease_of(driver)}")
    await asyncio.sleep(1)
    await reports.write()
    want(await _lease_of(driver) == ("", Progress(3, 9)), "tasks", f"a second later: {await _lease_of(driver)}")


async def _answer(queue: Queue, task_id: str, task: type[AsyncTask[int]]) -> object:
    try:
        return await queue.result(task_id, task=task, timeout_s=1)
    except (AsyncTasqError, TimeoutError) as error:
        return error


async def _counters(sim: Simulation, driver: MemoryDriver) -> None:
    await driver.enqueue([_message("a")])
    [lease] = await _take(driver)
    await driver.settle([(lease, Release(counted=False, crashed=True, error=ERROR))])
    again = await driver.settle([(lease, Complete())])
    want(again == {"a"}, "counters", "a lease that was given back settled")
    [lease] = await _take(driver)
    want((lease.attempt, lease.crashes) == (1, 1), "counters", f"after a crash: {lease}")
    await driver.settle([(lease, Release(counted=True, delay_s=3))])
    stored = await driver.find("a")
    want(stored is not None and stored.error == ERROR, "counters", "the last error is gone")
    await asyncio.sleep(2.999999)
    want(await _take(driver) == [], "counters", "released too early")
    await asyncio.sleep(0.000001)
    [lease] = await _take(driver)
    want((lease.attempt, lease.crashes) == (2, 1), "counters", f"after a retry: {lease}")
    await driver.settle([(lease, Bury(reason=DeadReason.FAILED, counted=True, error=ERROR))])
    stored = await driver.find("a")
    told = None if stored is None else (stored.attempts, stored.crashes, stored.reason, stored.error)
    want(told == (2, 1, DeadReason.FAILED, ERROR), "counters", f"a dead letter says {told}")
    await driver.redrive("q", limit=1)
    [lease] = await _take(driver)
    want((lease.attempt, lease.crashes) == (1, 0), "counters", f"after a redrive: {lease}")


async def _batch(sim: Simulation, driver: MemoryDriver) -> None:
    await driver.enqueue([_message(name) for name in "abcd"])
    leases = await _take(driver)
    await asyncio.sleep(1)
    lost = await driver.settle([(lease, Complete()) for lease in leases])
    want(lost == set(), "batch", f"{lost} are lost")
    alive = [name for name in "abcd" if await driver.find(name)]
    want(alive == [], "batch", f"{alive} were not settled")


async def _limits(sim: Simulation, driver: MemoryDriver) -> None:
    stored = await driver.enqueue([_message("a"), _message("a"), _message("b")])
    want(stored == ["a", "b"], "ids", f"an id stored twice: {stored}")
    want(await driver.enqueue([_message("a")]) == [], "ids", "an id that lives stored again")
    want(len(await _take(driver, limit=1)) == 1, "limit", "more than asked for")
    await driver.enqueue([_message("c"), _message("d", delay_s=0.0000001)])
    ids = [lease.message_id for lease in await _take(driver)]
    want(ids == ["b", "c"], "order", f"equal times in the order {ids}")
    await asyncio.sleep(0.000001)
    want([lease.message_id for lease in await _take(driver)] == ["d"], "order", "a due one does not come")


async def _skewed(sim: Simulation, driver: MemoryDriver) -> None:
    """The wall clock of whoever asks says nothing: a driver has one clock."""
    ahead = MemoryDriver(clock=sim.clock, clock_offset=50)
    await ahead.enqueue([_message("a", delay_s=20)])
    want(await _take(ahead) == [], "clock", "came early on a clock that is ahead")
    await asyncio.sleep(20)
    [lease] = await _take(ahead)
    want(lease.expires_at == sim.clock.now() + 60, "clock", "a lease is not on the driver's clock")


async def _operator(sim: Simulation, driver: MemoryDriver) -> None:
    await driver.enqueue([_message("ready"), _message("later", delay_s=30), _message("gone", delay_s=30)])
    want(await driver.cancel(["gone", "none"]) == {"gone"}, "cancel", "not exactly what was there")
    [lease] = await _take(driver)
    want(await driver.cancel([lease.message_id]) == set(), "cancel", "a running one")
    depth = await driver.depth("q")
    counts = (depth.ready, depth.scheduled, depth.reserved, depth.dead)
    want(counts == (0, 1, 1, 0), "depth", f"counts {counts}")
    await asyncio.sleep(30)
    want([found.message_id for found in await _take(driver)] == ["ready", "later"], "cancel", "what is left is wrong")
