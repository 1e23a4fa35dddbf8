"""What a suspended task waits for: other tasks and timers of the loop, or the world outside of it. Changes nothing."""

# pyright: reportPrivateUsage=false

import asyncio
import enum
import os
import sysconfig
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final
from weakref import WeakSet

import asynctasq
from asynctasq.testing.loop.report import frames_of
from asynctasq.testing.loop.threads import closure_variable

__all__ = [
    "Origin",
    "Wait",
    "WaitReader",
    "caller_of_asyncio",
    "origin_of",
    "runs_application_code",
    "set_by_test_tools",
]


set_by_test_tools: WeakSet[Any] = WeakSet()
"""Futures that a test tool will set, whatever the code that awaits them looks like."""


class Origin(enum.Enum):
    """Whose code it is."""

    ASYNCIO = "asyncio"
    OURS = "asynctasq"
    LIBRARY = "an installed package"
    APPLICATION = "the application"


class Wait(enum.IntEnum):
    """What a task waits for; of several things the greatest counts."""

    INSIDE = 0
    """Another task of the loop, or one of its timers."""
    AT_PRIMITIVE = 1
    """The application's own use of an event or a lock: whoever sets it is a task of the queue, or one of the test."""
    PERHAPS_OUTSIDE = 2
    """A library's use of an event or a lock: whoever sets it may be a task, or a socket."""
    OUTSIDE = 3
    """A socket, a thread, a child process, or a future that nothing in the loop is known to set."""
    READY = 4
    """Its turn."""


_ASYNCIO: Final = f"{Path(asyncio.__file__).parent}{os.sep}"
_OURS: Final = f"{Path(asynctasq.__file__).parent}{os.sep}"
_STDLIB: Final = f"{sysconfig.get_path('stdlib')}{os.sep}"
_INSTALLED: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_PRIMITIVES: Final = frozenset({"locks.py", "queues.py", "taskgroups.py", "timeouts.py", "tasks.py"})
"""Files of asyncio whose futures are set by other tasks or by timers; the rest waits for sockets and processes."""
_OUR_OUTSIDE: Final = tuple(
    f"{_OURS}{folder.replace('/', os.sep)}{os.sep}"
    for folder in ("core/lanes", "codec/orm", "drivers/sql", "testing/transactions")
)
"""Where our own code waits for threads, child processes and databases."""
_ANYIO: Final = f"{os.sep}anyio{os.sep}_backends{os.sep}"
_ANYIO_PRIMITIVES: Final = ("Event.", "CapacityLimiter.", "Lock.", "Semaphore.", "Condition.", "TaskGroup.")
_ANYIO_ANY: Final = f"{os.sep}anyio{os.sep}"
_LISTENING: Final = frozenset({"add_reader", "add_writer"})
"""Methods of the loop that a function calls to be told of its socket, often by an event."""


@lru_cache(maxsize=8192)
def origin_of(code: CodeType) -> Origin:
    """Return whose code a function is, by the file it stands in."""
    file = code.co_filename
    if file.startswith(_ASYNCIO):
        return Origin.ASYNCIO
    if file.startswith(_OURS):
        return Origin.OURS
    if file.startswith(("<frozen", _STDLIB)) or file.endswith(".pyx") or any(part in file for part in _INSTALLED):
        return Origin.LIBRARY
    return Origin.APPLICATION


def caller_of_asyncio(frame: FrameType | None, task: "asyncio.Task[Any] | None") -> Origin | None:
    """Return whose code called into asyncio (`anyio.sleep` counts as asyncio's), from the frame of the call up.

    None where nobody did: the running task's coroutine is asyncio's own.
    """
    outermost = getattr(task.get_coro(), "cr_frame", None) if task is not None else None
    while frame is not None:
        code = frame.f_code
        origin = origin_of(code)
        if origin is not Origin.ASYNCIO and not (code.co_name == "sleep" and _ANYIO_ANY in code.co_filename):
            return origin
        if frame is outermost:
            return None
        frame = frame.f_back
    return None


def runs_application_code(task: "asyncio.Task[Any]") -> bool:
    """Say whether a function of the application is among those that a suspended task is in."""
    return any(origin_of(frame.f_code) is Origin.APPLICATION for frame in frames_of(task.get_coro()))


def _nothing_known(_: object) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitReader:
    """Reads what suspended tasks wait for.

    `tasks` are the loop's own; `timed` says whether a future is known to be set by a virtual timer; `sleep` is what
    an `asyncio.sleep` waits for otherwise.
    """

    tasks: Container[object]
    timed: Callable[[object], bool] = _nothing_known
    sleep: Wait = Wait.PERHAPS_OUTSIDE

    def wait_of(self, task: "asyncio.Task[Any]") -> Wait:
        """Return what a task waits for."""
        waiter: Any = getattr(task, "_fut_waiter", None)
        if waiter is None or waiter.done():
            return Wait.READY
        return self._of_future(waiter, frames_of(task.get_coro()))

    def _of_future(self, future: Any, frames: Sequence[FrameType] = ()) -> Wait:
        if future.done() or future in set_by_test_tools or self.timed(future):
            return Wait.INSIDE
        if isinstance(future, asyncio.Task):
            return self._of_task(future, frames) if future in self.tasks else Wait.OUTSIDE
        if any(map(_listens, frames)):
            return Wait.OUTSIDE
        code = frames[-1].f_code if frames else None
        origin = None if code is None else origin_of(code)
        if code is not None and origin is Origin.OURS and not code.co_filename.startswith(_OUR_OUTSIDE):
            return Wait.INSIDE
        inner = _stands_for(future)
        if inner is not None:
            return max(map(self._of_future, inner), default=Wait.INSIDE)
        return self._in_asyncio(frames) if origin is Origin.ASYNCIO else Wait.OUTSIDE

    def _of_task(self, task: Any, frames: Sequence[FrameType]) -> Wait:
        """Return what waiting for a task is: where it runs asyncio's own code, what that waits for."""
        inner = frames_of(task.get_coro())
        waiter: Any = getattr(task, "_fut_waiter", None)
        if waiter is None or not inner or origin_of(inner[0].f_code) is not Origin.ASYNCIO:
            return Wait.INSIDE
        return self._of_future(waiter, [*frames, *inner])

    def _in_asyncio(self, frames: Sequence[FrameType]) -> Wait:
        innermost = frames[-1]
        file = innermost.f_code.co_filename.removeprefix(_ASYNCIO)
        if file not in _PRIMITIVES:
            return Wait.OUTSIDE
        if file == "tasks.py":
            if innermost.f_code.co_name == "sleep":
                return self.sleep
            awaited = [innermost.f_locals.get("fut"), *(innermost.f_locals.get("fs") or ())]
            waits = [self._of_future(each, frames) for each in awaited if asyncio.isfuture(each)]
            if waits:
                return max(waits)
        return _of_primitive(frames)


def _listens(frame: FrameType) -> bool:
    return not _LISTENING.isdisjoint(frame.f_code.co_names) and origin_of(frame.f_code) is not Origin.ASYNCIO


def _stands_for(future: Any) -> Iterable[Any] | None:
    """Return the futures that bring about this one: the children of a gather, or what is shielded."""
    children: Any = getattr(future, "_children", None)
    if children is not None:
        return list(children)
    for callback, _ in getattr(future, "_callbacks", None) or ():
        if getattr(callback, "__qualname__", "") == "shield.<locals>._outer_done_callback":
            return [closure_variable(callback, "inner")]
    return None


def _of_primitive(frames: Sequence[FrameType]) -> Wait:
    """Return what a wait for a lock, an event or a queue waits for, by whose code does so."""
    outer = next((frame for frame in reversed(frames) if origin_of(frame.f_code) is not Origin.ASYNCIO), None)
    if outer is None:
        return Wait.INSIDE
    if origin_of(outer.f_code) is Origin.APPLICATION:
        return Wait.AT_PRIMITIVE
    code = outer.f_code
    if origin_of(code) is Origin.OURS:
        return Wait.OUTSIDE if code.co_filename.startswith(_OUR_OUTSIDE) else Wait.INSIDE
    if _ANYIO in code.co_filename and not code.co_qualname.startswith(_ANYIO_PRIMITIVES):
        return Wait.OUTSIDE  # its streams wait for sockets by an event
    return Wait.PERHAPS_OUTSIDE
