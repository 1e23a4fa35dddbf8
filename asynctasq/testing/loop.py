"""The event loop of a simulation: virtual time, no selector, and a seeded choice among ready task steps."""

import asyncio
import contextvars
import sys
import threading
import weakref
from asyncio import events
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any, Final, TypeVar

from asynctasq.kernel.messages import MICROSECONDS
from asynctasq.testing._loop_explorer import Explorer
from asynctasq.testing._loop_outside import OutsideWork
from asynctasq.testing._loop_private import STEP, WAKEUP, Notice, Timer, enter_task, leave_task
from asynctasq.testing._loop_refusals import RealWorldRefusals
from asynctasq.testing._loop_report import deadlock_text, limit_text, livelock_text
from asynctasq.testing._loop_tasks import SimulatedTask, pending_tasks
from asynctasq.testing._simulation_errors import (
    Deadlock,
    LimitExceeded,
    Livelock,
    RealWorldAccess,
    SimulationError,
    TapeMismatch,
    UnhandledErrors,
)
from asynctasq.testing.clock import VirtualClock
from asynctasq.testing.search import Search, make_scheduler
from asynctasq.testing.tape import Tape

__all__ = [
    "Deadlock",
    "LimitExceeded",
    "Limits",
    "Livelock",
    "RealWorldAccess",
    "SimulationError",
    "SimulationLoop",
    "TapeMismatch",
    "UnhandledErrors",
]

T = TypeVar("T")

_WATCHED: Final = 2_048
_NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a run is given up: steps are callbacks and task steps together.

    `stalled_steps_max` counts steps at one virtual instant. `grace_s` is real time: how long a run
    that could only go on by a foreign thread waits for one before it is a deadlock.
    """

    virtual_s_max: float = 100 * 365 * 86_400.0
    steps_max: int = 50_000_000
    stalled_steps_max: int = 100_000
    grace_s: float = 1.0


class SimulationLoop(RealWorldRefusals, asyncio.BaseEventLoop):
    """An asyncio loop that jumps to the next timer when nothing is ready.

    Same tape, same program: same run, step for step. `search` says how ready task steps are chosen
    from; plain callbacks keep their order. With `trace` the steps are hashed (`trace_digest`); a
    search other than first in line always is. Functions for an executor run inline, at a point the
    search chooses, unless `real_executors`: then virtual time stands still while they run.
    """

    def __init__(
        self,
        tape: Tape | None = None,
        *,
        clock: VirtualClock | None = None,
        search: Search = "fifo",
        real_executors: bool = False,
        trace: bool = False,
        limits: Limits | None = None,
    ) -> None:
        super().__init__()
        self.clock = clock or VirtualClock()
        self.tape = tape or Tape(0)
        self.limits = limits or Limits()
        self.steps = 0
        self.unhandled: list[dict[str, Any]] = []
        self._ready: deque[tuple[Any, Any, tuple[Any, ...]]] = deque()
        self._heap: list[tuple[int, int, Timer]] = []
        self._timers = 0
        self._cancelled_timers = 0
        self._tasks_made = 0
        self._at_rest: list[Callable[[], object]] = []
        self._stalled = 0
        self._generators: dict[int, weakref.ref[AsyncGenerator[Any, Any]]] = {}
        self._limit_us = int(self.limits.virtual_s_max * MICROSECONDS)
        self._outside = OutsideWork(self, real=real_executors, grace_s=self.limits.grace_s)
        self._polled = self._outside.arrived if real_executors else ()
        scheduler = make_scheduler(search, self.tape)
        self._explorer = Explorer(self, scheduler) if scheduler is not None or trace else None

    # -- time and scheduling ---------------------------------------------------------------------

    def time(self) -> float:
        return self.clock.elapsed_us / MICROSECONDS

    def call_soon(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> events.Handle | None:
        """Schedule a callback; for the steps of a task, which only asyncio's C code schedules, there is no handle."""
        if self._closed:
            raise RuntimeError("Event loop is closed")
        if context is None:
            context = contextvars.copy_context()
        else:
            kind = type(callback)
            if kind is STEP or (kind is WAKEUP and args and isinstance(callback.__self__, asyncio.Task)):
                self._ready.append((context, callback, args))
                return None
        handle = Notice(callback, args, self, context)
        self._ready.append((None, handle, ()))
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> events.TimerHandle:
        return self.call_at(self.clock.elapsed_us / MICROSECONDS + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> events.TimerHandle:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        timer = Timer(when, callback, args, self, contextvars.copy_context() if context is None else context)
        if when == _NEVER:
            return timer
        # Rounded up so that nothing is early; 0.05 us of slack absorbs what the sum of floats is off.
        when_us = int(when * MICROSECONDS + 0.95)
        if when_us <= self.clock.elapsed_us:
            self._ready.append((None, timer, ()))
        else:
            self._timers += 1
            timer._scheduled = True
            heappush(self._heap, (when_us, self._timers, timer))
        return timer

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> events.Handle:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        handle = Notice(callback, args, self, contextvars.copy_context() if context is None else context)
        if self._thread_id in (None, threading.get_ident()):
            self._ready.append((None, handle, ()))
        else:
            self._outside.deliver(handle)
        return handle

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:  # noqa: ARG002 - asyncio's signature
        self._cancelled_timers += 1
        if self._cancelled_timers > 100 and self._cancelled_timers * 2 > len(self._heap):
            self._heap[:] = [entry for entry in self._heap if not entry[2]._cancelled]
            heapify(self._heap)
            self._cancelled_timers = 0

    # -- tasks and executors ---------------------------------------------------------------------

    def create_task(self, coro: Any, *, name: str | None = None, **options: Any) -> Any:
        """Make a task numbered in order of creation, since asyncio's own order is by address."""
        if self._closed:
            raise RuntimeError("Event loop is closed")
        if self._task_factory is not None:
            return super().create_task(coro, name=name, **options)
        self._tasks_made = order = self._tasks_made + 1
        task = SimulatedTask.__new__(SimulatedTask)
        task.order = order
        task.__init__(coro, loop=self, name=name or f"Task-{order}", **options)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        self._check_closed()
        if self._outside.real:
            return self._outside.submit(executor, func, args)
        self._tasks_made += 1
        return self._outside.run_inline(func, args, self._tasks_made)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the threads of the default executor, if real ones were used; virtual time stands still."""
        self._executor_shutdown_called = True
        executor = self._default_executor
        if executor is not None:
            await self._outside.in_thread(executor.shutdown)

    # -- running ---------------------------------------------------------------------------------

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run to the end, cancel in order of creation what is left, close; works inside a running loop too.

        Raises: UnhandledErrors if `main` ended well, but errors went to the exception handler.
        """
        try:
            result = self.run_until_complete(main)
            self._wind_down()
        except BaseException as error:
            self._wind_down_after(error)
            raise
        finally:
            self.close()
        self.raise_unhandled()
        return result

    def raise_unhandled(self) -> None:
        """Raise what went to the exception handler so far, once."""
        contexts, self.unhandled = self.unhandled, []
        if contexts:
            first = next((c["exception"] for c in contexts if "exception" in c), None)
            lines = [f"{c.get('message')}: {c.get('exception')!r}" for c in contexts]
            text = "errors that nobody awaited:\n  " + "\n  ".join(lines)
            raise UnhandledErrors(text, contexts) from first

    def _wind_down(self) -> None:
        leftovers = pending_tasks(self)
        for task in leftovers:
            task.cancel()
        if leftovers:
            self.run_until_complete(_ended(leftovers))
        for task in leftovers:
            if not task.cancelled() and (error := task.exception()) is not None:
                self.call_exception_handler(
                    {"message": "task failed while it was cancelled", "exception": error, "task": task}
                )
        if self._generators:
            self.run_until_complete(self.shutdown_asyncgens())
        if self._default_executor is not None:
            self.run_until_complete(self.shutdown_default_executor())
        if self._ready or (self._explorer is not None and self._explorer.busy):
            self.run_until_complete(asyncio.sleep(0))  # the done-callbacks of the last tasks

    def _wind_down_after(self, error: BaseException) -> None:
        try:
            self._wind_down()
        except Exception as further:  # noqa: BLE001 - the first error is the one to report
            error.add_note(f"then winding down failed: {further!r}")

    def _check_running(self) -> None:
        if self.is_running():
            raise RuntimeError("This event loop is already running")

    def run_forever(self) -> None:
        """Run until stopped. Another loop that runs in this thread is set aside meanwhile."""
        self._check_closed()
        self._check_running()
        outer = events._get_running_loop()
        outer_task = asyncio.current_task(outer) if outer is not None else None
        old_hooks = sys.get_asyncgen_hooks()
        if outer_task is not None:
            leave_task(outer, outer_task)
        try:
            self._thread_id = threading.get_ident()
            sys.set_asyncgen_hooks(firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook)
            events._set_running_loop(self)
            if self._explorer is not None:
                self._explorer.run()
            else:
                self._run_in_order()
        finally:
            self._stopping = False
            self._thread_id = None
            events._set_running_loop(outer)
            if outer_task is not None:
                enter_task(outer, outer_task)
            sys.set_asyncgen_hooks(*old_hooks)

    def _run_in_order(self) -> None:
        """First come, first served, as asyncio: a batch is what is ready when it begins."""
        while True:
            try:
                while True:
                    self._run_once()
                    if self._stopping:
                        return
            except (SystemExit, KeyboardInterrupt, SimulationError):
                raise
            except BaseException as error:  # noqa: BLE001 - as asyncio's own handle does
                self.call_exception_handler({"message": "Exception in a task step", "exception": error})

    def _run_once(self) -> None:
        ready = self._ready
        heap = self._heap
        if self._polled or (heap and heap[0][0] <= self.clock.elapsed_us):
            self._gather()
        if not ready:
            self._wait_for_work()
        count = len(ready)
        self._stalled += count
        if self._stalled > self.limits.stalled_steps_max:
            self._explain_stall()
            count = len(ready)
        popleft = ready.popleft
        for _ in range(count):
            context, callback, args = popleft()
            if context is not None:
                context.run(callback, *args)
            elif not callback._cancelled:
                callback._run()

    def _gather(self) -> None:
        """Make ready what is due by now, and in real mode what other threads sent."""
        if self._polled:
            self._outside.collect()
        heap = self._heap
        if heap and heap[0][0] <= self.clock.elapsed_us:
            self._fire_due()

    def _wait_for_work(self) -> None:
        """Nothing is ready: take what other threads sent, else jump to the next timer, else give up."""
        outside = self._outside
        while not self._ready and not self._stopping:
            if outside.wait():
                outside.collect()
                continue
            self._fire_due()
            if self._ready or self._end_rest():
                return
            if self._heap:
                self._jump(self._heap[0][0])
                self._fire_due()
            elif not outside.wait_in_grace():
                raise Deadlock(deadlock_text(self))

    def call_at_rest(self, callback: Callable[[], object]) -> None:
        """Call once nothing more can happen at this virtual instant, before time moves on."""
        self._at_rest.append(callback)

    def _end_rest(self) -> bool:
        callbacks, self._at_rest = self._at_rest, []
        for callback in callbacks:
            self.call_soon(callback)
        return bool(callbacks)

    def _fire_due(self) -> None:
        heap = self._heap
        now_us = self.clock.elapsed_us
        while heap:
            when_us, _, timer = heap[0]
            if timer._cancelled:
                self._cancelled_timers -= 1
            elif when_us > now_us:
                return
            heappop(heap)
            if not timer._cancelled:
                timer._scheduled = False
                self._ready.append((None, timer, ()))

    def _jump(self, when_us: int) -> None:
        self.steps += self._stalled
        self._stalled = 0
        if when_us > self._limit_us or self.steps > self.limits.steps_max:
            raise LimitExceeded(limit_text(self, when_us))
        if self._explorer is not None:
            self._explorer.note_jump(when_us)
        self.clock.move_to_us(when_us)

    def _explain_stall(self) -> None:
        """Watch some more steps to see what repeats, then give up; return if the loop came to rest meanwhile."""
        self.steps += self._stalled
        self._stalled = 0
        if self._outside.arrived:
            self._outside.collect()
            return
        explorer = self._explorer or Explorer(self, None)
        count = min(_WATCHED, self.limits.stalled_steps_max)
        names = explorer.watch(count)
        if self._explorer is None:
            explorer.give_back()
        if len(names) >= count:
            raise Livelock(livelock_text(self, names))

    # -- bookkeeping -----------------------------------------------------------------------------

    def trace_digest(self) -> str:
        """Return a hash of every task step and jump so far; needs `trace=True` or a search."""
        if self._explorer is None:
            raise ValueError("this loop keeps no trace; create it with trace=True")
        return self._explorer.digest()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep the error for `raise_unhandled`, unless the program set a handler of its own."""
        if self._exception_handler is not None:
            super().call_exception_handler(context)
        else:
            self.unhandled.append(context)

    def _asyncgen_firstiter_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        key = id(agen)
        self._generators[key] = weakref.ref(agen, lambda _: self._generators.pop(key, None))

    def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        self._generators.pop(id(agen), None)
        if not self._closed:
            self.call_soon_threadsafe(self.create_task, agen.aclose())

    async def shutdown_asyncgens(self) -> None:
        """Close the asynchronous generators that are still open, in the order in which they began."""
        generators = [agen for ref in self._generators.values() if (agen := ref()) is not None]
        self._generators.clear()
        for agen in generators:
            try:
                await agen.aclose()
            except Exception as error:  # noqa: BLE001 - user code; asyncio reports it the same way
                message = f"an error occurred during closing of asynchronous generator {agen!r}"
                self.call_exception_handler({"message": message, "exception": error, "asyncgen": agen})

    def close(self) -> None:
        super().close()
        self._heap.clear()
        if self._explorer is not None:
            self._explorer.clear()


async def _ended(tasks: list[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
