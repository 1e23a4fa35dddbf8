"""The event loop of a simulation: virtual time, no selector, and a seeded choice among ready task steps."""

# ruff: noqa: SLF001 - the loop is made of asyncio's private parts; a test watches each of them
# pyright: reportPrivateUsage=false

import asyncio
import contextvars
import threading
from asyncio import events
from collections import deque
from collections.abc import Callable, Generator, Sized
from contextlib import contextmanager
from heapq import heapify, heappop, heappush
from typing import Any, Final, TypeVar

from asynctasq.kernel.messages import MICROSECONDS
from asynctasq.testing.clock import VirtualClock
from asynctasq.testing.errors import Deadlock, LimitExceeded, Livelock, SimulationError
from asynctasq.testing.loop.asyncio_internals import NO_CALLBACK, STEP, WAKEUP, PlainHandle, Timer
from asynctasq.testing.loop.inline import InlineCalls, asgiref_result
from asynctasq.testing.loop.lifecycle import LoopLifecycle
from asynctasq.testing.loop.limits import Limits
from asynctasq.testing.loop.outside_work import OutsideWork
from asynctasq.testing.loop.real_world import RealWorld
from asynctasq.testing.loop.report import LoopState, deadlock_text, limit_text, livelock_text
from asynctasq.testing.loop.search import Search, make_scheduler
from asynctasq.testing.loop.step_runner import StepRunner
from asynctasq.testing.loop.tasks import SimulatedTask, pending_tasks
from asynctasq.testing.tape import Tape

__all__ = ["SimulationLoop"]

T = TypeVar("T")

_LIVELOCK_STEPS: Final = 2_048
_NEVER: Final = float("inf")
_STEP: Final = 1 / MICROSECONDS
_LONGEST_S: Final = 4e12  # some hundred thousand years; in microseconds it fits the trace's 64 bits


class SimulationLoop(RealWorld, LoopLifecycle):
    """An asyncio loop that jumps to the next timer when nothing is ready.

    Same tape, same program: same run, step for step. `search` says how ready task steps are chosen
    from; plain callbacks keep their order. With `trace` the steps are hashed (`trace_digest`); under
    a search other than first in line they always are. Functions for an executor run inline, at a
    point the search chooses, unless `real_executors`: then virtual time stands still while they run.
    A function that waits for a coroutine that it submitted to this loop gets its result either way.

    Virtual time also stands still while a thread works that was started since the loop was made and is
    no daemon, but after `Limits.grace_s` without a callback time goes on, and a log entry names it.
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
        real_io: bool = False,
    ) -> None:
        tape = tape or Tape(0)
        scheduler = make_scheduler(search, tape)
        super().__init__()
        self.clock = clock or VirtualClock()
        self.tape = tape
        self.limits = limits or Limits()
        self.real_io = real_io
        self.may_wait_outside: Callable[[], bool] = _never
        self.steps = 0
        self._ready = deque()
        self._heap: list[tuple[int, int, Timer]] = []
        self._at_instant_end: deque[PlainHandle] = deque()
        self._timers = 0
        self._cancelled_timers = 0
        self._tasks_made = 0
        self._stalled_steps = 0
        self._steps_before = 0
        self._limit_us = int(min(self.limits.virtual_s_max, _LONGEST_S) * MICROSECONDS)
        self._outside = OutsideWork(self, real=real_executors, grace_s=self.limits.grace_s)
        self._inline: InlineCalls | None = None
        # Without real executors callbacks from threads are taken only when nothing is ready: always at the same point.
        self._polled: Sized = self._outside.received if real_executors else ()
        self._step_runner = StepRunner(self, scheduler) if scheduler is not None or trace else None

    # -- time and scheduling ---------------------------------------------------------------------

    def time(self) -> float:
        return self.clock.elapsed_us / MICROSECONDS

    # asyncio's stubs tie `args` to the callback's parameters; these are looser, and faster to call.
    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        """Schedule a callback; the steps of a task, which only asyncio's C code schedules, get no handle."""
        if self._closed:
            raise RuntimeError("Event loop is closed")
        if context is None:
            context = contextvars.copy_context()
        else:
            kind: Any = type(callback)  # pyright: ignore[reportUnknownVariableType] # a callback is Any
            if kind is STEP or (kind is WAKEUP and args and isinstance(callback.__self__, asyncio.Task)):
                self._ready.append((context, callback, args))
                return None
        handle = PlainHandle(callback, args, self, context)
        self._ready.append((None, handle, ()))
        return handle

    def call_later(  # type: ignore[override] # see call_soon
        self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Timer:
        when = self.clock.elapsed_us / MICROSECONDS + delay
        if 0 < delay < _STEP:  # time must pass, or waiting for the rest of a deadline never ends
            when = (self.clock.elapsed_us + 1) / MICROSECONDS
        return self.call_at(when, callback, *args, context=context)

    def call_at(  # type: ignore[override] # see call_soon
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Timer:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        timer = Timer(when, callback, args, self, contextvars.copy_context() if context is None else context)
        if when == _NEVER:
            return timer
        # The nearest microsecond: time() + delay is a sum of floats, off by up to a tenth of one after some years.
        try:
            when_us = int(when * MICROSECONDS + 0.5)
        except (ValueError, OverflowError):
            when_us = _extreme_us(when)
        if when_us <= self.clock.elapsed_us:
            self._ready.append((None, timer, ()))
        else:
            self._timers += 1
            timer._scheduled = True
            heappush(self._heap, (when_us, self._timers, timer))
        return timer

    def call_at_instant_end(self, callback: Any, *args: Any) -> asyncio.Handle:
        """Schedule a callback for when all that can happen at this virtual instant has happened."""
        self._check_closed()
        handle = PlainHandle(callback, args, self, contextvars.copy_context())
        self._at_instant_end.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override] # see call_soon
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> PlainHandle:
        self._check_closed()
        handle = PlainHandle(callback, args, self, contextvars.copy_context() if context is None else context)
        if self._thread_id == threading.get_ident():
            self._ready.append((None, handle, ()))
            if self._inline is not None:
                self._inline.on_threadsafe_call(handle)
        else:
            asgiref_result(handle)
            self._outside.deliver(handle)
        return handle

    def _add_callback(self, handle: events.Handle) -> None:
        """Make ready what a socket's event calls."""
        if not handle._cancelled:
            self._ready.append((None, handle, ()))

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:  # noqa: ARG002 - asyncio's signature
        self._cancelled_timers += 1
        if self._cancelled_timers > 100 and self._cancelled_timers * 2 > len(self._heap):
            self._heap[:] = [entry for entry in self._heap if not entry[2]._cancelled]
            heapify(self._heap)
            self._cancelled_timers = 0

    # -- tasks and executors ---------------------------------------------------------------------

    def create_task(self, coro: Any, *, name: object = None, **options: Any) -> Any:
        """Make a task in the way that the task factory says, if there is one."""
        self._check_closed()
        if self._task_factory is not None:
            return super().create_task(coro, name=name, **options)
        return self.make_task(coro, name=name, **options)

    def make_task(self, coro: Any, *, name: object = None, **options: Any) -> SimulatedTask:
        """Make a task, also for a factory; numbered in order of creation, since asyncio's own order is by address."""
        self._tasks_made += 1
        return SimulatedTask.make(coro, loop=self, order=self._tasks_made, name=name, options=options)

    def run_in_executor(  # type: ignore[override] # see call_soon
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        self._check_closed()
        if self._outside.real:
            return self._outside.submit(executor, func, args)
        self._tasks_made += 1
        if self._inline is None:
            self._inline = InlineCalls(self, self._run_nested)
        return self._inline.schedule(executor, func, args, self._tasks_made)

    @contextmanager
    def outside_work(self) -> Generator[None]:
        """Let virtual time stand still inside: something that this loop does not see is at work for it."""
        self._outside.begin()
        try:
            yield
        finally:
            self._outside.end()

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002 - asyncio's signature
        """Wait for the threads of the default executor, if real ones were used; virtual time stands still."""
        self._executor_shutdown_called = True
        executor = self._default_executor
        if executor is not None:
            await self._outside.shut_down(executor)

    def choose_by(self, search: Search) -> None:
        """Choose among ready task steps in this way from the next run of the loop on."""
        scheduler = make_scheduler(search, self.tape)
        self._step_runner = self._step_runner if scheduler is None else StepRunner(self, scheduler)

    # -- running ---------------------------------------------------------------------------------

    def _turn(self) -> Callable[[], None]:
        return self._run_once if self._step_runner is None else self._step_runner.advance

    def _run_all(self) -> None:
        self._steps_before = self.steps
        turn = self._turn()
        while True:
            try:
                while not self._stopping:
                    turn()
                return
            except SimulationError:
                raise
            except Exception as error:  # noqa: BLE001 - asyncio's own fault, like a task that runs already
                self.call_exception_handler({"message": "Exception in a task step", "exception": error})

    def _run_nested(self, done: Callable[[], bool]) -> None:
        """Run inside a function that this loop runs, until `done()` or until it is stopped."""
        turn, count = self._turn(), len(self._ready)
        events._set_running_loop(self)
        try:
            while not (done() or self._stopping):
                try:
                    turn()
                except SimulationError:
                    raise
                except Exception as error:  # noqa: BLE001 - as in `_run_all`
                    self.call_exception_handler({"message": "Exception in a task step", "exception": error})
        finally:
            events._set_running_loop(None)
            # The turn that runs the function has counted what was ready, and goes on to take as many entries.
            while self._step_runner is None and len(self._ready) < count:
                self._ready.append((None, NO_CALLBACK, ()))

    def _has_ready(self) -> bool:
        return bool(self._ready) or (self._step_runner is not None and self._step_runner.has_ready)

    def _run_once(self) -> None:
        """Run what is ready now, first come, first served; what becomes ready meanwhile waits, as in asyncio."""
        ready = self._ready
        heap = self._heap
        if self._polled or (heap and heap[0][0] <= self.clock.elapsed_us):
            self._gather()
        if not ready:
            self._wait_for_work()
        count = len(ready)
        self._stalled_steps += count
        if self._stalled_steps > self.limits.stalled_steps_max:
            self._check_livelock()
            count = len(ready)
        popleft = ready.popleft
        for _ in range(count):
            context, callback, args = popleft()
            if context is not None:
                context.run(callback, *args)
            elif not callback._cancelled:
                callback._run()

    def _gather(self) -> None:
        """Make ready what is due by now, and with real executors what other threads sent."""
        if self._polled:
            self._outside.collect()
        heap = self._heap
        if heap and heap[0][0] <= self.clock.elapsed_us:
            self._fire_due()

    def _wait_for_work(self) -> None:
        """Nothing is ready: take what other threads sent, else jump to the next timer, else raise Deadlock."""
        try:
            self._find_work()
        except SimulationError:
            raise
        except Exception as error:
            # Taken for the error of a callback, an error of ours would be raised again and again.
            raise SimulationError(f"the simulation loop itself failed: {error!r}") from error

    def _find_work(self) -> None:
        outside = self._outside
        while not self._ready and not self._stopping:
            if self._inline is not None:
                self._inline.check_nesting()
            if self._outside_called(outside):
                outside.collect()
            elif self._at_instant_end:
                self._ready.extend((None, self._at_instant_end.popleft(), ()) for _ in range(len(self._at_instant_end)))
            elif self._next_timer() is not None:
                self._jump(self._heap[0][0])
                self._fire_due()
            elif not outside.wait_in_grace():
                inline = [] if self._inline is None else self._inline.describe()
                raise Deadlock(deadlock_text(self._state(), [*inline, *outside.describe()]))

    def _outside_called(self, outside: OutsideWork) -> bool:
        """Wait in real time for sockets and threads that hold virtual time; False if none does."""
        if self.may_wait_outside() and self._wait_for_outside(outside.received, outside.is_working):
            return True
        return outside.wait()

    def _next_timer(self) -> Timer | None:
        heap = self._heap
        while heap and heap[0][2]._cancelled:
            heappop(heap)
            self._cancelled_timers -= 1
        return heap[0][2] if heap else None

    def _fire_due(self) -> None:
        heap = self._heap
        now_us = self.clock.elapsed_us
        while heap and heap[0][0] <= now_us:
            timer = heappop(heap)[2]
            if timer._cancelled:
                self._cancelled_timers -= 1
            else:
                timer._scheduled = False
                self._ready.append((None, timer, ()))

    def _jump(self, when_us: int) -> None:
        self.steps += self._stalled_steps
        self._stalled_steps = 0
        if when_us > self._limit_us or self.steps - self._steps_before > self.limits.steps_max:
            raise LimitExceeded(limit_text(self._state(), when_us))
        if self._step_runner is not None:
            self._step_runner.record_jump(when_us)
        self.clock.move_to_us(when_us)

    def _check_livelock(self) -> None:
        """Record some more steps to see what repeats and raise Livelock; return if nothing is ready any more."""
        self.steps += self._stalled_steps
        self._stalled_steps = 0
        if self._outside.received:
            self._outside.collect()
            return
        runner = self._step_runner or StepRunner(self, None)
        count = min(_LIVELOCK_STEPS, self.limits.stalled_steps_max)
        if self._step_runner is None:
            self._step_runner = runner  # an inline call may run the loop inside itself
            names = runner.record_names(count)
            self._step_runner = None
            runner.return_ready()
        else:
            names = runner.record_names(count)
        if len(names) >= count:
            raise Livelock(livelock_text(self._state(), names))

    def _state(self) -> LoopState:
        return LoopState(
            tasks=pending_tasks(self),
            elapsed_us=self.clock.elapsed_us,
            seed=self.tape.seed,
            steps=self.steps,
            limits=self.limits,
        )

    def trace_digest(self) -> str:
        """Return a hash of every task step and jump so far; needs `trace=True` or a search."""
        if self._step_runner is None:
            raise ValueError("this loop keeps no trace; create it with trace=True")
        return self._step_runner.digest()

    def close(self) -> None:
        super().close()
        self._heap.clear()
        self._at_instant_end.clear()
        if self._step_runner is not None:
            self._step_runner.clear()


def _never() -> bool:
    return False


def _extreme_us(when: float) -> int:
    """Return the instant of a time that is no number of microseconds."""
    if when != when:  # noqa: PLR0124 - only NaN differs from itself
        raise ValueError("Invalid delay: NaN (not a number)")
    return -1 if when < 0 else int(when) * MICROSECONDS
