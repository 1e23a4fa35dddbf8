"""Requests to stop: the first drains the worker, the second stops it at once; signals are requests."""

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

__all__ = ["StopRequest"]

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """What was requested of a worker: nothing, to drain (`requested`), or to stop at once (`immediate`)."""

    def __init__(self) -> None:
        self.requested = False
        self.immediate = False
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` at every request."""
        self._listeners.append(listener)

    def request(self, *, immediate: bool = False) -> None:
        """Request to drain; a second request, or one with `immediate`, is to stop at once."""
        self.immediate = self.immediate or immediate or self.requested
        self.requested = True
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

    @contextmanager
    def on_signals(self) -> Generator[None]:
        """Treat SIGTERM and SIGINT as requests meanwhile; does nothing outside of the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.request)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)
