"""Runs the task steps of a simulation loop in the order that a scheduler chooses, and keeps a trace of it."""

# ruff: noqa: SLF001 - the loop is made of asyncio's private parts; a test watches each of them
# pyright: reportPrivateUsage=false

import hashlib
import sys
from array import array
from collections import deque
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

from asynctasq.testing.loop.asyncio_internals import is_python_step
from asynctasq.testing.loop.limits import Limits
from asynctasq.testing.loop.report import callback_name
from asynctasq.testing.loop.search import Fifo, Scheduler

__all__ = ["StepRunner"]

_FLUSH: Final = 4_096


class SteppedLoop(Protocol):
    """What a step runner uses of its loop."""

    limits: Limits
    _ready: deque[tuple[Any, Any, tuple[Any, ...]]]
    _stopping: bool
    _stalled_steps: int
    _tasks_made: int

    def _gather(self) -> None:
        """Make ready what is due by now."""
        ...

    def _wait_for_work(self) -> None:
        """Let time pass until something is ready."""
        ...

    def _check_livelock(self) -> None:
        """Raise Livelock if steps repeat while time stands still."""
        ...


class StepRunner:
    """Chooses among ready task steps; plain callbacks keep their order, and their place before younger steps.

    Choices are made only between task steps, since how many callbacks asyncio needs for the same
    program differs between versions of Python.
    """

    def __init__(self, loop: SteppedLoop, scheduler: Scheduler | None) -> None:
        self._loop = loop
        self._choose = (scheduler or Fifo()).choose
        self._steps: list[tuple[int, Any, Any, tuple[Any, ...]]] = []
        self._orders: list[int] = []
        self._callbacks: deque[tuple[int, Any]] = deque()
        self._arrivals = 0
        self._trace: list[int] = []
        self._hash = hashlib.blake2b(digest_size=16)
        self._names: list[str] | None = None
        self._numbered: WeakKeyDictionary[Any, int] = WeakKeyDictionary()

    def advance(self) -> None:
        """Run the callbacks whose turn it is, then one task step; when there is nothing, let time pass."""
        loop = self._loop
        if loop._stalled_steps > loop.limits.stalled_steps_max and self._names is None:
            loop._check_livelock()
            return
        loop._gather()
        if loop._ready:
            self._collect_ready()
        steps = self._steps
        if not steps and not self._callbacks:
            loop._wait_for_work()
            return
        if self._callbacks and not self._run_callbacks(steps[0][0] if steps else None):
            return
        count = len(steps)
        if not count:
            return
        index = self._choose(self._orders) if count > 1 else 0
        arrival, context, callback, args = steps.pop(index)
        order = self._orders.pop(index)
        self._trace.append(order)
        if index and self._callbacks:
            self._run_callbacks(arrival)
        self._count(callback if context is not None else callback._callback)
        if context is not None:
            context.run(callback, *args)
        else:
            callback._run()

    def _collect_ready(self) -> None:
        ready = self._loop._ready
        while ready:
            context, callback, args = ready.popleft()
            self._arrivals += 1
            if context is not None:
                subject = callback.__self__
            elif is_python_step(callback._callback):
                subject = callback._callback.__self__
            else:
                self._callbacks.append((self._arrivals, callback))
                continue
            self._steps.append((self._arrivals, context, callback, args))
            try:
                self._orders.append(subject.order)
            except AttributeError:
                self._orders.append(self._number_of(subject))

    def _number_of(self, subject: Any) -> int:
        """Number a task that another task factory made, in order of its first step."""
        number = self._numbered.get(subject)
        if number is None:
            self._loop._tasks_made += 1
            number = self._numbered[subject] = self._loop._tasks_made
        return number

    def _run_callbacks(self, before: int | None) -> bool:
        """Run callbacks that came before that arrival; False if there were none left to choose for or a stop."""
        callbacks = self._callbacks
        while callbacks and (before is None or callbacks[0][0] < before):
            handle = callbacks.popleft()[1]
            if handle._cancelled:
                continue
            self._count(handle._callback)
            handle._run()
            if self._loop._stopping:
                return False
        if self._loop._ready:
            self._collect_ready()
        return True

    def _count(self, callback: Any) -> None:
        self._loop._stalled_steps += 1
        if self._names is not None:
            self._names.append(callback_name(callback))

    # -- the trace -------------------------------------------------------------------------------

    def record_jump(self, when_us: int) -> None:
        """Add a jump of the clock to the trace."""
        self._trace.append(-when_us)
        if len(self._trace) > _FLUSH:
            self._flush()

    def digest(self) -> str:
        """Return the hash of all steps and jumps so far."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        numbers = array("q", self._trace)
        if sys.byteorder == "big":
            numbers.byteswap()
        self._hash.update(numbers.tobytes())
        self._trace.clear()

    def record_names(self, count: int) -> list[str]:
        """Run about `count` more entries and return their names; fewer if nothing is ready any more."""
        names: list[str] = []
        self._names = names
        try:
            while len(names) < count and not self._loop._stopping:
                self._collect_ready()
                if not self._steps and not self._callbacks:
                    break
                self.advance()
        finally:
            self._names = None
        return names

    def return_ready(self) -> None:
        """Put what is ready back into the loop, in order of arrival."""
        entries: list[tuple[int, Any, Any, tuple[Any, ...]]] = [*self._steps]
        entries.extend((arrival, None, handle, ()) for arrival, handle in self._callbacks)
        entries.sort(key=lambda entry: entry[0], reverse=True)
        self._loop._ready.extendleft(entry[1:] for entry in entries)
        self.clear()

    @property
    def has_ready(self) -> bool:
        """Whether something is ready that has been taken from the loop."""
        return bool(self._steps or self._callbacks)

    def clear(self) -> None:
        """Forget what is ready."""
        self._steps.clear()
        self._orders.clear()
        self._callbacks.clear()
