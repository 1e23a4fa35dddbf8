"""Waiting for work beside running attempts: at most one call to the driver, in a task of its own."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from asynctasq.clock import Clock
from asynctasq.core.queue_order import QueueOrder
from asynctasq.drivers.base import Driver, Notifies
from asynctasq.errors import DriverError
from asynctasq.kernel.messages import Lease

__all__ = ["Found", "Watch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a watch brought: a hint that something is visible, leases (where waiting means taking), or an error.

    `asked_at` is the worker's monotonic clock before the call that took the leases; `answered` says that the backend
    has spoken.
    """

    answered: bool = False
    seen: bool = False
    leases: Sequence[Lease] = ()
    asked_at: float = 0.0
    error: DriverError | None = None


NOTHING = Found()


class Watch:
    """Waits with `wait_visible` where the driver can, else with a waiting `reserve`.

    Such a reserve waits at most a third of the lease, since a lease's deadline must be counted from the
    request. `promised` is how many messages it may bring.
    """

    def __init__(
        self, driver: Driver, queues: QueueOrder, *, wait_s: float, lease_s: float, clock: Clock, news: asyncio.Event
    ) -> None:
        self._driver = driver
        self._queues = queues
        self._lease_s = lease_s
        self._clock = clock
        self._news = news
        self._notifier = driver if isinstance(driver, Notifies) and driver.capabilities.wakes_waiting else None
        self._wait_s = wait_s if self._notifier else min(wait_s, lease_s / 3)
        self._task: asyncio.Task[Found] | None = None
        self.promised = 0

    def start(self, room: int) -> None:
        """Begin to wait for up to `room` messages, unless it waits already."""
        if self._task is None:
            self.promised = 0 if self._notifier else room
            self._task = asyncio.get_running_loop().create_task(self._wait(room), name="asynctasq watch")

    def collect(self) -> Found:
        """Return what the watch brought if it has ended; then it can be started again."""
        if self._task is None or not self._task.done():
            return NOTHING
        task, self._task, self.promised = self._task, None, 0
        return NOTHING if task.cancelled() else task.result()

    async def stop(self) -> None:
        """End the wait; what it had already taken can be collected."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _wait(self, room: int) -> Found:
        asked_at = self._clock.monotonic()
        try:
            if self._notifier is not None:
                seen = await self._notifier.wait_visible(self._queues.names, wait_s=self._wait_s)
                return Found(answered=True, seen=seen)
            leases = await self._driver.reserve(
                self._queues.next(), limit=room, lease_s=self._lease_s, wait_s=self._wait_s
            )
            return Found(answered=True, leases=leases, asked_at=asked_at)
        except DriverError as error:
            return Found(error=error)
        finally:
            self._news.set()
