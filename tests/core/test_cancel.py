"""Tasks that are cancelled while a worker runs them: how they end, what their hooks hear, what the worker says."""

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from asynctasq import AsyncProcessTask, AsyncTask, SyncProcessTask, SyncTask, current_task, task
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import NO, Driver, Settlements
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.errors import TaskCancelledError, TaskDefinitionError, UnsupportedFeature
from asynctasq.kernel.ledger import Entry, Kind, check
from asynctasq.kernel.messages import State
from asynctasq.queue import Queue
from asynctasq.tasks.application import Application
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.cancellation import Cancellation
from tests.patience import SOON_S, until, wait_until

LONG_S = 3600.0
SEEN: list[Any] = []
GO = threading.Event()
RUNS = threading.Event()
FILE = ""
AGAIN = "6f1b0c56-36a8-4d0e-9c5a-0b52f3b1a111"


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    SEEN.clear()
    GO.clear()
    RUNS.clear()


class Sleeps(AsyncTask[str]):
    keep_result = True

    async def execute(self) -> str:
        SEEN.append(("runs", self.is_cancelled))
        try:
            await asyncio.sleep(LONG_S)
        except asyncio.CancelledError:
            SEEN.append(("cancelled", self.is_cancelled))
            raise
        return "slept"

    async def cancelled(self) -> None:
        SEEN.append(("hook", self.is_cancelled))


class GoesOn(AsyncTask[str]):
    keep_result = True

    async def execute(self) -> str:
        SEEN.append("runs")
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(LONG_S)
        await asyncio.sleep(0.01)
        SEEN.append("went on")
        return "all the same"

    def cancelled(self) -> None:
        SEEN.append(("hook", threading.current_thread() is not threading.main_thread()))


class InThread(SyncTask[str]):
    def execute(self) -> str:
        SEEN.append(("runs", self.is_cancelled))
        RUNS.set()
        wait_until(lambda: self.is_cancelled)
        SEEN.append("flagged")
        GO.wait(SOON_S)
        SEEN.append("ended")
        return "ended"

    async def cancelled(self) -> None:
        SEEN.append("hook")


class StuckThread(SyncTask[None]):
    def execute(self) -> None:
        RUNS.set()
        GO.wait(SOON_S)

    def cancelled(self) -> None:
        SEEN.append("hook")


class InChild(SyncProcessTask[None]):
    path: str

    def execute(self) -> None:
        assert not self.is_cancelled
        Path(self.path).write_text(str(os.getpid()), encoding="utf-8")
        threading.Event().wait(LONG_S)

    async def cancelled(self) -> None:
        SEEN.append(("hook", Path(self.path).name))


class InChildsLoop(AsyncProcessTask[None]):
    path: str

    async def execute(self) -> None:
        Path(self.path).write_text(str(os.getpid()), encoding="utf-8")
        await asyncio.sleep(LONG_S)


@task
async def sleeps_by_function() -> None:
    try:
        await asyncio.sleep(LONG_S)
    finally:
        SEEN.append(current_task().is_cancelled)


class HookFails(Sleeps):
    async def cancelled(self) -> None:
        raise RuntimeError("clean-up failed")


class HookHangs(Sleeps):
    async def cancelled(self) -> None:
        SEEN.append("hook hangs")
        await asyncio.sleep(LONG_S)


class FailsSlowly(AsyncTask[None]):
    """Is cancelled while its `failed` runs."""

    max_attempts = 1

    async def execute(self) -> None:
        raise ValueError("no")

    async def failed(self, exception: Exception) -> None:
        SEEN.append("failed begins")
        await asyncio.sleep(LONG_S)

    async def cancelled(self) -> None:
        SEEN.append("hook")


class SettlesLate(MemoryDriver):
    """Is told of an end only when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.may_settle, self.asked = asyncio.Event(), asyncio.Event()

    async def turn(self, settlements: Settlements, *queues: Any, **options: Any) -> Any:
        if settlements:
            self.asked.set()
            await self.may_settle.wait()
        return await super().turn(settlements, *queues, **options)


class Quick(AsyncTask[str]):
    keep_result = True

    async def execute(self) -> str:
        return "done"

    async def cancelled(self) -> None:
        SEEN.append("hook")


class FailsQuickly(Quick):
    async def execute(self) -> str:
        raise ValueError("no")


@asynccontextmanager
async def worker_on(driver: Driver, *, judged: bool = True, **changes: Any) -> AsyncIterator[list[Entry]]:
    """Run a worker; its ledger, which lacks what others did, is judged at the end."""
    ledger: list[Entry] = []
    given: dict[str, Any] = {"application": Application(), "handle_signals": False, "shutdown_timeout_s": 0.0}
    worker = Worker(
        driver,
        settings=WorkerSettings(**{**given, **changes}),
        runtime=ProductionRuntime(record=ledger.append),
        process_pool_size=1,
    )
    running = asyncio.create_task(worker.start())
    try:
        yield ledger
    finally:
        worker.stop()
        await running
    known = "a worker took it for cancelled, and it was not"
    assert not judged or [violation for violation in check(ledger) if violation.text != known] == []


def kinds(ledger: list[Entry]) -> list[str]:
    return [entry.kind.value for entry in ledger if entry.kind is not Kind.HOOK]


async def dispatched(driver: Driver, one: BaseTask[Any]) -> tuple[Queue, str]:
    queue = Queue(driver)
    [task_id] = await queue.dispatch([one])
    return queue, task_id


def drivers(tmp_path: Path) -> list[Driver]:
    return [MemoryDriver(), SQLiteDriver(tmp_path / "queue.db")]


# -- each kind of task ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
async def test_a_running_task_is_cancelled_and_its_hook_called(
    number: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    driver = drivers(tmp_path)[number]
    caplog.set_level(logging.INFO, "asynctasq")
    queue, task_id = await dispatched(driver, Sleeps())
    async with worker_on(driver) as ledger:
        await until(lambda: SEEN)
        waiting = asyncio.create_task(queue.result(task_id))

        assert await queue.cancel(task_id) is Cancellation.RUNNING

        await until(lambda: len(SEEN) == 3)
        with pytest.raises(TaskCancelledError, match=f"task {task_id} was cancelled"):
            await asyncio.wait_for(waiting, SOON_S)
        assert (await queue.status(task_id)).state is State.CANCELLED
        assert (await queue.status(task_id)).ended
        assert await queue.cancel(task_id) is Cancellation.RUNNING, "the answer to an earlier call may have been lost"

    assert SEEN == [("runs", False), ("cancelled", True), ("hook", True)]
    assert kinds(ledger) == ["reserved", "started", "ended", "cancelled", "stopped"]
    assert f"{Sleeps._task_name} (message {task_id}) was cancelled; its attempt ends" in caplog.text
    assert "lost" not in caplog.text


async def test_what_goes_on_changes_nothing_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    driver = MemoryDriver()
    queue, task_id = await dispatched(driver, GoesOn())
    async with worker_on(driver) as ledger:
        await until(lambda: SEEN)

        await queue.cancel(task_id)

        await until(lambda: len(SEEN) == 3)

    assert SEEN == ["runs", "went on", ("hook", True)]
    assert "went on after it was cancelled; what came of it is discarded" in caplog.text
    assert "settled" not in kinds(ledger)
    with pytest.raises(TaskCancelledError):
        await queue.result(task_id)


async def test_a_thread_is_flagged_and_waited_for() -> None:
    driver = MemoryDriver()
    queue, task_id = await dispatched(driver, InThread())
    async with worker_on(driver) as ledger:
        await asyncio.to_thread(RUNS.wait, SOON_S)

        assert await queue.cancel(task_id) is Cancellation.RUNNING

        await until(lambda: "flagged" in SEEN)
        assert "hook" not in SEEN, "the thread still runs"
        GO.set()
        await until(lambda: "hook" in SEEN)

    assert SEEN == [("runs", False), "flagged", "ended", "hook"]
    assert "settled" not in kinds(ledger)


async def test_a_thread_that_does_not_end_is_abandoned(caplog: pytest.LogCaptureFixture) -> None:
    driver = MemoryDriver()
    queue, task_id = await dispatched(driver, StuckThread())
    async with worker_on(driver, abandon_s=0.05):
        await asyncio.to_thread(RUNS.wait, SOON_S)

        await queue.cancel(task_id)

        await until(lambda: "hook" in SEEN)
        GO.set()

    assert "still runs 0.05 s after it was cancelled; its thread is abandoned" in caplog.text


async def test_a_coroutine_that_does_not_end_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn(AsyncTask[None]):
        async def execute(self) -> None:
            SEEN.append("runs")
            while not GO.is_set():
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)

    driver = MemoryDriver()
    queue, task_id = await dispatched(driver, Stubborn())
    async with worker_on(driver, abandon_s=0.05):
        await until(lambda: SEEN)

        await queue.cancel(task_id)

        await until(lambda: "it keeps its slot until it ends" in caplog.text)
        GO.set()
        await until(lambda: "went on after" in caplog.text)


@pytest.mark.parametrize("kind", [InChild, InChildsLoop])
async def test_a_child_process_is_killed_and_replaced(kind: Any, tmp_path: Path) -> None:
    driver, path = SQLiteDriver(tmp_path / "queue.db"), tmp_path / "pid"
    queue, task_id = await dispatched(driver, kind(path=str(path)))
    async with worker_on(driver):
        pid = int(await until(lambda: path.exists() and path.read_text(encoding="utf-8")))

        assert await queue.cancel(task_id) is Cancellation.RUNNING

        await until(lambda: not _lives(pid), "the child is dead")
        path.unlink()
        await queue.dispatch([kind(path=str(path))])
        await until(lambda: path.exists() and path.read_text(encoding="utf-8"), "the next task has a child")

    assert [("hook", "pid")] * (kind is InChild) == SEEN
    await driver.close()


def _lives(pid: int) -> bool:
    with suppress(OSError):
        return "Z" not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    return False


async def test_a_function_asks_its_current_task() -> None:
    driver = MemoryDriver()
    queue, task_id = await dispatched(driver, sleeps_by_function())
    async with worker_on(driver) as ledger:
        await until(lambda: "started" in kinds(ledger))

        await queue.cancel(task_id)

        await until(lambda: SEEN == [True])


def test_outside_of_an_attempt_nothing_is_cancelled() -> None:
    assert [kind.is_cancelled for kind in (Sleeps(), InThread(), InChild(path=""), sleeps_by_function())] == [False] * 4


def test_what_is_no_method_is_no_hook() -> None:
    with pytest.raises(TaskDefinitionError, match="cancelled must be a method, not True"):

        class Wrong(AsyncTask[None]):
            cancelled = True  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]

            async def execute(self) -> None: ...

    with pytest.raises(TaskDefinitionError, match="would replace a method that every task needs"):

        class Hides(AsyncTask[None]):
            is_cancelled = True  # type: ignore[misc] # pyright: ignore

            async def execute(self) -> None: ...


# -- hooks ---------------------------------------------------------------------------------------


async def test_what_the_hook_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    driver = MemoryDriver()
    queue, task_id = await dispatched(driver, HookFails())
    async with worker_on(driver) as ledger:
        await until(lambda: SEEN)

        await queue.cancel(task_id)

        await until(lambda: any(entry.detail == "cancelled raised RuntimeError" for entry in ledger))

    assert f"cancelled of {HookFails._task_name} (message {task_id}) raised RuntimeError('clean-up" in caplog.text


async def test_a_hook_has_its_time_limit(caplog: pytest.LogCaptureFixture) -> None:
    driver = MemoryDriver()
    queue, task_id = await dispatched(driver, HookHangs())
    async with worker_on(driver, hook_timeout_s=0.05):
        await until(lambda: SEEN)

        await queue.cancel(task_id)

        await until(lambda: "raised TimeoutError" in caplog.text)


async def test_a_hook_is_interrupted_when_the_worker_stops() -> None:
    driver = MemoryDriver()
    queue, task_id = await dispatched(driver, HookHangs())
    async with worker_on(driver):
        await until(lambda: SEEN)
        await queue.cancel(task_id)
        await until(lambda: "hook hangs" in SEEN)

    assert await queue.cancel(task_id) is Cancellation.RUNNING


async def test_a_task_is_cancelled_while_its_failed_hook_runs() -> None:
    driver = MemoryDriver()
    queue, task_id = await dispatched(driver, FailsSlowly())
    async with worker_on(driver) as ledger:
        await until(lambda: SEEN)

        assert await queue.cancel(task_id) is Cancellation.RUNNING

        await until(lambda: len(SEEN) == 2)

    assert SEEN == ["failed begins", "hook"]
    assert "settled" not in kinds(ledger)


@pytest.mark.parametrize("kind", [Quick, FailsQuickly])
async def test_what_ended_before_its_worker_heard_of_it_hears_of_it(kind: Any) -> None:
    driver = SettlesLate()
    queue, task_id = await dispatched(driver, kind())
    async with worker_on(driver) as ledger:
        await driver.asked.wait()

        assert await queue.cancel(task_id) is Cancellation.RUNNING

        driver.may_settle.set()
        await until(lambda: SEEN == ["hook"])
        with pytest.raises(TaskCancelledError):
            await queue.result(task_id)

    assert kinds(ledger) == ["reserved", "started", "ended", "lost", "cancelled", "stopped"]


async def test_a_lost_lease_calls_no_hook(caplog: pytest.LogCaptureFixture) -> None:
    driver = MemoryDriver()
    _, task_id = await dispatched(driver, Sleeps())
    async with worker_on(driver, lease_s=0.3):
        await until(lambda: SEEN)
        with driver._lock:
            driver._rows[task_id].token += 1000  # as another worker's reserve would

        await until(lambda: ("cancelled", True) in SEEN)
        await until(lambda: "the lease of" in caplog.text)

    assert ("hook", True) not in SEEN


# -- races ---------------------------------------------------------------------------------------


async def test_the_same_id_again_is_another_message() -> None:
    driver = MemoryDriver()
    queue, task_id = await dispatched(driver, Sleeps().with_options(task_id=AGAIN))
    async with worker_on(driver, judged=False) as ledger:
        await until(lambda: SEEN)

        assert await queue.cancel(task_id) is Cancellation.RUNNING
        assert await queue.dispatch([Quick().with_options(task_id=AGAIN)]) == [AGAIN]

        await until(lambda: ("hook", True) in SEEN)
        await until(lambda: "settled" in kinds(ledger))
        assert await queue.result(AGAIN, task=Quick) == "done"

    assert SEEN == [("runs", False), ("cancelled", True), ("hook", True)]


async def test_what_waits_is_cancelled_at_once(tmp_path: Path) -> None:
    for driver in drivers(tmp_path):
        queue = Queue(driver)
        ids = await queue.dispatch([Quick(), Quick().delay(60)])

        found = [await queue.cancel(task_id) for task_id in [*ids, ids[1], "unknown", ""]]

        assert found == [Cancellation.QUEUED] * 3 + [Cancellation.NOTHING] * 2
        with pytest.raises(TaskCancelledError):
            await queue.result(ids[1])
        await driver.close()


async def test_what_has_ended_is_left_as_it_is() -> None:
    driver = MemoryDriver()
    queue, done = await dispatched(driver, Quick())
    [dead] = await queue.dispatch([FailsQuickly().with_options(max_attempts=1)])
    async with worker_on(driver) as ledger:
        await until(lambda: kinds(ledger).count("settled") == 2)

    assert [await queue.cancel(task_id) for task_id in (done, dead)] == [Cancellation.NOTHING] * 2
    assert not Cancellation.NOTHING
    assert await queue.result(done, task=Quick) == "done"
    assert (await queue.status(dead)).state is State.DEAD


async def test_a_retry_that_waits_is_queued() -> None:
    driver = MemoryDriver()
    queue, task_id = await dispatched(driver, FailsQuickly().retry_after(60))
    async with worker_on(driver) as ledger:
        await until(lambda: "settled" in kinds(ledger))

        assert await queue.cancel(task_id) is Cancellation.QUEUED

    assert SEEN == []


class CommitsLate(AsyncTask[None]):
    async def execute(self) -> None:
        connection = sqlite3.connect(FILE, isolation_level=None, timeout=10)
        try:
            SEEN.append("runs")
            await until(GO.is_set)
            connection.execute("BEGIN IMMEDIATE")
            async with self.complete_in(connection):
                pass
            connection.execute("COMMIT")
            SEEN.append("committed")
        except BaseException as error:
            SEEN.append(type(error).__name__)
            connection.rollback()
            raise
        finally:
            connection.close()

    async def cancelled(self) -> None:
        SEEN.append("hook")


async def test_a_cancelled_task_completes_no_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    global FILE  # noqa: PLW0603 - tasks of a worker know no fixture
    FILE = str(tmp_path / "queue.db")
    driver = SQLiteDriver(FILE)
    monkeypatch.setattr("asynctasq.core.worker.Worker._on_news", lambda worker: None)  # it hears of it by itself
    queue, task_id = await dispatched(driver, CommitsLate())
    async with worker_on(driver) as ledger:
        await until(lambda: SEEN)

        assert await queue.cancel(task_id) is Cancellation.RUNNING

        GO.set()
        await until(lambda: "hook" in SEEN)

    assert SEEN == ["runs", "LeaseLost", "hook"]
    assert "cancelled" in kinds(ledger)
    await driver.close()


async def test_a_driver_without_ids_refuses() -> None:
    driver = MemoryDriver()
    driver.capabilities = type(driver.capabilities)(durable=NO, cross_process=NO, ordered=NO)

    with pytest.raises(UnsupportedFeature, match="can't cancel tasks by their ids"):
        await Queue(driver).cancel("m")
