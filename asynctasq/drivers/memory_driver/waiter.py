"""One call that waits on a memory driver; any thread may change when it wakes, since each may have its own loop."""

import asyncio
from collections.abc import Set as AbstractSet

from asynctasq.drivers.loops import running_loop

__all__ = ["Waiter"]


class Waiter:
    """Waits for a message of `queues`; `due_us` is when the first one becomes visible, as known so far."""

    __slots__ = ("_deadline", "_timer", "_woken", "due_us", "loop", "queues")

    def __init__(self, queues: AbstractSet[str], loop: asyncio.AbstractEventLoop, due_us: float) -> None:
        self.queues = queues
        self.loop = loop
        self.due_us = due_us
        self._woken: asyncio.Future[bool] = loop.create_future()
        self._deadline = float("inf")
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, wait_s: float, *, deadline: float) -> bool:
        """Wait `wait_s`, or as long as `wake_in` says, until `deadline` at most; False if `close` ended the wait."""
        self._deadline = deadline
        self._wake_in(wait_s)
        try:
            return await self._woken
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def wake_in(self, wait_s: float) -> None:
        """End the wait `wait_s` from now instead; may be called from any thread."""
        if self.loop is running_loop():
            self._wake_in(wait_s)
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._wake_in, wait_s)

    def close(self) -> None:
        """End the wait: its driver is closed. Call it in the waiter's own loop."""
        self._end(False)

    def _wake_in(self, wait_s: float) -> None:
        if self._woken.done():
            return
        if self._timer is not None:
            self._timer.cancel()
        if wait_s <= 0:
            self._end(True)
        else:
            self._timer = self.loop.call_later(min(wait_s, self._deadline - self.loop.time()), self._end, True)

    def _end(self, woken: bool) -> None:
        if not self._woken.done():
            self._woken.set_result(woken)
