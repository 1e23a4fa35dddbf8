"""What is put in the way of an event loop while a queue shares it: its time, its timers and its way to make tasks."""

# ruff: noqa: SLF001 - who asks the loop is read from the frames
# pyright: reportPrivateUsage=false

import asyncio
import sys
import weakref
from collections.abc import Callable
from contextvars import Context, ContextVar
from functools import partial
from types import FrameType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from asynctasq.testing.loop.waits import Origin

__all__ = ["LoopHooks", "virtual_time_of_context"]


class VirtualTime(Protocol):
    """What the hooks ask of the queue in whose context the loop is used."""

    hooks: "LoopHooks"
    tasks: "dict[asyncio.Task[Any], Origin]"
    make_task: Callable[[Any, Callable[..., Any], dict[str, Any]], Any]

    def asked_by(self, frame: FrameType) -> Origin:
        """Return whose code asks the loop for something."""
        ...

    def time(self) -> float:
        """Return the virtual seconds since the queue was opened."""
        ...

    def timer_of_task(
        self, delay: float, callback: Any, args: Any, context: Context | None, real: Callable[..., asyncio.TimerHandle]
    ) -> asyncio.TimerHandle:
        """Set a timer in virtual time; `real` sets one in real time."""
        ...

    def check_soon(self, _: object = None) -> None:
        """Look soon whether time may pass."""
        ...


virtual_time_of_context: ContextVar[VirtualTime | None] = ContextVar("asynctasq_virtual_time", default=None)
"""The queue whose workers the current code runs in, on a loop that it shares; None outside of them."""


class LoopHooks:
    """What is put in the way of one loop while queues share it; it asks only in the contexts of their workers."""

    _known: "WeakKeyDictionary[asyncio.AbstractEventLoop, LoopHooks]" = WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Any = weakref.proxy(loop)
        self._users = 0
        self._passing = False
        self._time: Any = None
        self._call_later: Any = None
        self._call_at: Any = None
        self._factory: Any = None

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> "LoopHooks":
        """Return the hooks of a loop, made once."""
        hooks = cls._known.get(loop)
        if hooks is None:
            hooks = cls._known[loop] = cls(loop)
        return hooks

    def install(self) -> None:
        """Put the hooks in place, unless another queue has."""
        self._users += 1
        if self._users == 1:
            loop = self._loop
            self._time, self._call_later, self._call_at = loop.time, loop.call_later, loop.call_at
            loop.time, loop.call_later, loop.call_at = self._now, self._later, self._at
            self._factory = loop.get_task_factory()
            loop.set_task_factory(self._make_task)

    def uninstall(self) -> None:
        """Remove the hooks once no queue needs them."""
        self._users -= 1
        if self._users == 0:
            loop = self._loop
            del loop.time, loop.call_later, loop.call_at
            if loop.get_task_factory() == self._make_task:
                loop.set_task_factory(self._factory)
            self._time = self._call_later = self._call_at = self._factory = None

    def real_time(self) -> float:
        """Return the loop's own time."""
        now: float = self._time()
        return now

    def real_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        """Schedule a callback in real time, whoever asks."""
        passing, self._passing = self._passing, True  # the loop's own methods call each other by these names
        try:
            return self._call_later(delay, callback, *args, context=context)
        finally:
            self._passing = passing

    def _shared(self) -> VirtualTime | None:
        """Return the queue whose virtual time counts for the code that asks the loop, two frames up."""
        shared = virtual_time_of_context.get()
        if self._passing or shared is None or shared.hooks is not self:
            return None
        return None if shared.asked_by(sys._getframe(2)) is Origin.LIBRARY else shared

    def _now(self) -> float:
        shared = self._shared()
        return self.real_time() if shared is None else shared.time()

    def _later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        if self._passing:
            return self._call_later(delay, callback, *args, context=context)
        shared = self._shared()
        if shared is None:
            return self.real_later(delay, callback, *args, context=context)
        return shared.timer_of_task(delay, callback, args, context, self.real_later)

    def _at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        if self._passing:
            return self._call_at(when, callback, *args, context=context)
        shared = self._shared()
        if shared is None:
            return self.real_later(when - self.real_time(), callback, *args, context=context)
        return shared.timer_of_task(when - shared.time(), callback, args, context, self.real_later)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Any, *, context: Context | None = None, **options: Any
    ) -> Any:
        shared = virtual_time_of_context.get() if context is None else context.get(virtual_time_of_context)
        if context is not None:
            options["context"] = context
        make: Any = partial(self._factory, loop) if self._factory else partial(asyncio.Task, loop=loop)
        task: Any = make(coro, **options) if shared is None else shared.make_task(coro, make, options)
        if shared is not None and shared.hooks is self and not task.done():
            shared.tasks[task] = shared.asked_by(sys._getframe(1))
            task.add_done_callback(shared.tasks.pop)
            task.add_done_callback(shared.check_soon)
            shared.check_soon()
        return task
