"""Waits for work beside running attempts: at most one call to the driver, in a task of its own."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asynctasq.clock import Clock
from asynctasq.core.paused_queues import OpenQueues
from asynctasq.drivers.base import Driver, Notifies
from asynctasq.errors import DriverError
from asynctasq.kernel.messages import Lease

__all__ = ["NO_RESULT", "WaitResult", "WorkWaiter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitResult:
    """How a wait ended: with a sign of visible work, with leases (if the driver waits in `reserve`), or with an error.

    `asked_at` is the worker's monotonic clock before the call that took the leases; `answered` says that the backend
    replied.
    """

    answered: bool = False
    work_visible: bool = False
    leases: Sequence[Lease] = ()
    asked_at: float = 0.0
    error: DriverError | None = None


NO_RESULT = WaitResult()


class WorkWaiter:
    """Waits with `wait_visible` where the driver can, else with a waiting `reserve`; sets `wake_up` when that ends.

    Such a reserve waits at most a third of the lease, since a lease's deadline must be counted from the
    request. `leases_max` is how many leases the wait in progress may bring. What becomes visible in the queues that
    `token_queues` returns ends a wait, too.
    """

    def __init__(
        self, driver: Driver, queues: OpenQueues, *, wait_s: float, lease_s: float, clock: Clock, wake_up: asyncio.Event
    ) -> None:
        self._driver = driver
        self._queues = queues
        self._lease_s = lease_s
        self._clock = clock
        self._wake_up = wake_up
        self._notifier = driver if isinstance(driver, Notifies) and driver.capabilities.wakes_waiting else None
        self._wait_s = wait_s if self._notifier else min(wait_s, lease_s / 3)
        self._task: asyncio.Task[WaitResult] | None = None
        self.leases_max = 0
        self.token_queues: Callable[[], Sequence[str]] = list

    def start(self, limit: int) -> None:
        """Begin to wait for up to `limit` messages, unless a wait is in progress."""
        if self._task is None:
            self.leases_max = 0 if self._notifier else limit
            self._task = asyncio.get_running_loop().create_task(self._wait(limit), name="asynctasq wait for work")

    def interrupt(self) -> None:
        """End the wait in progress, so that the next one is for all of `token_queues`."""
        if self._task is not None and self._notifier is not None:
            self._task.add_done_callback(lambda _: self._wake_up.set())  # one that has not begun does not set it
            self._task.cancel()

    def collect(self) -> WaitResult:
        """Return the result of the wait if it has ended; then it can be started again."""
        if self._task is None or not self._task.done():
            return NO_RESULT
        task, self._task, self.leases_max = self._task, None, 0
        return NO_RESULT if task.cancelled() else task.result()

    def cancel(self) -> None:
        """End the wait, soon."""
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """End the wait; leases that it had already taken can be collected."""
        self.cancel()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _wait(self, limit: int) -> WaitResult:
        asked_at = self._clock.monotonic()
        try:
            await self._queues.look()
            wait_s = min(self._wait_s, self._queues.wait_s)
            tokens = self.token_queues()
            if not (self._queues.names or tokens):
                await asyncio.sleep(wait_s)
            elif self._notifier is not None:
                visible = await self._notifier.wait_visible([*self._queues.names, *tokens], wait_s=wait_s)
                return WaitResult(answered=True, work_visible=visible)
            elif names := self._queues.next():
                leases = await self._driver.reserve(names, limit=limit, lease_s=self._lease_s, wait_s=wait_s)
                return WaitResult(answered=True, leases=leases, asked_at=asked_at)
            return WaitResult(answered=True)
        except DriverError as error:
            return WaitResult(error=error)
        finally:
            self._wake_up.set()
