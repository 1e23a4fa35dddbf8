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
from asynctasq.testing.loop.asyncio_internals import BaseLoop, Notice
from asynctasq.testing.loop.threads import closed_over, describe_function

__all__ = ["InlineCalls", "answer_for_asgiref"]

_HANDING: Final = "run_coroutine_threadsafe.<locals>.callback"
_ASGIREF: Final = "AsyncToSync.main_wrap"


class InlineCall:
    """One function for an executor, run in the loop's thread as if it were in another.

    Calls of one `line` run one after the other, as in the only thread of their pool.
    """

    __slots__ = ("_args", "_calls", "_func", "awaited", "expired", "future", "line", "order")

    def __init__(
        self, calls: "InlineCalls", func: Callable[..., Any], args: tuple[Any, ...], order: int, line: object
    ) -> None:
        self._calls = calls
        self._func = func
        self._args = args
        self.order = order
        self.line = line
        self.awaited: Future[Any] | None = None
        self.expired: list[bool] = []
        self.future: asyncio.Future[Any] = calls.loop.create_future()

    def get_name(self) -> str:
        return f"executor call {describe_function(self._func)}"

    def run(self) -> None:
        if self.future.done() or (self.line is not None and self._calls.hold(self)):
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
            # A pool hands every exception to the caller, but the loop that ran inside could not go on.
            if error is calls.failure:
                raise
            failure = error
        finally:
            events._set_running_loop(calls.loop)
            calls.stack.pop()
            if self.line is not None:
                calls.release(self.line)
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

    __slots__ = ("_held", "_run_nested", "failure", "loop", "stack")

    def __init__(self, loop: BaseLoop, run_nested: Callable[[Callable[[], bool]], None]) -> None:
        self.loop = loop
        self.stack: list[InlineCall] = []
        self.failure: SimulationError | None = None
        self._run_nested = run_nested
        self._held: list[InlineCall] = []

    def schedule(
        self, executor: object, func: Callable[..., Any], args: tuple[Any, ...], order: int
    ) -> asyncio.Future[Any]:
        """Schedule the function as a step of its own, which the search may choose early or late."""
        call = InlineCall(self, func, args, order, None if executor is None else _line_of(executor))
        # An empty context, as a pool's thread has.
        self.loop._ready.append((Context(), call.run, ()))
        return call.future

    def hold(self, call: InlineCall) -> bool:
        """Keep a call back if another one of its line is under way."""
        held = any(other.line is call.line for other in self.stack)
        if held:
            self._held.append(call)
        return held

    def release(self, line: object) -> None:
        """Let the calls go on that were kept back in a line."""
        self.loop._ready.extend((Context(), held.run, ()) for held in self._held if held.line is line)
        self._held = [held for held in self._held if held.line is not line]

    def handed(self, handle: Notice) -> None:
        """Look at what was sent to the loop from its own thread: an inline call may be about to wait for it."""
        if not self.stack or events._get_running_loop() is not None:
            return  # sent by the loop's own code, or by another loop inside the call
        callback: Any = handle._callback
        if getattr(callback, "__qualname__", "") == _HANDING:
            future = closed_over(callback, "future")
            if type(future) is Future:
                future.__class__ = _AskedFuture
                future._simulation = self  # type: ignore[attr-defined] # its class became ours
        elif (answer := answer_for_asgiref(handle)) is not None:
            # How asgiref waits for this cannot be changed from here, but wait it will.
            self.run_until(answer, None)

    def run_until(self, awaited: "Future[Any]", timeout_s: float | None) -> None:
        """Run the loop inside the innermost call until the future is done, or for that long in virtual time."""
        call = self.stack[-1]
        call.awaited, call.expired = awaited, []
        timer = None if timeout_s is None else self.loop.call_later(timeout_s, call.expired.append, True)
        try:
            self._run_nested(lambda: awaited.done() or bool(call.expired))
            if not awaited.done() and not call.expired:
                raise CancelledError(f"{call.get_name()}: the loop it waits for was stopped")
        except SimulationError as error:
            self.failure = error
            raise
        finally:
            call.awaited = None
            if timer is not None:
                timer.cancel()

    def check_order(self) -> None:
        """Refuse to let time pass while a call has its answer, but lies below another one that waits.

        Raises: Deadlock.
        """
        for call in self.stack[:-1]:
            if call.awaited is not None and (call.awaited.done() or call.expired):
                raise Deadlock(
                    f"{call.get_name()} could go on, but runs in the loop's own thread, below "
                    f"{self.stack[-1].get_name()}, which waits for the loop: inline only the last one that began to "
                    "wait can go on; use real_executors=True, or await the coroutine instead of waiting in a thread"
                )

    def describe(self) -> list[str]:
        """Say which calls wait for the loop."""
        waiting = (call for call in self.stack if call.awaited is not None)
        return [f"{call.get_name()}: waits for a coroutine that it handed to this loop" for call in waiting]


class _AskedFuture(Future[Any]):
    """What `asyncio.run_coroutine_threadsafe` gave to an inline call: waiting for it runs the loop."""

    _simulation: InlineCalls

    def result(self, timeout: float | None = None) -> Any:
        return super().result(self._bring_about(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return super().exception(self._bring_about(timeout))

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override] # it is looked up, and never set again
        if self._blocks() and not self.done():
            raise Deadlock(
                f"{self._simulation.stack[-1].get_name()} runs in the loop's own thread and would block it by "
                "concurrent.futures.wait or as_completed; call result() of each future, or use real_executors=True"
            )
        waiters: list[Any] = self.__dict__["_waiters"]
        return waiters

    def _blocks(self) -> bool:
        calls = self._simulation
        own = calls.loop._thread_id == threading.get_ident()
        return own and bool(calls.stack) and events._get_running_loop() is None

    def _bring_about(self, timeout: float | None) -> float | None:
        if not self._blocks():
            return timeout
        if not self.done():
            self._simulation.run_until(self, timeout)
        return 0


def answer_for_asgiref(handle: Notice) -> "Future[Any] | None":
    """Return what asgiref's `async_to_sync` is about to wait for, if it sent this to the loop.

    A task that is ended from outside before it began leaves it without an answer: it gets one here.
    """
    arguments: Any = handle._args
    if len(arguments) != 1 or getattr(arguments[0], "__qualname__", "") != _ASGIREF:
        return None
    found = arguments[0].cr_frame.f_locals
    answer: Future[Any] = found["call_result"]
    awaitable: Any = found["awaitable"]
    create_task: Any = handle._callback

    def end(_: object) -> None:
        if answer.cancel() and asyncio.iscoroutine(awaitable):
            awaitable.close()  # nobody else will, and it would complain

    def begin(coro: Any) -> None:
        create_task(coro).add_done_callback(end)

    handle._callback = begin
    return answer


def _line_of(executor: object) -> object:
    """Return what calls to an executor queue for: asgiref's thread-sensitive ones share a pool of one thread."""
    alone = isinstance(executor, ThreadPoolExecutor) and executor._max_workers == 1
    return executor if alone else None
