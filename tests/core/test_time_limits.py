"""Time limits with real threads and child processes: what is cut short, and what does not count."""

import asyncio
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from asynctasq.core.runtime import WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.kernel.messages import ErrorRecord
from asynctasq.queue import Queue
from asynctasq.tasks import AsyncProcessTask, AsyncTask, BaseTask, SyncProcessTask, SyncTask
from asynctasq.tasks.application import Application
from tests.patience import SOON_S

ROOT = Path(__file__).parents[2]
RAN: Counter[str] = Counter()
OURS = "asynctasq.errors.TaskTimeoutError"
SLOW_IMPORT = "SLOW_IMPORT_OF_TIME_LIMITS_S"

time.sleep(float(os.environ.get(SLOW_IMPORT, "0")))  # in a child, which imports this module when it starts


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


def settings(**changes: Any) -> WorkerSettings:
    application = Application((__name__,), path=(str(ROOT),))
    return WorkerSettings(application=application, handle_signals=False, burst=True, **changes)


def worker_on(driver: MemoryDriver) -> Worker:
    return Worker(driver, process_pool_size=1, settings=settings())


async def run(*tasks: BaseTask[Any], processes: int = 1, concurrency: int = 10) -> list[ErrorRecord]:
    """Run tasks and return the errors of those that became dead letters."""
    driver = MemoryDriver()
    await Queue(driver).dispatch(tasks)
    async with asyncio.timeout(SOON_S):
        await Worker(driver, "default", concurrency, process_pool_size=processes, settings=settings()).start()
    dead = (await driver.list_messages("default")).messages
    return [message.error for message in dead if message.error is not None]


class SleepsInChild(AsyncProcessTask[None]):
    timeout = 1.5
    max_attempts = 1

    def __init__(self, pid_file: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pid_file = pid_file

    async def execute(self) -> None:
        Path(self.pid_file).write_text(str(os.getpid()))
        await asyncio.sleep(600)


class IgnoresCancellationInChild(SleepsInChild):
    async def execute(self) -> None:
        Path(self.pid_file).write_text(str(os.getpid()))
        while True:
            time.sleep(600)


@pytest.mark.parametrize("kind", [SleepsInChild, IgnoresCancellationInChild])
async def test_an_async_process_task_is_killed_with_its_child(kind: type[SleepsInChild], tmp_path: Path) -> None:
    file = tmp_path / "pid"

    [error] = await run(kind(str(file)))

    assert error.type == OURS
    assert "1.5 s; its process was killed" in error.message
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


class OwnInLoop(AsyncTask[None]):
    timeout = 10
    max_attempts = 1

    async def execute(self) -> None:
        raise TimeoutError("of my own")


class OwnInThread(SyncTask[None]):
    timeout = 10
    max_attempts = 1

    def execute(self) -> None:
        raise TimeoutError("of my own")


class OwnInAsyncProcess(AsyncProcessTask[None]):
    timeout = 10
    max_attempts = 1

    async def execute(self) -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(600)


class OwnInProcess(SyncProcessTask[None]):
    timeout = 10
    max_attempts = 1

    def execute(self) -> None:
        raise TimeoutError("of my own")


class OwnScope(AsyncTask[None]):
    timeout = 10
    max_attempts = 1

    async def execute(self) -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(600)


@pytest.mark.parametrize("kind", [OwnInLoop, OwnInThread, OwnInAsyncProcess, OwnInProcess, OwnScope])
async def test_a_timeout_error_of_the_tasks_own_passes_unchanged(kind: type[BaseTask[None]]) -> None:
    [error] = await run(kind())

    assert error.type == "TimeoutError"


class NapsInChild(SyncProcessTask[None]):
    timeout = 1.5
    max_attempts = 1

    def execute(self) -> None:
        time.sleep(0.4)


async def test_waiting_for_a_child_does_not_count() -> None:
    assert await run(*(NapsInChild() for _ in range(5)), processes=1) == []


class Starts(SyncProcessTask[None]):
    timeout = 1
    max_attempts = 1

    def execute(self) -> None: ...


async def test_the_start_of_a_child_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SLOW_IMPORT, str(Starts.timeout + 0.5))

    assert await run(Starts()) == []


class EndsInTime(SyncTask[None]):
    timeout = 5
    max_attempts = 1

    def execute(self) -> None:
        RAN["in time"] += 1


async def test_a_limit_that_is_kept_changes_nothing() -> None:
    assert await run(EndsInTime(), EndsInTime()) == []
    assert RAN["in time"] == 2


class Swallows(AsyncTask[str]):
    """Cleans up slowly when it is cancelled."""

    timeout = 0.05
    max_attempts = 1

    async def execute(self) -> str:
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(0.05)
            RAN["cleaned up"] += 1
        return ""


async def test_a_cancelled_task_may_clean_up() -> None:
    [error] = await run(Swallows())

    assert error.type == OURS
    assert RAN["cleaned up"] == 1


@pytest.mark.parametrize("same", [True, False], ids=["the same worker", "a new worker"])
def test_a_worker_runs_in_three_loops_of_one_process(same: bool) -> None:
    driver = MemoryDriver()
    worker = worker_on(driver)

    async def once() -> None:
        await Queue(driver).dispatch([EndsInTime(), Starts(), Starts()])
        async with asyncio.timeout(SOON_S):
            await (worker if same else worker_on(driver)).start()

    for number in range(1, 4):
        asyncio.run(once())
        assert RAN["in time"] == number
        assert asyncio.run(driver.depth("default")).dead == 0


async def test_one_worker_may_be_started_again() -> None:
    driver = MemoryDriver()
    worker = worker_on(driver)

    for number in range(1, 4):
        await Queue(driver).dispatch([EndsInTime(), Starts()])
        async with asyncio.timeout(SOON_S):
            await worker.start()
        assert RAN["in time"] == number
    assert (await driver.depth("default")).dead == 0
