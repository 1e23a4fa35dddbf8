"""Requests to stop: the first drains the worker, the second stops it at once; signals are requests."""

import asyncio
import math
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager

from asynctasq.clock import Clock

__all__ = ["STOP_SIGNALS", "StopRequest", "on_stop_signals"]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

CANCEL_AGAIN_S = 0.3
"""A cancelled call may wait for its reply, to hand back what it got; after so long it is cancelled again."""


class StopRequest:
    """What was requested of a worker: nothing, to drain (`requested`), or to stop at once (`immediate`).

    `requested_at` and `deadline` are on the clock's monotonic scale, infinity before the first request. At the
    deadline, `timeout_s` after the request or at once, running attempts are interrupted.
    """

    def __init__(self, *, clock: Clock, timeout_s: float) -> None:
        self.requested = False
        self.immediate = False
        self.requested_at = self.deadline = math.inf
        self._clock = clock
        self._timeout_s = timeout_s
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` at every request."""
        self._listeners.append(listener)

    def request(self, *, immediate: bool = False) -> None:
        """Request to drain; a second request, or one with `immediate`, is to stop at once."""
        self.immediate = self.immediate or immediate or self.requested
        self.requested = True
        now = self._clock.monotonic()
        self.requested_at = min(self.requested_at, now)
        self.deadline = min(self.deadline, now + (0.0 if self.immediate else self._timeout_s))
        self._changed.set()
        for listener in self._listeners:
            listener()

    async def sleep(self, delay_s: float) -> None:
        """Sleep until the next request; do not sleep if one came since the last sleep."""
        try:
            async with asyncio.timeout(delay_s):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()

    @asynccontextmanager
    async def cancelling(self, at: Callable[[], float]) -> AsyncGenerator[None]:
        """Cancel the body at an instant that every request may move; then it ends here, without an error."""
        loop = asyncio.get_running_loop()

        def move() -> None:
            left_s = at() - self._clock.monotonic()
            if left_s < math.inf and not first.expired() and not second.expired():
                first.reschedule(loop.time() + max(0.0, left_s))
                second.reschedule(loop.time() + max(0.0, left_s) + CANCEL_AGAIN_S)

        first, second = asyncio.timeout(None), asyncio.timeout(None)
        try:
            async with second, first:
                move()
                self._listeners.append(move)
                try:
                    yield
                finally:
                    self._listeners.remove(move)
        except TimeoutError:
            if not first.expired():
                raise


_requests: list[Callable[[], None]] = []
"""What the workers of the main thread's loop are to be asked at a signal."""


def _request_all() -> None:
    for request in _requests:
        request()


@contextmanager
def on_stop_signals(request: Callable[[], None]) -> Generator[None]:
    """Call `request`, and those of other workers in this loop, at SIGTERM and SIGINT meanwhile.

    Does nothing outside of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    _requests.append(request)
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, _request_all)
    try:
        yield
    finally:
        _requests.remove(request)
        if not _requests:
            for number in STOP_SIGNALS:
                loop.remove_signal_handler(number)
