"""What hooks may raise, where they run, and what a task knows of itself in each of the four modes."""
# pyright: reportPrivateUsage=false
# The metadata that the guide promises to a running task have private names.

import asyncio
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from asynctasq.core.runtime import WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.kernel.ledger import check
from asynctasq.kernel.messages import DeadReason, State
from asynctasq.queue import Queue
from asynctasq.tasks import AsyncProcessTask, AsyncTask, BaseTask, SyncProcessTask, SyncTask
from asynctasq.tasks.application import Application
from asynctasq.testing import FakeQueue
from tests.patience import SOON_S, until

ROOT = Path(__file__).parents[2]
SEEN: list[Any] = []
RAISED: list[type[BaseException]] = [
    ValueError,
    asyncio.CancelledError,
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    StopIteration,
    TimeoutError,
]


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    SEEN.clear()


class InLoop(AsyncTask[None]):
    max_attempts = 1

    async def execute(self) -> None:
        raise ValueError("no luck")


class InThread(SyncTask[None]):
    max_attempts = 1

    def execute(self) -> None:
        raise ValueError("no luck")


class InAsyncProcess(AsyncProcessTask[None]):
    max_attempts = 1

    async def execute(self) -> None:
        raise ValueError("no luck")


class InProcess(SyncProcessTask[None]):
    max_attempts = 1

    def execute(self) -> None:
        raise ValueError("no luck")


KINDS: list[type[BaseTask[None]]] = [InLoop, InThread, InAsyncProcess, InProcess]


def derived(kind: type[BaseTask[None]], **members: object) -> type[BaseTask[None]]:
    return type(f"{kind.__name__}WithHook", (kind,), members)


def blocking(error: type[BaseException]) -> Callable[..., Any]:
    def hook(self: object, exception: Exception) -> None:
        SEEN.append(exception)
        raise error("broken hook")

    return hook


def awaited(error: type[BaseException]) -> Callable[..., Any]:
    async def hook(self: object, exception: Exception) -> None:
        SEEN.append(exception)
        await asyncio.sleep(1)
        raise error("broken hook")

    return hook


@pytest.mark.parametrize("error", RAISED)
@pytest.mark.parametrize("make", [blocking, awaited])
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_failed_raises_the_dead_letter_is_the_tasks_own(
    kind: type[BaseTask[None]], make: Callable[[type[BaseException]], Any], error: type[BaseException]
) -> None:
    task = derived(kind, failed=make(error))

    with FakeQueue() as queue:
        task().dispatch_sync()
        queue.run_until_idle_sync()

    queue.assert_failed(task, with_=ValueError, attempts=1)
    assert [str(exception) for exception in SEEN] == ["no luck"]
    assert check(queue.ledger) == []


@pytest.mark.parametrize("error", RAISED)
@pytest.mark.parametrize("make", [blocking, awaited])
def test_whatever_should_retry_raises_means_yes(make: Callable[[type[BaseException]], Any], error: type[Any]) -> None:
    task = derived(InLoop, should_retry=make(error), max_attempts=3, retry_delay=5)

    with FakeQueue() as queue:
        task().dispatch_sync()
        queue.run_until_idle_sync()

    queue.assert_failed(task, with_=ValueError, attempts=3)
    assert len(SEEN) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_where_a_hook_that_is_no_coroutine_runs_there_is_no_event_loop(kind: type[BaseTask[None]]) -> None:
    def should_retry(self: object, exception: Exception) -> bool:
        SEEN.append(asyncio._get_running_loop() is not None)
        return False

    with FakeQueue() as queue:
        derived(kind, should_retry=should_retry, max_attempts=3)().dispatch_sync()
        queue.run_until_idle_sync()

    assert SEEN == [False]


@pytest.mark.parametrize("kind", [InLoop, InThread])
async def test_a_should_retry_that_blocks_for_too_long_holds_up_no_other_task(kind: type[BaseTask[None]]) -> None:
    driver, ticks, go = MemoryDriver(), list[int](), threading.Event()

    def should_retry(self: object, exception: Exception) -> bool:
        SEEN.append(threading.current_thread() is threading.main_thread())
        go.wait(SOON_S)
        return False

    task = derived(kind, should_retry=should_retry, max_attempts=2, retry_delay=0)
    await Queue(driver).dispatch([task()])
    settings = WorkerSettings(application=Application(), handle_signals=False, burst=True, hook_timeout_s=0.2)
    running = asyncio.create_task(Worker(driver, settings=settings).start())
    while not running.done():
        ticks.append(await asyncio.sleep(0.01, 1))

    assert SEEN == [False]
    assert len(ticks) > 5
    [dead] = (await driver.list_messages("default", state=State.DEAD)).messages
    assert dead.attempts == 2  # an answer that does not come in time is yes
    go.set()
    await running


class LetsGo(AsyncTask[None]):
    event = threading.Event()

    async def execute(self) -> None:
        self.event.set()


@pytest.mark.parametrize("kind", [InLoop, InThread])
async def test_a_failed_that_blocks_holds_up_no_other_task(kind: type[BaseTask[None]]) -> None:
    driver = MemoryDriver()
    LetsGo.event.clear()

    def failed(self: object, exception: Exception) -> None:
        SEEN.append("called")
        SEEN.append(LetsGo.event.wait(SOON_S))

    await Queue(driver).dispatch([derived(kind, failed=failed)()])
    settings = WorkerSettings(application=Application(), handle_signals=False, burst=True)
    running = asyncio.create_task(Worker(driver, settings=settings).start())

    await until(lambda: SEEN, "the hook has begun")
    await Queue(driver).dispatch([LetsGo()])
    await running

    assert SEEN == ["called", True]


@pytest.mark.parametrize("kind", [InLoop, InThread])
def test_failed_runs_on_the_instance_that_the_attempt_ran_on(kind: type[BaseTask[None]]) -> None:
    execute: Any = getattr(kind, "execute")  # noqa: B009 - of either kind

    def remember(self: Any) -> Any:
        self.mark = object()
        SEEN.append(self.mark)
        return execute(self)

    async def remember_async(self: Any) -> None:
        await remember(self)

    def failed(self: Any, exception: Exception) -> None:
        SEEN.append(self.mark)

    task = derived(kind, execute=remember_async if kind is InLoop else remember, failed=failed)

    with FakeQueue() as queue:
        task().dispatch_sync()
        queue.run_until_idle_sync()

    assert len(SEEN) == 2
    assert SEEN[0] is SEEN[1]


# -- with real threads and child processes -------------------------------------------------------


class ToldInThread(InThread):
    def failed(self, exception: Exception) -> None:
        SEEN.append((os.getpid(), threading.current_thread() is threading.main_thread()))


class ToldOfChild(InProcess):
    async def failed(self, exception: Exception) -> None:
        SEEN.append((os.getpid(), threading.current_thread() is threading.main_thread()))


class ToldOfChildInThread(InProcess):
    def failed(self, exception: Exception) -> None:
        SEEN.append((os.getpid(), threading.current_thread() is threading.main_thread()))


@pytest.fixture
async def driver() -> MemoryDriver:
    return MemoryDriver()


async def run(driver: MemoryDriver, *tasks: BaseTask[Any]) -> list[str]:
    """Run tasks with real threads and one real child."""
    ids = await Queue(driver).dispatch(tasks)
    application = Application((__name__,), path=(str(ROOT),))
    settings = WorkerSettings(application=application, handle_signals=False, burst=True)
    async with asyncio.timeout(SOON_S):
        await Worker(driver, process_pool_size=1, settings=settings).start()
    return ids


async def test_failed_runs_in_the_workers_process_and_blocks_its_loop_only_if_async(driver: MemoryDriver) -> None:
    await run(driver, ToldInThread(), ToldOfChild(), ToldOfChildInThread())

    assert sorted(SEEN) == [(os.getpid(), False), (os.getpid(), False), (os.getpid(), True)]
    dead = (await driver.list_messages("default")).messages
    assert [message.reason for message in dead] == [DeadReason.FAILED] * 3


def known(task: BaseTask[Any]) -> tuple[str | None, int, int, datetime | None]:
    return task._task_id, task._current_attempt, task.attempt, task._dispatched_at


Known = tuple[str | None, int, int, datetime | None]


class KnowsInLoop(AsyncTask[Known]):
    keep_result = True
    retry_delay = 0

    async def execute(self) -> Known:
        if self.attempt == 1:
            raise ValueError("again")
        return known(self)

    def should_retry(self, exception: Exception) -> bool:
        SEEN.append(known(self))
        return True


class KnowsInThread(SyncTask[Known]):
    keep_result = True
    retry_delay = 0

    def execute(self) -> Known:
        if self.attempt == 1:
            raise ValueError("again")
        return known(self)

    def should_retry(self, exception: Exception) -> bool:
        SEEN.append(known(self))
        return True


class KnowsInAsyncProcess(AsyncProcessTask[Known]):
    keep_result = True
    retry_delay = 0

    async def execute(self) -> Known:
        if self.attempt == 1:
            raise ValueError("again")
        return known(self)

    def should_retry(self, exception: Exception) -> bool:
        SEEN.append(known(self))
        return True


class KnowsInProcess(SyncProcessTask[Known]):
    keep_result = True
    retry_delay = 0

    def execute(self) -> Known:
        if self.attempt == 1:
            raise ValueError("again")
        return known(self)

    def should_retry(self, exception: Exception) -> bool:
        SEEN.append(known(self))
        return True


async def test_a_task_knows_the_same_of_itself_in_every_mode_and_after_a_retry(driver: MemoryDriver) -> None:
    before = datetime.now(UTC)
    ids = await run(driver, *(kind() for kind in KNOWING))

    queue = Queue(driver)
    for task_id, kind in zip(ids, KNOWING, strict=True):
        result: Any = await queue.result(task_id, task=kind)
        dispatched_at = result[3]
        assert result == (task_id, 1, 2, dispatched_at)
        assert dispatched_at.utcoffset() == timedelta()
        assert timedelta() <= dispatched_at - before < timedelta(seconds=5)
        assert [seen for seen in SEEN if seen[0] == task_id] == [(task_id, 0, 1, dispatched_at)]


KNOWING: list[type[BaseTask[Known]]] = [KnowsInLoop, KnowsInThread, KnowsInAsyncProcess, KnowsInProcess]
