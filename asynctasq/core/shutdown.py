"""Stopping: one request drains, a second one stops at once; signals are requests."""

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

__all__ = ["StopRequest"]

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """What a worker was asked: go on, drain (`requested`), or stop at once (`immediate`)."""

    def __init__(self) -> None:
        self.requested = False
        self.immediate = False
        self._heard = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` at every request."""
        self._listeners.append(listener)

    def ask(self, *, immediate: bool = False) -> None:
        """Ask to drain; asking again, or with `immediate`, asks to stop at once."""
        self.immediate = self.immediate or immediate or self.requested
        self.requested = True
        self._heard.set()
        for listener in self._listeners:
            listener()

    async def sleep(self, delay_s: float) -> None:
        """Sleep until a request comes, and not at all if one came since the last sleep."""
        try:
            async with asyncio.timeout(delay_s):
                await self._heard.wait()
        except TimeoutError:
            return
        self._heard.clear()

    @contextmanager
    def on_signals(self) -> Generator[None]:
        """Treat SIGTERM and SIGINT as requests meanwhile; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.ask)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)
