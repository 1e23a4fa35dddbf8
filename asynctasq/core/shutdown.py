"""Requests to stop: the first drains the worker, the second stops it at once; signals are requests."""

import asyncio
import math
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType

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

    def cancelling(self, at: Callable[[], float]) -> "_Cancelling":
        """Cancel the body at an instant that every request may move; then it ends here, without an error."""
        return _Cancelling(self._clock, self._listeners, at)

    def ending(self, end_s: float, *, least_s: float) -> "_Cancelling":
        """Cancel the body `end_s` after the deadline, that of a request now at the latest, but not before `least_s`."""
        now = self._clock.monotonic()
        return self.cancelling(lambda: max(min(self.deadline, now + self._timeout_s) + end_s, now + least_s))


class _Cancelling:
    """A context manager that is no generator: one left open by a simulated crash would be a step more at the end."""

    def __init__(self, clock: Clock, listeners: list[Callable[[], None]], at: Callable[[], float]) -> None:
        self._clock = clock
        self._listeners = listeners
        self._at = at
        self._first, self._second = asyncio.timeout(None), asyncio.timeout(None)

    def _move(self) -> None:
        left_s = self._at() - self._clock.monotonic()
        if left_s < math.inf and not self._first.expired() and not self._second.expired():
            now = asyncio.get_running_loop().time()
            self._first.reschedule(now + max(0.0, left_s))
            self._second.reschedule(now + max(0.0, left_s) + CANCEL_AGAIN_S)

    async def __aenter__(self) -> None:
        await self._second.__aenter__()
        await self._first.__aenter__()
        self._move()
        self._listeners.append(self._move)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._listeners.remove(self._move)
        timed_out = isinstance(error, TimeoutError)
        for timeout in (self._first, self._second):
            try:
                await timeout.__aexit__(None if timed_out else kind, error, trace)
            except TimeoutError:
                timed_out = True
        return timed_out and self._first.expired()


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
