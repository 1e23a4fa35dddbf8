"""One call that waits on a memory driver; told of what comes from any thread, since each may have a loop of its own."""

import asyncio
from collections.abc import Set as AbstractSet

from asynctasq.drivers.loops import running_loop

__all__ = ["Waiter"]


class Waiter:
    """Waits for what becomes visible in `queues`; `due_us` is when the first of it does, as known so far."""

    __slots__ = ("_deadline", "_timer", "_woken", "due_us", "loop", "queues")

    def __init__(self, queues: AbstractSet[str], loop: asyncio.AbstractEventLoop, due_us: float) -> None:
        self.queues = queues
        self.loop = loop
        self.due_us = due_us
        self._woken: asyncio.Future[bool] = loop.create_future()
        self._deadline = float("inf")
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, wait_s: float, *, deadline: float) -> bool:
        """Wait so long, or as `end_in` says, to `deadline` (of its loop) at most; False if `give_up` ended it."""
        self._deadline = deadline
        self._end_in(wait_s)
        try:
            return await self._woken
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def end_in(self, wait_s: float) -> None:
        """End the wait after so many seconds instead, in its own loop."""
        if self.loop is running_loop():
            self._end_in(wait_s)
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._end_in, wait_s)

    def give_up(self) -> None:
        """End the wait: its driver is closed. To be called in its own loop."""
        self._end(False)

    def _end_in(self, wait_s: float) -> None:
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
