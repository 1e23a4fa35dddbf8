"""What a running task reports of its progress: shown while it runs, and never a reason to fail."""

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import pytest

from asynctasq import AsyncTask, SyncProcessTask, SyncTask, current_task, task
from asynctasq.core.in_flight import InFlightAttempt
from asynctasq.core.leases import LoopLeaseRenewer
from asynctasq.core.progress import ProgressReports
from asynctasq.core.runtime import WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import NO, Driver
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import DriverUnavailable
from asynctasq.kernel.messages import PROGRESS_CHARS_MAX, Lease, Message, Progress, State
from asynctasq.queue import Queue
from asynctasq.tasks.application import Application
from asynctasq.testing import FakeQueue
from asynctasq.testing.clock import VirtualClock
from tests.patience import SOON_S, until

GO = threading.Event()
RUNS = threading.Event()


class Imports(AsyncTask[str]):
    async def execute(self) -> str:
        await self.report_progress(1, 4, "rows")
        await asyncio.sleep(5)
        await self.report_progress(4, 4, "rows")
        return "done"


class ReportsOften(AsyncTask[None]):
    async def execute(self) -> None:
        for number in range(1000):
            self.report_progress(number, 1000)
            await asyncio.sleep(0.01)


class InThread(SyncTask[None]):
    def execute(self) -> None:
        self.report_progress(1, 2, "halves")
        RUNS.set()
        GO.wait(SOON_S)


class InChild(SyncProcessTask[str]):
    def execute(self) -> str:
        self.report_progress(1, 2)
        return "reported"


class Wrong(AsyncTask[None]):
    async def execute(self) -> None:
        await self.report_progress(3, 2)


@task
async def by_function() -> None:
    await current_task().report_progress(1, 2)


class Counts(MemoryDriver):
    """Counts its writes, and refuses them while it is told to."""

    def __init__(self, *, clock: VirtualClock | None = None) -> None:
        super().__init__(clock=clock)
        self.written: list[list[Progress]] = []
        self.refuses = False

    async def report_progress(self, reports: Sequence[tuple[Lease, Progress]]) -> None:
        self.written.append([progress for _, progress in reports])
        if self.refuses:
            raise DriverUnavailable("not now")
        await super().report_progress(reports)


def settings() -> WorkerSettings:
    return WorkerSettings(application=Application(), handle_signals=False, lease_s=6)


# -- in a FakeQueue ------------------------------------------------------------------------------


async def test_the_status_shows_progress_while_the_task_runs() -> None:
    async with FakeQueue() as queue:
        handle = await Imports().with_options(keep_result=True).dispatch()
        seen = []

        class Looks(AsyncTask[None]):
            async def execute(self) -> None:
                await asyncio.sleep(2)
                seen.append(await handle.status())

        await Looks().dispatch()
        await queue.drain()

        [status] = seen
        assert (status.state, status.progress, status.worker) == (State.RESERVED, Progress(1, 4, "rows"), "w1")
        assert (await handle.status()).progress is None
        assert queue.history(Imports).attempts[0].progress == [Progress(1, 4, "rows"), Progress(4, 4, "rows")]


def test_perform_tells_what_was_reported() -> None:
    with FakeQueue() as queue:
        assert queue.perform_sync(Imports()).progress == [Progress(1, 4, "rows"), Progress(4, 4, "rows")]
        assert queue.perform_sync(by_function()).progress == [Progress(1, 2)]


def test_a_child_process_reports_nothing_and_does_not_fail() -> None:
    with FakeQueue() as queue:
        done = queue.perform_sync(InChild())

    assert (done.value, list(done.progress)) == ("reported", [])


def test_a_progress_that_can_not_be_is_an_error_of_the_task() -> None:
    with FakeQueue() as queue:
        done = queue.perform_sync(Wrong())

    assert isinstance(done.exception, ValueError)
    assert str(done.exception) == "the progress is 3 of 2; it can't be more than all"


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [(-1, 2, ""), (1, float("nan"), ""), (float("inf"), float("inf"), ""), (True, 2, ""), ("1", 2, ""),
     (1, 2, "x" * (PROGRESS_CHARS_MAX + 1)), (1, 2, None)],
)  # fmt: skip
def test_what_is_no_progress_is_refused(done: float, total: float, text: str) -> None:
    with pytest.raises(ValueError, match="progress"):
        Imports().report_progress(done, total, text)


async def test_outside_of_an_attempt_nothing_is_reported() -> None:
    await Imports().report_progress(0, 0)


# -- in a worker ---------------------------------------------------------------------------------


async def test_a_thread_reports_and_the_worker_is_named() -> None:
    GO.clear()
    RUNS.clear()
    driver = MemoryDriver()
    queue = Queue(driver)
    [task_id] = await queue.dispatch([InThread()])
    worker = Worker(driver, max_tasks=1, settings=settings())
    running = asyncio.create_task(worker.start())

    async def reported() -> bool:
        return RUNS.is_set() and (await queue.status(task_id)).progress is not None

    await until(reported)
    status = await queue.status(task_id)
    GO.set()
    await running

    assert (status.progress, status.worker) == (Progress(1, 2, "halves"), worker.name)


async def test_a_driver_that_stores_no_progress_is_not_asked_to() -> None:
    driver = Counts()
    driver.capabilities = replace(driver.capabilities, reports_progress=NO)
    reports = ProgressReports(driver, clock=VirtualClock(), limit_s=1)

    reports.add(await _attempt(driver), Progress(1, 2))
    await reports.write()

    assert (driver.written, reports.latest) == ([], {})


async def _runs() -> None:
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


async def _attempt(driver: Driver) -> InFlightAttempt:
    await driver.enqueue([Message(id="m", queue="default", body=b"")])
    [lease] = await driver.reserve(["default"], limit=1, lease_s=30)
    attempt = InFlightAttempt(lease, deadline=30.0)
    attempt.asyncio_task = asyncio.create_task(_runs())
    return attempt


async def test_the_latest_report_is_written_once_a_second_at_most() -> None:
    clock = VirtualClock()
    driver = Counts(clock=clock)
    attempt = await _attempt(driver)
    reports = ProgressReports(driver, clock=clock, limit_s=1)

    for number in range(3):
        reports.add(attempt, Progress(number, 9))
    await reports.write()
    reports.add(attempt, Progress(3, 9))
    reports.add(attempt, Progress(4, 9))
    await reports.write()
    assert driver.written == [[Progress(2, 9)]]
    assert reports.due_in_s() == 1.0
    clock.advance(seconds=1)
    await reports.write()

    assert driver.written == [[Progress(2, 9)], [Progress(4, 9)]]


async def test_what_can_not_be_stored_is_logged_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    clock = VirtualClock()
    driver = Counts(clock=clock)
    attempt = await _attempt(driver)
    reports = ProgressReports(driver, clock=clock, limit_s=1)
    driver.refuses = True

    reports.add(attempt, Progress(1, 9))
    for _ in range(3):
        await reports.write()
        clock.advance(seconds=1)
    driver.refuses = False
    await reports.write()

    assert [record.getMessage() for record in caplog.records] == [
        "the progress of 1 tasks can't be stored, and is tried again: not now"
    ]
    found = await driver.find("m")
    assert found is not None
    assert found.progress == Progress(1, 9)
    assert reports.latest == {}


def test_a_task_that_reports_all_the_time_is_written_once_a_second() -> None:
    with FakeQueue() as queue:
        written: list[object] = []
        store = queue.driver
        original = store.report_progress  # type: ignore[attr-defined] # pyright: ignore

        async def report_progress(reports: Sequence[tuple[Lease, Progress]]) -> None:
            written.extend(progress for _, progress in reports)
            await original(reports)

        store.report_progress = report_progress  # type: ignore[attr-defined] # pyright: ignore
        ReportsOften().dispatch_sync()
        queue.drain_sync()

    assert 10 <= len(written) <= 11
    assert len(queue.history(ReportsOften).attempts[0].progress) == 1000


async def test_what_an_attempt_reported_at_its_end_is_not_written() -> None:
    clock = VirtualClock()
    driver = Counts(clock=clock)
    attempt = await _attempt(driver)
    renewer = LoopLeaseRenewer(driver, lease_s=30, clock=clock, record=None, worker="w")
    renewer.start(lambda lost: None)
    renewer.add(attempt)

    renewer.report(attempt, Progress(1, 9))
    renewer.remove(attempt)
    for _ in range(3):
        await asyncio.sleep(0)
    await renewer.stop()

    assert driver.written == []
