"""Finds out from another thread whether an event loop runs, and what keeps it from running."""

import asyncio
import os
import sys
import sysconfig
import threading
import traceback

from asynctasq.clock import Clock
from asynctasq.logs import get_logger

__all__ = ["LIVE_S", "LoopWatch"]

logger = get_logger(__name__)

LIVE_S = 30.0
"""A worker whose event loop has not run for so long is not live."""
FRAMES_MAX = 4
LIBRARIES = tuple(f"{path}{os.sep}" for name, path in sysconfig.get_paths().items() if name.endswith("lib"))
"""Where the standard library and installed packages are."""


class LoopWatch:
    """Has a loop run a callback again and again, and measures how long it takes. It is made in that loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._asked_at: float | None = None
        self._reported = False

    @property
    def blocked_s(self) -> float:
        """For how many seconds the loop has not run the callback that it was given; 0 if it has run it."""
        asked_at = self._asked_at  # the loop may run it meanwhile
        return 0.0 if asked_at is None else self._clock.monotonic() - asked_at

    def check(self, *, report_after_s: float) -> None:
        """Have the loop run a callback; name what has kept it from running the last one for so long, once.

        Raises: RuntimeError if the loop is closed.
        """
        blocked_s = self.blocked_s
        if blocked_s > report_after_s and not self._reported:
            self._reported = True
            logger.warning(
                "the event loop has not run for %.1f s: %s blocks it. Its leases are renewed meanwhile. "
                "Use SyncTask for blocking code, or await.\n%s",
                blocked_s,
                self._blocker(),
                self._stack(),
            )
        if self._asked_at is None:
            self._asked_at = self._clock.monotonic()
            self._loop.call_soon_threadsafe(self._note_that_it_runs)

    def _blocker(self) -> str:
        """Return the name of the asyncio task that the loop runs now."""
        task = asyncio.current_task(self._loop)
        return "a callback" if task is None else task.get_name()

    def _note_that_it_runs(self) -> None:
        self._asked_at, self._reported = None, False

    def _stack(self) -> str:
        """Return the innermost frames of the loop's thread, the application's own line first."""
        frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - documented, despite its name
        frames = list[traceback.FrameSummary](traceback.extract_stack(frame)) if frame is not None else []
        own = max((at for at, each in enumerate(frames) if not each.filename.startswith(LIBRARIES)), default=0)
        inner = frames[max(own + 1, len(frames) - FRAMES_MAX + 1) :]
        return "".join(traceback.format_list([*frames[own : own + 1], *inner]))
