"""The process of one simulated worker: all of its tasks can be paused, and killed, at any await."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from typing import Any

from asynctasq.testing.loop.loop import SimulationLoop
from asynctasq.testing.loop.shared import SharedLoop
from asynctasq.testing.loop.tasks import close_in_context
from asynctasq.testing.loop.waits import set_by_test_tools

__all__ = ["ProcessCoroutine", "SimulatedProcess", "WorkerKilled", "current_process", "install_task_factory"]


class WorkerKilled(asyncio.CancelledError):
    """Unwinds the code of a worker that is killed at a point where it can't be suspended."""


class SimulatedProcess:
    """The tasks of one worker, in order of their creation.

    Killed: no code of them runs again, not even a `finally`. Paused: nothing runs until `resume`, then all goes on.
    """

    def __init__(self) -> None:
        self.dead = False
        self.paused = False
        self.stopped = False
        self.closed = False
        """Whether its suspended coroutines have been closed: what begins later is closed where it would begin."""
        self.coroutines: dict[ProcessCoroutine, None] = {}
        self._waiting: list[asyncio.Future[None]] = []

    def kill(self) -> None:
        """Let no code of the worker run any more; its tasks end as cancelled, seen from outside."""
        self.dead = self.stopped = True
        for coroutine in list(self.coroutines):
            if coroutine.task is not None and not coroutine.task.done():
                coroutine.task.cancel()

    def pause(self) -> None:
        """Stop the worker as SIGSTOP does."""
        self.paused = self.stopped = True

    def resume(self) -> None:
        """Let a paused worker go on."""
        if self.dead or not self.paused:
            return
        self.paused = self.stopped = False
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def wait_for_resume(self) -> "asyncio.Future[None]":
        """Return what a task of a paused worker waits for."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        set_by_test_tools.add(future)
        return future

    def close_suspended(self) -> None:
        """Close the suspended coroutines of a killed process: only now their `finally` blocks run, without effect."""
        coroutines, self.coroutines, self.closed = list(self.coroutines), {}, True
        for coroutine in coroutines:
            coroutine.close_suspended()


class ProcessCoroutine(Coroutine[Any, Any, Any]):
    """A coroutine of a worker: steps only while its process runs. `on_suspended` is called after each suspension."""

    def __init__(self, inner: Coroutine[Any, Any, Any], process: SimulatedProcess, context: Context) -> None:
        self.inner = inner
        self.task: asyncio.Task[Any] | None = None
        self.on_suspended: Callable[[], None] | None = None
        self._process = process
        self._context = context
        self._pending_error: BaseException | None = None
        self.__name__ = getattr(inner, "__name__", "coroutine")
        self.__qualname__ = getattr(inner, "__qualname__", self.__name__)
        process.coroutines[self] = None

    def send(self, value: Any, /) -> Any:
        if self._process.stopped:
            return self._refuse_step(None)
        try:
            if self._pending_error is not None:
                error, self._pending_error = self._pending_error, None
                awaited = self.inner.throw(error)
            else:
                awaited = self.inner.send(value)
        except BaseException:
            self._unregister()
            raise
        if self.on_suspended is not None:
            self.on_suspended()
        return awaited

    def throw(self, kind: Any, value: Any = None, _trace: Any = None, /) -> Any:
        error = kind if isinstance(kind, BaseException) else value or kind()
        if self._process.stopped:
            return self._refuse_step(error)
        try:
            return self.inner.throw(error)
        except BaseException:
            self._unregister()
            raise

    def close(self) -> None:
        self._unregister()
        self.inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.inner.__await__()

    def _refuse_step(self, error: BaseException | None) -> Any:
        """End the task of a killed process; let that of a paused one wait, and keep an error thrown into it."""
        if self._process.dead:
            if self._process.closed:
                self.close_suspended()
            raise asyncio.CancelledError("the simulated worker of this task is dead")
        self._pending_error = error or self._pending_error
        future: Any = self._process.wait_for_resume()
        future._asyncio_future_blocking = True  # noqa: SLF001 - what `await` of a future does, where there is no `await`
        return future

    def _unregister(self) -> None:
        if not self._process.dead:
            self._process.coroutines.pop(self, None)

    def close_suspended(self) -> None:
        """Close the coroutine in its own context, so that its dispatches are known to come from a dead worker."""
        close_in_context(self._context, self.inner)

    # What asyncio and the reports of a simulation ask of a coroutine.
    @property
    def cr_frame(self) -> Any:
        return getattr(self.inner, "cr_frame", None)

    @property
    def cr_await(self) -> Any:
        return getattr(self.inner, "cr_await", None)

    @property
    def cr_code(self) -> Any:
        return getattr(self.inner, "cr_code", None)

    @property
    def cr_running(self) -> bool:
        return bool(getattr(self.inner, "cr_running", False))


current_process: ContextVar[SimulatedProcess | None] = ContextVar("asynctasq_process", default=None)
"""The process of the simulated worker that the current code runs in; None outside of workers."""


def install_task_factory(loop: SimulationLoop | SharedLoop) -> None:
    """Make every task that is created in a worker's context part of that worker's process, from now on."""
    if isinstance(loop, SharedLoop):
        loop.make_task = _make_in_process
        return

    def create(
        _: asyncio.AbstractEventLoop, coro: Any, *, context: Context | None = None, **options: Any
    ) -> "asyncio.Task[Any]":
        process = current_process.get() if context is None else context.get(current_process)
        if process is None:
            return loop.make_task(coro, context=context, **options)
        context = copy_context() if context is None else context
        coroutine = ProcessCoroutine(coro, process, context)
        coroutine.task = task = loop.make_task(coroutine, context=context, **options)
        return task

    loop.set_task_factory(create)


def _make_in_process(coro: Any, make: Callable[..., Any], options: dict[str, Any]) -> Any:
    context: Context = options.setdefault("context", copy_context())
    process = context.get(current_process)
    if process is None:
        return make(coro, **options)
    coroutine = ProcessCoroutine(coro, process, context)
    coroutine.task = make(coroutine, **options)
    return coroutine.task
