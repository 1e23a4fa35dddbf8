"""Runs a FakeQueue's own loop for one call, and stops with an error when tasks never end."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final, TypeVar

from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.testing.errors import LimitExceeded, Livelock, SimulationError
from asynctasq.testing.loop import Limits, SimulationLoop

__all__ = ["close_loop", "run_to_end"]

T = TypeVar("T")

STEPS_WITHOUT_PROGRESS_MAX: Final = 300_000
"""Steps in which no task is dispatched, begins or ends: one that needs so many most likely never ends."""
STEPS_MAX: Final = 1_000_000
STEPS_MAX_PER_MESSAGE: Final = 1_000
STALLED_STEPS_MAX: Final = 100_000
STALLED_STEPS_MAX_PER_MESSAGE: Final = 20
"""What is due at one instant takes steps at one instant, and is no livelock."""
CLOSING: Final = Limits(steps_max=30_000)

PROGRESS: Final = frozenset({Kind.DISPATCHED, Kind.STARTED, Kind.ENDED, Kind.SETTLED})


def run_to_end(loop: SimulationLoop, what: Coroutine[Any, Any, T], *, ledger: Sequence[Entry], messages: int) -> T:
    """Run the coroutine, as long as tasks begin and end meanwhile; `messages` is how many there are to begin with.

    Raises: LimitExceeded or Livelock, with what to do, if it does not end.
    """
    stalled = STALLED_STEPS_MAX + STALLED_STEPS_MAX_PER_MESSAGE * messages
    real_s_max = loop.limits.real_s_max
    loop.limits = Limits(steps_max=STEPS_WITHOUT_PROGRESS_MAX, stalled_steps_max=stalled, real_s_max=real_s_max)
    last = loop.steps + STEPS_MAX + STEPS_MAX_PER_MESSAGE * messages
    running: asyncio.Task[T] = loop.create_task(what)
    while True:
        steps, entries = loop.steps, len(ledger)
        try:
            result: T = loop.run_until_complete(running)
            return result
        except (LimitExceeded, Livelock) as error:
            if running.done():
                raise
            too_many = loop.steps - steps > STEPS_WITHOUT_PROGRESS_MAX
            progress = any(entry.kind in PROGRESS for entry in islice(ledger, entries, None))
            if too_many and progress and loop.steps < last:
                continue
            _cancel(loop, running)
            raise _not_ending(error, progress=progress) from None


def _cancel(loop: SimulationLoop, running: asyncio.Task[Any]) -> None:
    """Let the call's own `finally` blocks run; the reason why the call is stopped is the error to report."""
    loop.limits = CLOSING
    running.cancel()
    with suppress(asyncio.CancelledError, Exception):
        loop.run_until_complete(running)


def close_loop(loop: SimulationLoop, main: Coroutine[Any, Any, None], *, failed: BaseException | None) -> None:
    """Run the loop a last time, and close it; after a failure that is the one to report."""
    loop.limits = CLOSING
    try:
        loop.run(main)
    except SimulationError as error:
        if isinstance(error, LimitExceeded | Livelock):
            error = _not_ending(error, progress=False)
        if failed is None:
            raise error from None
        failed.add_note(f"then the FakeQueue could not be closed: {str(error).splitlines()[0]}")


def _not_ending(error: SimulationError, *, progress: bool) -> SimulationError:
    if isinstance(error, Livelock):
        why = (
            "no time passes any more. A task that loops, or dispatches itself for ever, at one instant has no end: let "
            "time pass in it, with asyncio.sleep, dispatch it with a delay, or let only so much run: drain(limit=...)"
        )
    elif progress:
        why = (
            "tasks keep beginning and ending. One that snoozes, retries or dispatches itself for ever has no "
            "end: let only so much happen, with drain(limit=...), advance(seconds=...) or virtual_s_max="
        )
    else:
        why = (
            "no task begins or ends any more. One that loops for ever, or catches CancelledError and goes on, has no "
            "end: let it end, or, if it only loops, let only so much time pass, with advance(seconds=...)"
        )
    return type(error)(f"this does not end: {why}\n{error}")
