"""The private parts of asyncio that the simulation loop uses, in one place, so that a test can check them."""

# ruff: noqa: SLF001 - the loop is made of asyncio's private parts; a test watches each of them
# pyright: reportPrivateUsage=false

import asyncio
import selectors
import threading
import types
from asyncio import events, futures, tasks
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, cast

__all__ = [
    "NO_CALLBACK",
    "STEP",
    "THREADS",
    "WAKEUP",
    "BaseLoop",
    "PlainHandle",
    "Timer",
    "enter_task",
    "is_python_step",
    "leave_task",
]

if TYPE_CHECKING:

    class BaseLoop(asyncio.SelectorEventLoop):
        """asyncio's loop with the private attributes that the type stubs leave out.

        `_ready` as a simulation fills it: (context, step, args) for a step of a task, (None, handle, ()) for all else.
        """

        _closed: bool
        _ready: deque[tuple[Any, Any, tuple[Any, ...]]]
        _stopping: bool
        _thread_id: int | None
        _default_executor: ThreadPoolExecutor | None
        _executor_shutdown_called: bool
        _exception_handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None
        _task_factory: Callable[..., Any] | None

        _selector: selectors.BaseSelector | None
        _csock: Any

        def _check_closed(self) -> None: ...
        def _make_self_pipe(self) -> None: ...
        def _write_to_self(self) -> None: ...
        def _process_events(self, event_list: list[Any]) -> None: ...
        def _check_default_executor(self) -> None: ...
else:
    BaseLoop = asyncio.SelectorEventLoop

_tasks = cast("Any", tasks)

enter_task: Final[Callable[[asyncio.AbstractEventLoop, Any], None]] = _tasks._enter_task
leave_task: Final[Callable[[asyncio.AbstractEventLoop, Any], None]] = _tasks._leave_task
_PYTHON_TASK: Final[type] = _tasks._PyTask
# Every live thread by its number. `threading.enumerate()` takes a lock and makes a list, at every jump of the clock.
THREADS: Final[dict[int, threading.Thread]] = cast("Any", threading)._active


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


def _find_callables() -> tuple[Any, Any]:
    """Return the types of what asyncio schedules for a task: its steps, and its wake-ups by a future."""
    recorder: Any = _Recorder()
    future = cast("Any", futures.Future[None](loop=recorder))
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
    assert task.done(), "a step and a wake-up end this task"
    assert step.__self__ is task
    assert wakeup.__self__ is task
    return step.__class__, wakeup.__class__


_found = _find_callables()
STEP: Final[type] = _found[0]
WAKEUP: Final[type] = _found[1]


class PlainHandle(events.Handle):
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
            self._args = ()
            if self._scheduled:
                self._loop._timer_handle_cancelled(self)


def _do_nothing() -> None:
    pass


NO_CALLBACK: Final[Any] = PlainHandle(_do_nothing, (), None, None)
"""A cancelled callback: it takes a place among what is ready, and nothing runs."""
NO_CALLBACK._cancelled = True


def is_python_step(callback: Any) -> bool:
    """Tell a step of asyncio's Python implementation of `Task`, which is a bound method."""
    return isinstance(callback, types.MethodType) and isinstance(callback.__self__, _PYTHON_TASK)
