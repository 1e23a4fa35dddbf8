"""One call that waits on a memory driver; woken from any thread, since each may have a loop of its own."""

import asyncio
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from asynctasq.drivers.loops import running_loop

__all__ = ["Waiter"]


@dataclass(slots=True, eq=False)
class Waiter:
    """Waits for a change in `queues`; `woken` gives True then, and False once its driver is closed."""

    queues: AbstractSet[str]
    loop: asyncio.AbstractEventLoop
    woken: asyncio.Future[bool]

    def wake(self) -> None:
        """End the wait, in its own loop."""
        if self.loop.is_closed():
            return
        if self.loop is running_loop():
            self._finish()
        else:
            self.loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self.woken.done():
            self.woken.set_result(True)
