"""Runs functions for executors in the loop's own thread, and the loop inside one that waits for it."""

# ruff: noqa: SLF001 - the loop is made of asyncio's private parts; a test watches each of them
# pyright: reportPrivateUsage=false

import asyncio
import threading
from asyncio import events
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextvars import Context
from typing import Any, Final

from asynctasq.testing.errors import Deadlock, SimulationError
from asynctasq.testing.loop.asyncio_internals import BaseLoop, PlainHandle
from asynctasq.testing.loop.threads import closure_variable, describe_function

__all__ = ["InlineCalls", "asgiref_result"]

_RUN_COROUTINE_THREADSAFE: Final = "run_coroutine_threadsafe.<locals>.callback"
_ASYNC_TO_SYNC: Final = "AsyncToSync.main_wrap"


class InlineCall:
    """One function for an executor, run in the loop's thread as if it were in another.

    Calls with the same `pool`, which has one thread, run one after the other.
    """

    __slots__ = ("_args", "_calls", "_func", "awaited", "future", "order", "pool", "timed_out")

    def __init__(
        self, calls: "InlineCalls", func: Callable[..., Any], args: tuple[Any, ...], order: int, pool: object
    ) -> None:
        self._calls = calls
        self._func = func
        self._args = args
        self.order = order
        self.pool = pool
        self.awaited: Future[Any] | None = None
        self.timed_out: list[bool] = []
        self.future: asyncio.Future[Any] = calls.loop.create_future()

    def get_name(self) -> str:
        return f"executor call {describe_function(self._func)}"

    def run(self) -> None:
        if self.future.done() or (self.pool is not None and self._calls.defer(self)):
            return
        result: Any = None
        failure: BaseException | None = None
        calls = self._calls
        calls.stack.append(self)
        # A thread of a pool sees no running loop: code that calls asyncio.run there must work here.
        events._set_running_loop(None)
        try:
            result = self._func(*self._args)
        except KeyboardInterrupt:
            raise
        except StopIteration as error:
            failure = RuntimeError("the function raised StopIteration, which a future cannot hold")
            failure.__cause__ = error
        except BaseException as error:
            # A pool gives every exception to the caller, but the loop that ran inside could not go on.
            if error is calls.failure:
                raise
            failure = error
        finally:
            events._set_running_loop(calls.loop)
            calls.stack.pop()
            if self.pool is not None:
                calls.resume_deferred(self.pool)
        if self.future.done():
            return
        if failure is not None:
            self.future.set_exception(failure)
        else:
            self.future.set_result(result)


class InlineCalls:
    """The inline calls under way, each begun while the loop ran inside the one before it.

    `run_nested(done)` runs the loop inside the function that it runs, until `done()` or until the loop is stopped.
    """

    __slots__ = ("_deferred", "_run_nested", "failure", "loop", "stack")

    def __init__(self, loop: BaseLoop, run_nested: Callable[[Callable[[], bool]], None]) -> None:
        self.loop = loop
        self.stack: list[InlineCall] = []
        self.failure: SimulationError | None = None
        self._run_nested = run_nested
        self._deferred: list[InlineCall] = []

    def schedule(
        self, executor: object, func: Callable[..., Any], args: tuple[Any, ...], order: int
    ) -> asyncio.Future[Any]:
        """Schedule the function as a step of its own, which the search may choose early or late."""
        call = InlineCall(self, func, args, order, None if executor is None else _single_thread_pool(executor))
        # An empty context, as a pool's thread has.
        self.loop._ready.append((Context(), call.run, ()))
        return call.future

    def defer(self, call: InlineCall) -> bool:
        """Postpone a call while another one of its pool is under way; return whether it was postponed."""
        busy = any(other.pool is call.pool for other in self.stack)
        if busy:
            self._deferred.append(call)
        return busy

    def resume_deferred(self, pool: object) -> None:
        """Schedule the postponed calls of a pool."""
        self.loop._ready.extend((Context(), call.run, ()) for call in self._deferred if call.pool is pool)
        self._deferred = [call for call in self._deferred if call.pool is not pool]

    def on_threadsafe_call(self, handle: PlainHandle) -> None:
        """Examine a callback that the loop's own thread sent: an inline call may be about to wait for its result."""
        if not self.stack or events._get_running_loop() is not None:
            return  # sent by the loop's own code, or by another loop inside the call
        callback: Any = handle._callback
        if getattr(callback, "__qualname__", "") == _RUN_COROUTINE_THREADSAFE:
            future = closure_variable(callback, "future")
            if type(future) is Future:
                future.__class__ = _LoopRunningFuture
                future._calls = self  # type: ignore[attr-defined] # its class became ours
        elif (result := asgiref_result(handle)) is not None:
            # The way asgiref waits can't be changed from here, and it always waits: run the loop now.
            self.run_until(result, None)

    def run_until(self, awaited: "Future[Any]", timeout_s: float | None) -> None:
        """Run the loop inside the innermost call until the future is done, or for that long in virtual time."""
        call = self.stack[-1]
        call.awaited, call.timed_out = awaited, []
        timer = None if timeout_s is None else self.loop.call_later(timeout_s, call.timed_out.append, True)
        try:
            self._run_nested(lambda: awaited.done() or bool(call.timed_out))
            if not awaited.done() and not call.timed_out:
                raise CancelledError(f"{call.get_name()}: the loop it waits for was stopped")
        except SimulationError as error:
            self.failure = error
            raise
        finally:
            call.awaited = None
            if timer is not None:
                timer.cancel()

    def check_nesting(self) -> None:
        """Refuse to let time pass while a call has its result, but an inner call still waits.

        Raises: Deadlock.
        """
        for call in self.stack[:-1]:
            if call.awaited is not None and (call.awaited.done() or call.timed_out):
                raise Deadlock(
                    f"{call.get_name()} could go on, but runs in the loop's own thread, below "
                    f"{self.stack[-1].get_name()}, which waits for the loop: inline only the innermost call that waits "
                    "can go on; use real_executors=True, or await the coroutine instead of waiting in a thread"
                )

    def describe(self) -> list[str]:
        """Say which calls wait for the loop."""
        waiting = (call for call in self.stack if call.awaited is not None)
        return [f"{call.get_name()}: waits for a coroutine that it submitted to this loop" for call in waiting]


class _LoopRunningFuture(Future[Any]):
    """What `asyncio.run_coroutine_threadsafe` gave to an inline call: waiting for it runs the loop."""

    _calls: InlineCalls

    def result(self, timeout: float | None = None) -> Any:
        return super().result(self._run_loop(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return super().exception(self._run_loop(timeout))

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override] # it is looked up, and never set again
        if self._blocks() and not self.done():
            raise Deadlock(
                f"{self._calls.stack[-1].get_name()} runs in the loop's own thread and would block it by "
                "concurrent.futures.wait or as_completed; call result() of each future, or use real_executors=True"
            )
        waiters: list[Any] = self.__dict__["_waiters"]
        return waiters

    def _blocks(self) -> bool:
        calls = self._calls
        own = calls.loop._thread_id == threading.get_ident()
        return own and bool(calls.stack) and events._get_running_loop() is None

    def _run_loop(self, timeout: float | None) -> float | None:
        if not self._blocks():
            return timeout
        if not self.done():
            self._calls.run_until(self, timeout)
        return 0


def asgiref_result(handle: PlainHandle) -> "Future[Any] | None":
    """Return the future that asgiref's `async_to_sync` is about to wait for, if it sent this to the loop.

    asgiref leaves that future open when its task is cancelled before it began: here it is cancelled, too.
    """
    arguments: Any = handle._args
    if len(arguments) != 1 or getattr(arguments[0], "__qualname__", "") != _ASYNC_TO_SYNC:
        return None
    found = arguments[0].cr_frame.f_locals
    result: Future[Any] = found["call_result"]
    awaitable: Any = found["awaitable"]
    create_task: Any = handle._callback

    def end(_: object) -> None:
        if result.cancel() and asyncio.iscoroutine(awaitable):
            awaitable.close()  # nobody else will, and it would complain

    def begin(coro: Any) -> None:
        create_task(coro).add_done_callback(end)

    handle._callback = begin
    return result


def _single_thread_pool(executor: object) -> object:
    """Return the executor if it has one thread, else None; asgiref's thread-sensitive calls share such a pool."""
    alone = isinstance(executor, ThreadPoolExecutor) and executor._max_workers == 1
    return executor if alone else None
