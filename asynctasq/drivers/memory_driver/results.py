"""The results that the memory driver keeps, and the calls that wait for the end of a message."""

import asyncio
import heapq
import math
import threading
from collections.abc import Iterable

from asynctasq.drivers.loops import running_loop

__all__ = ["EndWait", "EndWaits", "KeptResults", "cancels_of"]


class KeptResults:
    """Results by message id. Instants are integer microseconds."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[int, bytes]] = {}
        self.expiries: list[tuple[int, str]] = []

    def keep(self, message_id: str, result: bytes, *, expiry: int) -> None:
        """Keep a result, in place of an earlier one."""
        self.kept[message_id] = (expiry, result)
        heapq.heappush(self.expiries, (expiry, message_id))

    def fetch(self, message_id: str, now: int) -> bytes | None:
        """Return a result whose time is not over."""
        self.prune(now)
        return self.kept.get(message_id, (0, None))[1]

    def prune(self, now: int) -> None:
        """Remove those whose time is over."""
        while self.expiries and self.expiries[0][0] <= now:
            expiry, message_id = heapq.heappop(self.expiries)
            if self.kept.get(message_id, (0, b""))[0] == expiry:
                del self.kept[message_id]


class EndWait:
    """One call that waits until a message has ended."""

    __slots__ = ("_ended", "loop", "message_id")

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        self.loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[bool] = self.loop.create_future()

    async def ended(self, wait_s: float) -> bool:
        """Return True once the message has ended, False after `wait_s` or once the driver is closed."""
        try:
            async with asyncio.timeout(None if wait_s == math.inf else wait_s):
                return await self._ended
        except TimeoutError:
            return False

    def end(self, ended: bool) -> None:
        """End the wait; may be called from any thread."""
        if self.loop is running_loop():
            self._set(ended)
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._set, ended)

    def _set(self, ended: bool) -> None:
        if not self._ended.done():
            self._ended.set_result(ended)


class EndWaits:
    """The calls that wait for the end of messages, by message id; used under the lock of the driver."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self.by_id: dict[str, dict[EndWait, None]] = {}

    def add(self, message_id: str) -> EndWait:
        """Return a new wait, which `wait` removes."""
        wait = EndWait(message_id)
        self.by_id.setdefault(message_id, {})[wait] = None
        return wait

    async def wait(self, wait: EndWait, wait_s: float) -> bool:
        """Wait, without the lock."""
        try:
            return await wait.ended(wait_s)
        finally:
            with self._lock:
                waits = self.by_id[wait.message_id]
                del waits[wait]
                if not waits:
                    del self.by_id[wait.message_id]

    def wake(self, message_ids: Iterable[str]) -> None:
        """Wake the calls that wait for the end of these messages."""
        for message_id in message_ids:
            for wait in self.by_id.get(message_id, ()):
                wait.end(True)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the calls of one loop: its driver is closed."""
        for waits in self.by_id.values():
            for wait in waits:
                if wait.loop is loop:
                    wait.end(False)


def cancels_of(holder: str) -> str:
    """Return what stands for an id where calls wait that want to hear of cancelled messages of this holder."""
    return f"\0{holder}"
