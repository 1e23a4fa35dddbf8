"""Everything one simulated worker runs, behind a fence: it can be stopped for a while, and for good, anywhere."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from typing import Any

from asynctasq.testing.loop.tasks import close_in_context

__all__ = ["Fence", "Fenced", "Killed", "fence_of_this_worker", "fence_tasks"]


class Killed(asyncio.CancelledError):
    """Unwinds the code of a worker that dies at a point where it can't be suspended."""


class Fence:
    """The tasks of one worker, in order of their creation.

    Killed: no code of them runs again, not even a `finally`. Paused: nothing runs until `resume`, then all goes on.
    """

    def __init__(self) -> None:
        self.dead = False
        self.paused = False
        self.closed = False
        self.members: dict[Fenced, None] = {}
        self._waiting: list[asyncio.Future[None]] = []

    def kill(self) -> None:
        """Let no code of the worker run any more; its tasks end as cancelled, seen from outside."""
        self.dead = self.closed = True
        for member in list(self.members):
            if member.task is not None and not member.task.done():
                member.task.cancel()

    def pause(self) -> None:
        """Stop the worker as SIGSTOP does."""
        self.paused = self.closed = True

    def resume(self) -> None:
        """Let a paused worker go on."""
        if self.dead or not self.paused:
            return
        self.paused = self.closed = False
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def wait_for_resume(self) -> "asyncio.Future[None]":
        """Return what a task of a paused worker waits for."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    def bury(self) -> None:
        """Release what killed coroutines hold: only now do their `finally` blocks run, and reach nothing."""
        members, self.members = list(self.members), {}
        for member in members:
            member.bury()


class Fenced(Coroutine[Any, Any, Any]):
    """A coroutine of a worker: steps only while the fence is open. `alarm` is called whenever it has suspended."""

    def __init__(self, inner: Coroutine[Any, Any, Any], fence: Fence, context: Context) -> None:
        self.inner = inner
        self.task: asyncio.Task[Any] | None = None
        self.alarm: Callable[[], None] | None = None
        self._fence = fence
        self._context = context
        self._held_error: BaseException | None = None
        self.__name__ = getattr(inner, "__name__", "coroutine")
        self.__qualname__ = getattr(inner, "__qualname__", self.__name__)
        fence.members[self] = None

    def send(self, value: Any, /) -> Any:
        if self._fence.closed:
            return self._hold(None)
        try:
            if self._held_error is not None:
                error, self._held_error = self._held_error, None
                awaited = self.inner.throw(error)
            else:
                awaited = self.inner.send(value)
        except BaseException:
            self._end()
            raise
        if self.alarm is not None:
            self.alarm()
        return awaited

    def throw(self, kind: Any, value: Any = None, _trace: Any = None, /) -> Any:
        error = kind if isinstance(kind, BaseException) else value or kind()
        if self._fence.closed:
            return self._hold(error)
        try:
            return self.inner.throw(error)
        except BaseException:
            self._end()
            raise

    def close(self) -> None:
        self._end()
        self.inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.inner.__await__()

    def _hold(self, error: BaseException | None) -> Any:
        """End the task of a dead worker; let that of a paused one wait, and keep what was thrown at it."""
        if self._fence.dead:
            raise asyncio.CancelledError("the simulated worker of this task is dead")
        self._held_error = error or self._held_error
        future: Any = self._fence.wait_for_resume()
        future._asyncio_future_blocking = True  # noqa: SLF001 - what `await` of a future does, where there is no `await`
        return future

    def _end(self) -> None:
        if not self._fence.dead:
            self._fence.members.pop(self, None)

    def bury(self) -> None:
        """Close the coroutine in its own context, so that what it still tries is known to be its dead worker's."""
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


fence_of_this_worker: ContextVar[Fence | None] = ContextVar("asynctasq_fence", default=None)
"""The fence of the simulated worker that the current code runs in; None outside of workers."""


def fence_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Put every task that is created in a worker's context behind that worker's fence, from now on."""

    def create(
        loop: asyncio.AbstractEventLoop, coro: Any, *, context: Context | None = None, **options: Any
    ) -> "asyncio.Task[Any]":
        fence = fence_of_this_worker.get() if context is None else context.get(fence_of_this_worker)
        loop.set_task_factory(None)  # the loop's own way of making tasks, which numbers them
        try:
            if fence is None:
                return loop.create_task(coro, context=context, **options)
            context = copy_context() if context is None else context
            fenced = Fenced(coro, fence, context)
            fenced.task = loop.create_task(fenced, context=context, **options)
            return fenced.task
        finally:
            loop.set_task_factory(create)

    loop.set_task_factory(create)
