"""The error texts of a simulation loop that cannot go on: which task awaits what, and what repeats."""

import asyncio
import gc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import AsyncGeneratorType, FrameType
from typing import Any, Final

from asynctasq.testing.loop.limits import Limits

__all__ = ["LoopState", "callback_name", "deadlock_text", "limit_text", "livelock_text"]

_LINES_MAX: Final = 30
_GENERATOR_STEPS: Final = frozenset({"async_generator_asend", "async_generator_athrow"})
"""Types that Python has no names for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """The state of a loop that can't go on: its unfinished tasks in order of creation, time, seed, steps and limits."""

    tasks: "Sequence[asyncio.Task[Any]]"
    elapsed_us: int
    seed: int
    steps: int
    limits: Limits


def deadlock_text(state: LoopState, outside: Sequence[str]) -> str:
    """List what every unfinished task awaits, and what is alive outside the loop."""
    lines = [describe_task(task) for task in state.tasks]
    if len(lines) > _LINES_MAX:
        lines[_LINES_MAX:] = [f"... and {len(lines) - _LINES_MAX} more"]
    listed = "\n  ".join(lines) or "no task is left; something still waits for the loop to be stopped"
    if not outside:
        return (
            f"nothing can ever run again at {_where(state)}: nothing is ready, no timer is set and no thread is at work"
            f"\n  {listed}"
        )
    threads = "\n  ".join(outside)
    return (
        f"nothing can run any more at {_where(state)}: nothing is ready, no timer is set, and nothing arrives from "
        f"outside (threads are given {state.limits.grace_s} s of real time, Limits.grace_s), where\n  {threads}\n"
        "await the coroutine instead of waiting for it in a thread; where a thread needs more time, declare its work "
        f"(loop.outside_work()); the tasks:\n  {listed}"
    )


def limit_text(state: LoopState, when_us: int) -> str:
    """Say which limit the run met, and what it was doing."""
    lines = [describe_task(task) for task in state.tasks][:_LINES_MAX]
    return (
        f"given up at {_where(state)} after {state.steps} steps, the next timer is at {_virtual_time(when_us)}: "
        f"allowed are {_virtual_time(state.limits.virtual_s_max * 1e6)} and {state.limits.steps_max} steps (Limits); "
        "if the program should have ended by itself, see what still runs\n  " + "\n  ".join(lines)
    )


def livelock_text(state: LoopState, names: Sequence[str]) -> str:
    """Show the part of the trace that repeats, or who runs most where there is no strict repetition."""
    period = find_period(names)
    if period:
        part = [*names[-period:]]
        shown = part[:_LINES_MAX] + ([f"... {len(part) - _LINES_MAX} more steps"] if len(part) > _LINES_MAX else [])
        what = f"these {period} steps repeat\n  " + "\n  ".join(shown)
    else:
        most = Counter(names).most_common(10)
        what = f"of the last {len(names)} steps\n  " + "\n  ".join(f"{count} times {name}" for name, count in most)
    return (
        f"virtual time stands still at {_where(state)} while steps go on (over {state.limits.stalled_steps_max}, "
        f"Limits.stalled_steps_max): {what}"
    )


def find_period(names: Sequence[str]) -> int:
    """Return the length of the shortest part that ends the sequence at least three times in a row, or 0."""
    for period in range(1, len(names) // 3 + 1):
        if names[-period:] == names[-2 * period : -period] == names[-3 * period : -2 * period]:
            return period
    return 0


def callback_name(callback: Any) -> str:
    """Name a callback or the task whose step it is."""
    subject = getattr(callback, "__self__", None)
    if asyncio.isfuture(subject) and isinstance(subject, asyncio.Task):
        return f"{subject.get_name()} {_location(subject)[0]}"
    if callable(name := getattr(subject, "get_name", None)):
        return str(name())
    function = getattr(callback, "func", callback)
    return f"callback {getattr(function, '__qualname__', None) or _safe_repr(function)}"


def describe_task(task: "asyncio.Task[Any]") -> str:
    """Say where a task is suspended and what it awaits."""
    place, awaited = _location(task)
    return f"{task.get_name()} {place}: awaits {awaited or _awaited_by(task)}"


def _location(task: "asyncio.Task[Any]") -> tuple[str, str]:
    """Return the innermost place outside asyncio, and what asyncio's own frame there is waiting on."""
    place, awaited = "", ""
    frames = frames_of(task.get_coro())
    for frame in frames:
        if _is_asyncio(frame):
            owner = frame.f_locals.get("self")
            if owner is not None:
                awaited = f"{type(owner).__name__}.{frame.f_code.co_name} of {_safe_repr(owner)}"
        else:
            place, awaited = _place(frame), ""
    return place or (_place(frames[0]) if frames else "at its end"), awaited


def _place(frame: FrameType) -> str:
    return f"in {frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"


def frames_of(coro: Any) -> list[FrameType]:
    """Return the frames of a suspended coroutine, outermost first."""
    frames: list[FrameType] = []
    while coro is not None and len(frames) < 1_000:
        frame = _first(coro, "cr_frame", "gi_frame", "ag_frame")
        if frame is not None:
            frames.append(frame)
        coro = _generator_behind(_first(coro, "cr_await", "gi_yieldfrom", "ag_await"))
    return frames


def _generator_behind(awaited: Any) -> Any:
    """Return the asynchronous generator whose step is awaited, by `async for` or `async with`: the step hides it."""
    if type(awaited).__name__ not in _GENERATOR_STEPS:
        return awaited
    found: list[Any] = [each for each in gc.get_referents(awaited) if type(each) is AsyncGeneratorType]
    return found[0] if found else None


def _first(subject: Any, *names: str) -> Any:
    for name in names:
        value = getattr(subject, name, None)
        if value is not None:
            return value
    return None


def _is_asyncio(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return module == "asyncio" or module.startswith("asyncio.")


def _awaited_by(task: "asyncio.Task[Any]") -> str:
    waiter: Any = getattr(task, "_fut_waiter", None)
    if waiter is None:
        return "its turn"
    if isinstance(waiter, asyncio.Task):
        return f"task {waiter.get_name()}"
    return _safe_repr(waiter)


def _safe_repr(subject: object) -> str:
    try:
        return repr(subject)
    except Exception as error:  # noqa: BLE001 - user code; the report must not fail by what it reports
        return f"<{type(subject).__qualname__} whose repr() fails: {error.__class__.__qualname__}>"


def _where(state: LoopState) -> str:
    return f"virtual time {_virtual_time(state.elapsed_us)} (seed {state.seed})"


def _virtual_time(elapsed_us: float) -> str:
    try:
        return str(timedelta(microseconds=elapsed_us))
    except (OverflowError, ValueError):
        # The seconds of the greatest float fit one; its microseconds do not.
        return f"{elapsed_us // 1_000_000 if isinstance(elapsed_us, int) else elapsed_us / 1e6:g} s"
