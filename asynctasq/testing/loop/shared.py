"""Virtual time for a queue on an event loop that is somebody else's: the test's own, asyncio's or uvloop's.

What runs in the context of this queue's workers is watched. Its timers are virtual where asynctasq or the application
set them, and real where a library did. The virtual clock stands still while anything of it is at work, or waits for the
world outside of the loop, and jumps to the next virtual timer when all of it is at rest.
"""

# ruff: noqa: SLF001 - what a task waits for is among asyncio's private parts
# pyright: reportPrivateUsage=false

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import Context, copy_context
from heapq import heappop, heappush
from types import FrameType
from typing import Any, Final, TypeVar
from weakref import WeakSet

from asynctasq.kernel.messages import MICROSECONDS
from asynctasq.testing.clock import VirtualClock
from asynctasq.testing.errors import LimitExceeded
from asynctasq.testing.loop.hooks import LoopHooks, virtual_time_of_context
from asynctasq.testing.loop.report import describe_task
from asynctasq.testing.loop.waits import Origin, Wait, WaitReader, caller_of_asyncio, runs_application_code
from asynctasq.testing.tape import Tape

__all__ = ["SharedLoop"]

T = TypeVar("T")

GRACE_S: Final = 1.0
"""Real seconds of silence after which code that waits for an event is taken to wait for virtual time to pass."""
_FOR_A_WHILE: Final = frozenset({Wait.AT_PRIMITIVE, Wait.PERHAPS_OUTSIDE})
JUMPS_WITHOUT_PROGRESS_MAX: Final = 100_000
"""Jumps of the clock without progress: a task that needs so many most likely never ends."""
_SLEEP: Final = "_set_result_unless_cancelled"
"""What `asyncio.sleep` asks to be called."""
_DEADLINES: Final = frozenset({"_on_timeout", "_release_waiter"})
"""What `asyncio.timeout`, `wait_for` and `wait` ask to be called: around real work, real time counts as well."""


class VirtualTimer(asyncio.TimerHandle):
    """A callback at a virtual instant, and, with `real`, at a real one as well: whichever comes first."""

    __slots__ = ("real",)

    def __init__(self, when: float, callback: Any, args: Any, loop: Any, context: Context) -> None:
        super().__init__(when, callback, args, loop, context)
        self.real: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._callback = None
            self._args = ()
            if self.real is not None:
                self.real.cancel()

    def fire(self) -> None:
        """Run the callback, once."""
        if not self._cancelled:
            self._run()
            self.cancel()


class SharedLoop:
    """One queue's view of the loop that runs in this thread. `progress` counts what the queue has done."""

    def __init__(self, tape: Tape, *, real_s_max: float, clock: VirtualClock | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.tape = tape
        self.clock = clock or VirtualClock()
        self.real_s_max = real_s_max
        self.tasks: dict[asyncio.Task[Any], Origin] = {}
        self.progress = 0
        self.on_stuck: Callable[[BaseException], None] = _raise
        self.make_task: Callable[[Any, Callable[..., Any], dict[str, Any]], Any] = _make_plainly
        """Makes a task in a worker's context: of a coroutine, with what makes one of the loop, and its options."""
        self._heap: list[tuple[int, int, VirtualTimer]] = []
        self._timers = 0
        self._at_instant_end: deque[asyncio.Handle] = deque()
        self._sleeps: WeakSet[Any] = WeakSet()
        self._waits = WaitReader(tasks=self.tasks, timed=self._sleeps.__contains__)
        self._heard: WeakSet[Any] = WeakSet()
        self._given_up: WeakSet[Any] = WeakSet()
        self._running = 0
        self._checks = False
        self._silence: asyncio.TimerHandle | None = None
        self._progress_seen = -1
        self._quiet_since = 0.0
        self._jumps = 0
        self.hooks = LoopHooks.of(self.loop)
        self.hooks.install()

    def abandon(self) -> None:
        """Ask what is left of the queue's tasks to end, and let the loop be as it was; for code that can't await."""
        if not self.loop.is_closed():
            for task in list(self.tasks):
                task.cancel()
        self.hooks.uninstall()

    async def close(self) -> None:
        """Cancel what is left of the queue's tasks, and let the loop be as it was.

        Raises: LimitExceeded, naming the tasks, if some go on after their cancellation.
        """
        left = list(self.tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=GRACE_S)
        self.hooks.uninstall()
        if self.tasks:
            listed = "\n  ".join(describe_task(task) for task in self.tasks)
            raise LimitExceeded(f"these tasks of the FakeQueue ignore their cancellation:\n  {listed}")

    # -- what an engine asks of its loop ---------------------------------------------------------

    def is_running(self) -> bool:
        return self.loop.is_running()

    def is_closed(self) -> bool:
        return self.loop.is_closed()

    def create_future(self) -> "asyncio.Future[Any]":
        return self.loop.create_future()

    def create_task(
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> "asyncio.Task[T]":
        """Make a task whose timers are virtual and that holds virtual time while it works."""
        context = copy_context() if context is None else context
        context.run(virtual_time_of_context.set, self)
        return self.loop.create_task(coro, name=name, context=context)

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> VirtualTimer:
        """Schedule a callback in virtual time."""
        return self._set_timer(self.clock.elapsed_us + max(0.0, delay) * MICROSECONDS, callback, args, context)

    def call_at(self, elapsed_s: float, callback: Any, *args: Any, context: Context | None = None) -> VirtualTimer:
        """Schedule a callback for when the clock shows `elapsed_s`."""
        return self._set_timer(elapsed_s * MICROSECONDS, callback, args, context)

    def call_at_instant_end(self, callback: Any, *args: Any) -> asyncio.Handle:
        """Schedule a callback for when all that can happen at this virtual instant has happened."""
        handle = asyncio.Handle(callback, args, self.loop, copy_context())
        self._at_instant_end.append(handle)
        self.check_soon()
        return handle

    @contextmanager
    def running(self) -> Generator[None]:
        """Let virtual time pass inside, where nothing holds it."""
        self._running += 1
        self._progress_seen = -1
        self._note_progress()
        self.check_soon()
        try:
            yield
        finally:
            self._running -= 1
            if self._silence is not None:
                self._silence.cancel()
                self._silence = None

    # -- timers ----------------------------------------------------------------------------------

    def _set_timer(self, when_us: float, callback: Any, args: Any, context: Context | None) -> VirtualTimer:
        timer = VirtualTimer(when_us / MICROSECONDS, callback, args, self.loop, context or copy_context())
        if when_us != float("inf"):
            self._timers += 1
            # Time must pass for a wait, however short, or waiting for the rest of a deadline never ends.
            least = self.clock.elapsed_us + 1 if when_us > self.clock.elapsed_us else self.clock.elapsed_us
            heappush(self._heap, (max(int(when_us + 0.5), least), self._timers, timer))
            self.check_soon()
        return timer

    def asked_by(self, frame: FrameType) -> Origin:
        """Return whose code asks the loop for something, from the frame that asks up."""
        task = asyncio.current_task(self.loop)
        origin = caller_of_asyncio(frame, task)
        if origin is not None:
            return origin
        return Origin.LIBRARY if task is None else self.tasks.get(task, Origin.LIBRARY)

    def timer_of_task(
        self, delay: float, callback: Any, args: Any, context: Context | None, real: Callable[..., asyncio.TimerHandle]
    ) -> asyncio.TimerHandle:
        """Set a timer for code of the application or of asynctasq: virtual, and where it is a deadline real as well."""
        timer = self.call_later(delay, callback, *args, context=context)
        name = getattr(callback, "__name__", "")
        if name == _SLEEP:
            self._sleeps.add(args[0])
        elif name in _DEADLINES:
            timer.real = real(delay, timer.fire)
        return timer

    def time(self) -> float:
        """Return the virtual seconds since the queue was opened."""
        return self.clock.elapsed_us / MICROSECONDS

    # -- rest, and the passing of time -----------------------------------------------------------

    def check_soon(self, _: object = None) -> None:
        """Look, after what is ready now, whether all is at rest."""
        if self._running and not self._checks and not self.loop.is_closed():
            self._checks = True
            self.loop.call_soon(self._check, context=Context())

    def _check(self) -> None:
        self._checks = False
        if not self._running:
            return
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        waits = {task: self._wait_of(task) for task in self.tasks}
        most = max(waits.values(), default=Wait.INSIDE)
        if most is Wait.READY:
            self.check_soon()
        elif most is Wait.INSIDE or (most is Wait.AT_PRIMITIVE and self._somebody_sleeps()):
            self._pass_on()
        else:
            for task in self.tasks:
                self._listen(task)
            self._wait_for_the_world(waits, most)

    def _somebody_sleeps(self) -> bool:
        """Say whether code of the application sleeps: it may set, in virtual time, what others wait for."""
        return not all(sleep.done() for sleep in self._sleeps)

    def _wait_of(self, task: "asyncio.Task[Any]") -> Wait:
        wait = self._waits.wait_of(task)
        if wait is Wait.OUTSIDE and self.tasks[task] is Origin.LIBRARY:
            wait = Wait.PERHAPS_OUTSIDE
        if wait in _FOR_A_WHILE and task._fut_waiter in self._given_up:  # type: ignore[attr-defined]
            wait = Wait.INSIDE
        return wait

    def _listen(self, task: "asyncio.Task[Any]") -> None:
        waiter: Any = getattr(task, "_fut_waiter", None)
        if waiter is not None and waiter not in self._heard:
            self._heard.add(waiter)
            waiter.add_done_callback(self.check_soon)

    def _wait_for_the_world(self, waits: "dict[asyncio.Task[Any], Wait]", most: Wait) -> None:
        """Let real time pass until something happens, or, where only events and locks are waited for, a while."""
        if most in _FOR_A_WHILE:
            self._silence = self.hooks.real_later(GRACE_S, self._give_up, waits)
            return
        self._note_progress()
        left_s = self._quiet_since + self.real_s_max - self.hooks.real_time()
        if left_s > 0:
            self._silence = self.hooks.real_later(left_s, self.check_soon)
        else:
            self._stuck(f"for {self.real_s_max:g} s of real time (FakeQueue(real_s_max=...))", waits)

    def _note_progress(self) -> None:
        if self._progress_seen != self.progress:
            self._progress_seen, self._quiet_since, self._jumps = self.progress, self.hooks.real_time(), 0

    def _give_up(self, waits: "dict[asyncio.Task[Any], Wait]") -> None:
        for task, wait in waits.items():
            if wait in _FOR_A_WHILE and task in self.tasks:
                waiter: Any = task._fut_waiter  # type: ignore[attr-defined]
                if waiter is not None:
                    self._given_up.add(waiter)
        self.check_soon()

    def _stuck(self, how_long: str, waits: "dict[asyncio.Task[Any], Wait]") -> None:
        waiting = [task for task, wait in waits.items() if wait is not Wait.INSIDE]
        waiting = waiting or [task for task in waits if runs_application_code(task)] or list(waits)
        listed = "\n  ".join(describe_task(task) for task in waiting)
        self.on_stuck(
            LimitExceeded(
                f"this does not end: no task has begun or ended {how_long}. Let what is waited for happen, by a fake "
                "or a server in the test; where a task only loops, let only so much time pass, with "
                f"advance(seconds=...). What runs waits here\n  {listed}"
            )
        )

    def _pass_on(self) -> None:
        """All is at rest: let those who wait for that go on, else let time pass."""
        if self._at_instant_end:
            for _ in range(len(self._at_instant_end)):
                self._at_instant_end.popleft()._run()
            self.check_soon()
            return
        while self._heap and self._heap[0][2]._cancelled:
            heappop(self._heap)
        if not self._heap:  # somebody else in the loop must move them
            for task in self.tasks:
                self._listen(task)
            self._wait_for_the_world(dict.fromkeys(self.tasks, Wait.OUTSIDE), Wait.OUTSIDE)
            return
        self._jump(self._heap[0][0])

    def _jump(self, when_us: int) -> None:
        self._note_progress()
        self._jumps += 1
        if self._jumps > JUMPS_WITHOUT_PROGRESS_MAX:
            waits = {task: self._wait_of(task) for task in self.tasks}
            self._stuck(f"in {JUMPS_WITHOUT_PROGRESS_MAX} jumps of the clock", waits)
            return
        self.clock.move_to_us(max(when_us, self.clock.elapsed_us))
        while self._heap and self._heap[0][0] <= when_us:
            heappop(self._heap)[2].fire()
        self.check_soon()


def _make_plainly(coro: Any, make: Callable[..., Any], options: dict[str, Any]) -> Any:
    return make(coro, **options)


def _raise(error: BaseException) -> None:
    raise error
