"""Tells from the frames of threads who works and who waits, and for whom; it changes nothing in a thread."""

# ruff: noqa: SLF001 - it looks into pools, threads and frames; a test watches each part
# pyright: reportPrivateUsage=false

import functools
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from dataclasses import dataclass
from enum import Enum
from types import CodeType, FrameType, FunctionType
from typing import Any, Final

from asynctasq.core.lanes.thread_pool import ThreadPool

__all__ = ["Call", "Outsider", "Standing", "closed_over", "describe_function", "outsiders", "standing"]

_WAIT: Final[CodeType] = threading.Condition.wait.__code__
_future: Any = Future
_RESULT: Final[tuple[CodeType, ...]] = (_future.result.__code__, _future.exception.__code__)
_POOL: Final = "concurrent.futures.thread"
_ASGIREF: Final = "asgiref.current_thread_executor"
_ANYIO: Final = "anyio._backends._asyncio"
_RUNNERS: Final = frozenset({_POOL, _ASGIREF, "asynctasq.core.lanes.thread_pool"})


class Standing(Enum):
    """What is being done outside. Only what works moves by itself."""

    WORKS = "is at work"
    ASKS = "waits for a coroutine that it handed to this loop"
    PARKED = "waits for another thread"
    QUEUED = "waits for its turn in its pool"
    BEHIND = "waits for its turn in its pool, whose threads are all taken"
    IDLE = "has no work"


@dataclass(frozen=True, slots=True)
class Call:
    """A call to an executor, or to a pool unknown here."""

    name: str
    executor: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outsider:
    """An executor call or a thread; `firm` if the program surely waits for it."""

    who: object
    name: str
    standing: Standing
    firm: bool


def outsiders(
    loop: object, calls: Mapping["Future[Any]", Call], threads: Iterable[threading.Thread], own_thread_id: int | None
) -> Iterator[Outsider]:
    """Judge the calls, which are known by their futures, and the threads that are in none of them."""
    frames = sys._current_frames()
    threads_in: dict[Future[Any], int] = {}
    for ident, frame in frames.items() if calls else ():
        if ident != own_thread_id:
            threads_in.update(dict.fromkeys(_jobs_of(frame), ident))
    running = Counter(id(call.executor) for future, call in calls.items() if future in threads_in)
    for future, call in calls.items():
        if future in threads_in:
            found = standing(frames[threads_in[future]], loop)
            found = Standing.WORKS if found is Standing.IDLE else found  # its result is about to arrive
        elif future.running() or future.done():  # in a process, or in a pool of a kind unknown here
            found = Standing.WORKS
        else:
            found = Standing.BEHIND if running[id(call.executor)] >= _size(call.executor) else Standing.QUEUED
        yield Outsider(who=future, name=call.name, standing=found, firm=True)
    explained = {threads_in[future] for future in calls if future in threads_in}
    for thread in threads:
        if thread.ident not in explained and thread.ident != own_thread_id and _counts(thread, loop):
            found = standing(frames.get(thread.ident or 0), loop)
            firm = type(thread).__module__ == _ANYIO
            yield Outsider(who=thread, name=f"thread {thread.name!r}", standing=found, firm=firm)


def _size(executor: Any) -> float:
    match executor:
        case ThreadPoolExecutor():
            return executor._max_workers
        case ThreadPool():
            return executor._size
        case _:
            return float("inf")


def standing(frame: FrameType | None, loop: object) -> Standing:
    """Judge a thread by its innermost frame.

    Every judgement but WORKS holds until a thread that works does something about it: one that was
    notified works, though it may still have to wake up. A thread that waits for a bare lock, a socket
    or a process, or not for ever, counts as one that works.
    """
    if frame is None:
        return Standing.WORKS
    if frame.f_code is _WAIT:
        waiter, caller = frame.f_locals.get("waiter"), frame.f_back
        if waiter is None or caller is None or not waiter.locked():
            return Standing.WORKS
        if _asks(caller, loop):
            return Standing.ASKS
        return Standing.PARKED if frame.f_locals.get("timeout") is None else Standing.WORKS
    if frame.f_code.co_name == "_worker" and frame.f_globals.get("__name__") == _POOL:
        found = frame.f_locals
        return Standing.WORKS if found.get("work_item") is not None or found["work_queue"].qsize() else Standing.IDLE
    return Standing.WORKS


def _asks(frame: FrameType, loop: object) -> bool:
    if frame.f_code in _RESULT:
        callbacks = getattr(frame.f_locals.get("self"), "_done_callbacks", ())
        return any(closed_over(callback, "source_loop") is loop for callback in callbacks)
    if frame.f_code.co_name == "run_until_future" and frame.f_globals.get("__name__") == _ASGIREF:
        found = {} if frame.f_back is None else frame.f_back.f_locals
        return found.get("main_event_loop") is loop and bool(found.get("running_in_main_event_loop"))
    return False


def _jobs_of(frame: FrameType | None) -> Iterator["Future[Any]"]:
    """Return the futures that a thread of a pool is to fulfil, one for each function that it is in."""
    while frame is not None:
        if frame.f_globals.get("__name__") in _RUNNERS and frame.f_code.co_name in ("run", "job"):
            found = frame.f_locals
            future = found.get("future") or getattr(found.get("self"), "future", None)
            if isinstance(future, Future):
                yield future
        frame = frame.f_back


def _counts(thread: Any, loop: object) -> bool:
    """Tell whether a thread may be doing something for the program. A daemon's maker would not wait for it either."""
    match type(thread).__module__:
        case "anyio._backends._asyncio":  # it does not ask the loop's executor
            return thread.loop is loop and not thread.stopping and thread not in thread.idle_workers
        case "concurrent.futures.process":
            return bool(getattr(thread, "pending_work_items", None))
        case _:
            return not thread.daemon


def closed_over(function: object, name: str) -> Any:
    """Return the variable of that name that a function closes over, or None."""
    if isinstance(function, FunctionType) and function.__closure__ is not None:
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__, strict=True):
            if variable == name:
                return cell.cell_contents
    return None


def describe_function(function: Callable[..., Any]) -> str:
    """Name the user's function, below what `asyncio.to_thread` and asgiref wrap around it."""
    inner: Any = function
    while isinstance(inner, functools.partial):
        func: Any = inner.func
        runs = isinstance(getattr(func, "__self__", None), Context) and bool(inner.args)  # Context.run(function)
        inner = inner.args[0] if runs else getattr(getattr(func, "__self__", None), "__wrapped__", None) or func
    code: Any = getattr(inner, "__code__", None)
    place = "" if code is None else f" ({code.co_filename}:{code.co_firstlineno})"
    return f"{getattr(inner, '__qualname__', None) or type(inner).__qualname__}{place}"
