"""Where an attempt's code runs: the event loop, a thread or a child process; each with its own way to time out."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol, cast

from asynctasq.core.lanes.child import ChildSettings, Reply, Request, serve
from asynctasq.core.lanes.process_pool import ChildCrashed, ProcessPool
from asynctasq.core.lanes.thread_pool import ThreadPool
from asynctasq.core.orms import release_thread_connections, thread_sensitive_call
from asynctasq.core.task_factory import TaskFactory
from asynctasq.errors import TaskTimeoutError
from asynctasq.logs import get_logger
from asynctasq.tasks.base import AsyncTask
from asynctasq.utils.loop import without_running_loop

__all__ = ["InlineLanes", "Lanes", "LocalLanes", "WorkerLanes"]

logger = get_logger(__name__)

_ThreadResult = tuple[object, BaseException | None]
"""What a call in a thread returned, and what it raised."""
SubmitCall = Callable[[Callable[[], _ThreadResult]], "asyncio.Future[_ThreadResult]"]
"""Starts a call outside of the event loop and returns the future of what it returns."""


class Lanes(Protocol):
    """The three places where an attempt's code can run."""

    def run_async(self, task: AsyncTask[object], timeout_s: float | None) -> Coroutine[Any, Any, object]:
        """Await the task's `execute`; cancel it after `timeout_s` and raise TaskTimeoutError."""
        ...

    async def run_blocking(self, call: Callable[[], object], timeout_s: float | None, *, what: str) -> object:
        """Run a blocking call outside of the event loop; after `timeout_s` wait for it, then raise TaskTimeoutError."""
        ...

    async def run_in_process(self, request: Request, timeout_s: float | None) -> Reply:
        """Run the attempt in a child; kill it after `timeout_s` and raise TaskTimeoutError."""
        ...

    async def interrupt_processes(self) -> None:
        """Kill the children that run something, after which none of their tasks has any further effect.

        The others begin to leave their lifespans.
        """
        ...

    async def end_idle_processes(self) -> None:
        """Let the children that run nothing leave their lifespans and end; kill those that have not if cancelled."""
        ...

    async def stop_processes(self) -> None:
        """Kill all children."""
        ...

    def close(self) -> None:
        """Let the threads end."""
        ...


async def run_async(task: AsyncTask[object], timeout_s: float | None) -> object:
    """Await `execute` under a deadline; a TimeoutError of the task's own passes unchanged."""
    if timeout_s is None:
        return await task.execute()
    scope = asyncio.timeout(timeout_s)
    try:
        async with scope:
            return await task.execute()
    except TimeoutError as error:
        if scope.expired() and isinstance(error.__cause__, asyncio.CancelledError):
            raise TaskTimeoutError(f"ran longer than {timeout_s:g} s and was cancelled") from error
        raise


class BlockingCalls:
    """Blocking calls in threads. `abandon_s` is how long one may outlive its time limit before its slot is given up.

    `submit` starts a call elsewhere than in the pool of threads.
    """

    def __init__(self, *, threads: int, abandon_s: float = 60.0, submit: SubmitCall | None = None) -> None:
        self._threads = ThreadPool(threads)
        self._abandon_s = abandon_s
        self._submit = submit

    async def run(self, call: Callable[[], object], timeout_s: float | None, *, what: str) -> object:
        """Run the call as `Lanes.run_blocking` promises."""
        loop = asyncio.get_running_loop()
        started = asyncio.Event()

        def in_thread() -> _ThreadResult:
            loop.call_soon_threadsafe(started.set)
            try:
                return call(), None
            except BaseException as error:  # noqa: BLE001 - user code; a future can't hold every exception
                return None, error
            finally:
                release_thread_connections()

        future = self._start(partial(copy_context().run, in_thread))
        try:
            if timeout_s is not None:
                await _wait_started(started, future)
                await self._wait_within(future, timeout_s, what)
            value, error = await asyncio.shield(future)
        except asyncio.CancelledError:
            self._threads.abandon_one()  # it can't be stopped, and the next task needs a thread
            raise
        if error is not None:
            raise error
        return value

    def _start(self, call: Callable[[], _ThreadResult]) -> "asyncio.Future[_ThreadResult]":
        if self._submit is not None:
            return self._submit(call)
        return asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _wait_within(self, future: "asyncio.Future[_ThreadResult]", timeout_s: float, what: str) -> None:
        """Return once the call has ended in time; else wait for its thread and raise TaskTimeoutError."""
        if (await asyncio.wait([future], timeout=timeout_s))[0]:
            return
        logger.warning(
            "%s ran longer than %g s; a thread can't be stopped, so it keeps its slot until it ends", what, timeout_s
        )
        if (await asyncio.wait([future], timeout=self._abandon_s))[0]:
            raise TaskTimeoutError(f"ran longer than {timeout_s:g} s in a thread, which has ended since")
        self._threads.abandon_one()
        logger.error("%s still runs %g s after its time limit; its thread is abandoned", what, self._abandon_s)
        raise TaskTimeoutError(f"ran longer than {timeout_s:g} s in a thread, which was abandoned and may still run")

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown()


class WorkerLanes:
    """The lanes of a worker in production: its event loop, threads and child processes."""

    def __init__(
        self,
        settings: ChildSettings,
        *,
        threads: int,
        processes: int | None = None,
        max_tasks_per_child: int | None = None,
        abandon_s: float = 60.0,
    ) -> None:
        self._calls = BlockingCalls(threads=threads, abandon_s=abandon_s)
        self._processes = ProcessPool(settings, size=processes, max_tasks_per_child=max_tasks_per_child)

    def run_async(self, task: AsyncTask[object], timeout_s: float | None) -> Coroutine[Any, Any, object]:
        return run_async(task, timeout_s)

    async def run_blocking(self, call: Callable[[], object], timeout_s: float | None, *, what: str) -> object:
        return await self._calls.run(call, timeout_s, what=what)

    async def run_in_process(self, request: Request, timeout_s: float | None) -> Reply:
        answer = await self._processes.run(request.encode(), timeout_s=timeout_s, message_id=request.message_id)
        try:
            return Reply.decode(answer)
        except (ValueError, TypeError) as error:
            raise ChildCrashed("the child process sent what is no answer to its request") from error

    async def interrupt_processes(self) -> None:
        await self._processes.interrupt()

    async def end_idle_processes(self) -> None:
        await self._processes.end_idle()

    async def stop_processes(self) -> None:
        await self._processes.stop()

    def close(self) -> None:
        self._calls.close()
        self._processes.close()


class InlineLanes:
    """Everything in the running loop, for simulations; requests and replies of processes still become bytes."""

    def __init__(self, task_factory: TaskFactory) -> None:
        self._task_factory = task_factory

    def run_async(self, task: AsyncTask[object], timeout_s: float | None) -> Coroutine[Any, Any, object]:
        return run_async(task, timeout_s)

    async def run_blocking(self, call: Callable[[], object], timeout_s: float | None, *, what: str) -> object:  # noqa: ARG002
        with without_running_loop():
            return call()

    async def run_in_process(self, request: Request, timeout_s: float | None) -> Reply:
        try:
            async with asyncio.timeout(timeout_s) as scope:
                reply = await serve(Request.decode(request.encode()), self._task_factory, self._reply_of)
        except TimeoutError as error:
            raise TaskTimeoutError(f"ran longer than {timeout_s} s; its process was killed") from error
        if scope.expired():
            raise TaskTimeoutError(f"ran longer than {timeout_s} s; its process was killed")
        return Reply.decode(reply.encode())

    async def _reply_of(self, call: Callable[[], Reply]) -> Reply:
        """Run what a child process would run, where it may block."""
        with without_running_loop():
            return call()

    async def interrupt_processes(self) -> None:
        """Do nothing: what runs in the loop is cancelled with its attempt."""

    async def end_idle_processes(self) -> None:
        """Do nothing: there are none."""

    async def stop_processes(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class LocalLanes(InlineLanes):
    """For tests on an ordinary event loop: blocking code in threads, and what belongs in a child process beside it."""

    def __init__(self, task_factory: TaskFactory, *, threads: int) -> None:
        super().__init__(task_factory)
        self._calls = BlockingCalls(threads=threads, submit=thread_sensitive_call())

    async def run_blocking(self, call: Callable[[], object], timeout_s: float | None, *, what: str) -> object:
        return await self._calls.run(call, timeout_s, what=what)

    async def _reply_of(self, call: Callable[[], Reply]) -> Reply:
        return cast("Reply", await self._calls.run(call, None, what="a task of a child process"))

    def close(self) -> None:
        self._calls.close()


async def _wait_started(started: asyncio.Event, future: "asyncio.Future[_ThreadResult]") -> None:
    future.add_done_callback(lambda _: started.set())  # the call may end before the loop has run started.set
    await started.wait()
