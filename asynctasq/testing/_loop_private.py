"""The private parts of asyncio that the simulation loop stands on, in one place, so that a test can watch them."""

import asyncio
import types
from asyncio import events, futures, tasks
from collections.abc import Callable
from typing import Any, Final, cast

__all__ = ["PYTHON_TASK", "STEP", "WAKEUP", "Notice", "Timer", "enter_task", "is_python_step", "leave_task"]

_tasks = cast("Any", tasks)

enter_task: Final[Callable[[asyncio.AbstractEventLoop, Any], None]] = _tasks._enter_task
leave_task: Final[Callable[[asyncio.AbstractEventLoop, Any], None]] = _tasks._leave_task
PYTHON_TASK: Final[type] = _tasks._PyTask


class _Recorder:
    """Stands in for a loop while a task is made, to see which callable it schedules."""

    def __init__(self) -> None:
        self.scheduled: list[Any] = []

    def get_debug(self) -> bool:
        return False

    def call_soon(self, callback: Any, *_: Any, context: Any = None) -> None:
        self.scheduled.append((callback, context))


class _Suspended:
    """Awaitable that hands one future to its task and then ends."""

    def __init__(self, future: Any) -> None:
        self._future = future

    def __await__(self) -> Any:
        self._future._asyncio_future_blocking = True
        yield self._future


async def _await(future: Any) -> None:
    await _Suspended(future)


def _find_callables() -> tuple[type, type]:
    """Return the types of what asyncio schedules for a task: its steps, and its wake-ups by a future."""
    recorder: Any = _Recorder()
    future: Any = futures.Future(loop=recorder)
    task: Any = asyncio.Task(_await(future), loop=recorder)
    step = recorder.scheduled.pop()[0]
    outer = events._get_running_loop()
    events._set_running_loop(recorder)
    try:
        step()
        future.set_result(None)
        wakeup = recorder.scheduled.pop()[0]
        wakeup(future)
    finally:
        events._set_running_loop(outer)
    assert task.done() and step.__self__ is task and wakeup.__self__ is task
    return type(step), type(wakeup)


STEP: Final[type]
WAKEUP: Final[type]
STEP, WAKEUP = _find_callables()


class Notice(events.Handle):
    """A plain callback, made faster than asyncio's handle: it keeps no traceback."""

    __slots__ = ()

    def __init__(self, callback: Any, args: Any, loop: Any, context: Any) -> None:
        self._context = context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class Timer(events.TimerHandle):
    """A callback at a virtual instant; `_scheduled` is true while it is in the loop's heap."""

    __slots__ = ()

    def __init__(self, when: float, callback: Any, args: Any, loop: Any, context: Any) -> None:
        self._context = context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self._when = when
        self._scheduled = False

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._callback = None
            self._args = None
            if self._scheduled:
                self._loop._timer_handle_cancelled(self)


def is_python_step(callback: Any) -> bool:
    """Tell a step of asyncio's Python implementation of `Task`, which is a bound method."""
    return isinstance(callback, types.MethodType) and isinstance(callback.__self__, PYTHON_TASK)
