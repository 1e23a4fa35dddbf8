"""Middleware around attempts: order, what it sees in each mode, its errors, signals, time limits, cancellation."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from asynctasq import Reject, Retry, Snooze
from asynctasq.core.runtime import WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import TaskTimeoutError, UndecodableBody
from asynctasq.kernel.ledger import check
from asynctasq.kernel.messages import State
from asynctasq.queue import Queue
from asynctasq.tasks import (
    AsyncProcessTask,
    AsyncTask,
    AttemptContext,
    BaseTask,
    DispatchContext,
    Middleware,
    SyncProcessTask,
    SyncTask,
)
from asynctasq.testing import FakeQueue
from tests.patience import SOON_S, until

SAID: list[Any] = []
tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


@pytest.fixture(autouse=True)
def nothing_said() -> None:
    SAID.clear()


def act(text: str) -> str:
    SAID.append(f"runs for {tenant.get()}")
    if text == "fails":
        raise ValueError("no luck")
    return text


class InLoop(AsyncTask[str]):
    text: str = "well"

    async def execute(self) -> str:
        return act(self.text)


class InThread(SyncTask[str]):
    text: str = "well"

    def execute(self) -> str:
        return act(self.text)


class InAsyncProcess(AsyncProcessTask[str]):
    text: str = "well"

    async def execute(self) -> str:
        return act(self.text)


class InProcess(SyncProcessTask[str]):
    text: str = "well"

    def execute(self) -> str:
        return act(self.text)


KINDS: list[type[Any]] = [InLoop, InThread, InAsyncProcess, InProcess]
IN_WORKER: list[type[Any]] = [InLoop, InThread]


class Says(Middleware):
    def __init__(self, name: str, *, swallows: bool = False) -> None:
        self.name = name
        self.swallows = swallows

    @asynccontextmanager
    async def attempting(self, context: AttemptContext) -> AsyncGenerator[None]:
        SAID.append(f"{self.name} enters")
        await asyncio.sleep(0)
        try:
            yield
        except BaseException as error:
            SAID.append(f"{self.name} sees {type(error).__name__}")
            if not self.swallows:
                raise
        else:
            SAID.append(f"{self.name} leaves")


class Tenancy(Middleware):
    """Brings the tenant from the dispatch to the attempt."""

    def dispatching(self, context: DispatchContext) -> Any:
        context.headers["tenant"] = "acme"
        return super().dispatching(context)

    @asynccontextmanager
    async def attempting(self, context: AttemptContext) -> AsyncGenerator[None]:
        token = tenant.set(context.headers["tenant"])
        try:
            yield
        finally:
            tenant.reset(token)


def raising(error: BaseException, *, when: str) -> Middleware:
    class Raises(Middleware):
        @asynccontextmanager
        async def attempting(self, context: AttemptContext) -> AsyncGenerator[None]:
            if when == "entering":
                raise error
            try:
                yield
            finally:
                if when == "leaving":
                    raise error

    return Raises()


def run(task: BaseTask[Any], *middleware: Middleware) -> FakeQueue:
    with FakeQueue(middleware=middleware) as queue:
        task.dispatch_sync()
        queue.run_until_idle_sync()
    assert check(queue.ledger) == []
    return queue


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_is_the_outermost(kind: type[Any]) -> None:
    queue = run(kind(), Says("a"), Says("b"))

    queue.assert_completed(kind, times=1)
    assert SAID == ["a enters", "b enters", "runs for nobody", "b leaves", "a leaves"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_sees_which_attempt_of_which_task_it_is_around(kind: type[Any]) -> None:
    seen: list[AttemptContext] = []

    class Looks(Tenancy):
        @asynccontextmanager
        async def attempting(self, context: AttemptContext) -> AsyncGenerator[None]:
            seen.append(context)
            yield

    task = kind(text="fails").on_queue("mail").with_options(max_attempts=2)
    run(task, Looks())

    assert [(one.task_class, one.task_id, one.queue, one.attempt) for one in seen] == [
        (kind, task.task_id, "mail", 1),
        (kind, task.task_id, "mail", 2),
    ]
    assert [dict(one.headers) for one in seen] == [{"tenant": "acme"}, {"tenant": "acme"}]
    built = [one.task.text for one in seen if one.task is not None]
    assert built == (["fails", "fails"] if kind in IN_WORKER else [])


@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_of_the_task_passes_through(kind: type[Any]) -> None:
    queue = run(kind(text="fails").with_options(max_attempts=1), Says("a"), Says("b"))

    queue.assert_failed(kind, with_=ValueError, attempts=1)
    assert SAID[-2:] == ["b sees ValueError", "a sees ValueError"]


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_swallows_it_changes_nothing(kind: type[Any]) -> None:
    queue = run(kind(text="fails").with_options(max_attempts=1), Says("a"), Says("b", swallows=True))

    queue.assert_failed(kind, with_=ValueError, attempts=1)
    assert SAID[-2:] == ["b sees ValueError", "a sees ValueError"]


@pytest.mark.parametrize(
    "error", [ConnectionError("down"), SystemExit(3), asyncio.CancelledError(), UndecodableBody("?")]
)
@pytest.mark.parametrize("when", ["entering", "leaving"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_its_own_is_a_counted_failure(kind: type[Any], when: str, error: BaseException) -> None:
    queue = run(kind().with_options(max_attempts=2), Says("a"), raising(error, when=when))

    queue.assert_failed(kind, with_=type(error), attempts=2)
    assert SAID.count("runs for nobody") == (0 if when == "entering" else 2)
    assert SAID.count(f"a sees {type(error).__name__}") == 2


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_at_its_end_takes_the_place_of_the_tasks(kind: type[Any]) -> None:
    queue = run(kind(text="fails").with_options(max_attempts=1), raising(ConnectionError("down"), when="leaving"))

    [record] = queue.history(kind).attempts
    assert isinstance(record.exception, ConnectionError)
    assert isinstance(record.exception.__context__, ValueError)


def test_attempting_itself_may_raise() -> None:
    class Broken(Middleware):
        def attempting(self, context: AttemptContext) -> Any:
            raise LookupError("no such tenant")

    queue = run(InLoop().with_options(max_attempts=1), Broken())

    queue.assert_failed(InLoop, with_=LookupError, attempts=1)


@pytest.mark.parametrize("signal", [Snooze(5), Retry(after=5), Reject("no")])
def test_signals_pass_as_they_are(signal: Exception) -> None:
    class Signals(AsyncTask[None]):
        async def execute(self) -> None:
            if not any("sees" in said for said in SAID):
                raise signal

    queue = run(Signals(), Says("a"))

    assert SAID[:2] == ["a enters", f"a sees {type(signal).__name__}"]
    if isinstance(signal, Reject):
        queue.assert_failed(Signals, with_=Reject)
    else:
        queue.assert_completed(Signals)
        assert len(queue.history(Signals).attempts) == 2


def test_middleware_may_raise_a_signal_of_its_own() -> None:
    class Patient(Middleware):
        @asynccontextmanager
        async def attempting(self, context: AttemptContext) -> AsyncGenerator[None]:
            try:
                yield
            except ValueError:
                raise Reject("invalid") from None

    queue = run(InLoop(text="fails"), Patient())

    queue.assert_failed(InLoop, with_=Reject, attempts=1)


# -- context variables -------------------------------------------------------------------------------


def with_hooks(kind: type[Any], *, awaited: bool) -> type[Any]:
    async def failed_later(self: object, exception: Exception) -> None:
        SAID.append(f"failed for {tenant.get()}")

    def failed(self: object, exception: Exception) -> None:
        SAID.append(f"failed for {tenant.get()}")

    def should_retry(self: object, exception: Exception) -> bool:
        SAID.append(f"asked for {tenant.get()}")
        return True

    return type("Hooked", (kind,), {"failed": failed_later if awaited else failed, "should_retry": should_retry})


@pytest.mark.parametrize("awaited", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_task_and_hooks_see_what_it_set_but_for_code_of_child_processes(kind: type[Any], awaited: bool) -> None:
    task = with_hooks(kind, awaited=awaited)
    run(task(text="fails").with_options(max_attempts=2), Tenancy())

    who = "acme" if kind in IN_WORKER else "nobody"
    assert [f"runs for {who}", "asked for acme", f"runs for {who}", "failed for acme"] == SAID
    assert tenant.get() == "nobody"


def test_hooks_see_it_too_when_the_next_one_could_not_be_entered() -> None:
    task = with_hooks(InLoop, awaited=True)
    run(task().with_options(max_attempts=1), Tenancy(), raising(ConnectionError("down"), when="entering"))

    assert SAID == ["failed for acme"]


def test_hooks_see_what_the_task_set_itself() -> None:
    class Sets(AsyncTask[None]):
        max_attempts = 1

        async def execute(self) -> None:
            tenant.set("mine")
            raise ValueError

        async def failed(self, exception: Exception) -> None:
            SAID.append(tenant.get())

    run(Sets(), Says("a"))

    assert SAID[-1] == "mine"


# -- time --------------------------------------------------------------------------------------------


class Slow(Middleware):
    """Takes its time before and after."""

    def __init__(self, *, before_s: float = 0.0, after_s: float = 0.0) -> None:
        self.before_s = before_s
        self.after_s = after_s

    @asynccontextmanager
    async def attempting(self, context: AttemptContext) -> AsyncGenerator[None]:
        await asyncio.sleep(self.before_s)
        yield
        await asyncio.sleep(self.after_s)


def test_its_time_is_not_the_tasks() -> None:
    queue = run(InLoop().with_options(timeout=1), Slow(before_s=20, after_s=20))

    queue.assert_completed(InLoop, times=1)
    assert queue.clock.elapsed.total_seconds() == 40


@pytest.mark.parametrize(("slow", "what"), [(Slow(before_s=31), "enter"), (Slow(after_s=31), "leave")])
def test_it_has_a_limit_of_its_own(slow: Middleware, what: str) -> None:
    queue = run(InLoop().with_options(max_attempts=1), Says("a"), slow)

    queue.assert_failed(InLoop, with_=TaskTimeoutError)
    [record] = queue.history(InLoop).attempts
    assert str(record.exception) == f"the middleware Slow took longer than 30 s to {what}"
    assert SAID[-1] == "a sees TaskTimeoutError"


@pytest.mark.parametrize("when", ["entering", "leaving"])
def test_a_timeout_error_of_its_own_is_its_own(when: str) -> None:
    error = TimeoutError("the pool is empty")
    queue = run(InLoop().with_options(max_attempts=1), raising(error, when=when))

    assert [record.exception for record in queue.history(InLoop).attempts] == [error]


def test_it_sees_the_time_limit_of_the_task() -> None:
    class Long(AsyncTask[None]):
        timeout = 5
        max_attempts = 1

        async def execute(self) -> None:
            await asyncio.sleep(10)

    run(Long(), Says("a")).assert_failed(Long, with_=TaskTimeoutError)

    assert SAID == ["a enters", "a sees TaskTimeoutError"]


async def test_a_worker_that_stops_cancels_it_and_hands_the_message_back() -> None:
    begun = asyncio.Event()

    class Endless(AsyncTask[None]):
        async def execute(self) -> None:
            begun.set()
            await asyncio.sleep(600)

    driver = MemoryDriver()
    await Queue(driver).dispatch([Endless()])
    settings = WorkerSettings(handle_signals=False, middleware=(Says("a"), Says("b", swallows=True)), lifespans=())
    worker = Worker(driver, settings=settings)
    running = asyncio.create_task(worker.start())
    await until(begun.is_set)

    worker.stop(immediate=True)
    async with asyncio.timeout(SOON_S):
        await running

    assert SAID == ["a enters", "b enters", "b sees CancelledError", "a sees CancelledError"]
    [message] = (await driver.list_messages("default", state=State.READY)).messages
    assert message.attempts == 0


@pytest.mark.parametrize("make", [lambda: raising(SystemExit(1), when="entering"), lambda: Slow(before_s=0.01)])
async def test_the_worker_goes_on_with_other_messages(make: Callable[[], Middleware]) -> None:
    driver = MemoryDriver()
    await Queue(driver).dispatch([InThread().with_options(max_attempts=1) for _ in range(20)])
    settings = WorkerSettings(handle_signals=False, burst=True, middleware=(make(),), lifespans=())

    async with asyncio.timeout(SOON_S):
        await Worker(driver, concurrency=5, settings=settings).start()

    depth = await driver.depth("default")
    assert (depth.ready, depth.reserved) == (0, 0)
