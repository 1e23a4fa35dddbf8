"""How a worker learns that messages it holds were cancelled. Cancels nothing itself."""

import asyncio
from collections.abc import Callable, Iterable

from asynctasq.drivers.base import CancelsRunning, Driver, KeepsResults
from asynctasq.errors import DriverError
from asynctasq.kernel.messages import Lease, cancelled_token
from asynctasq.logs import get_logger

__all__ = ["CancellationListener", "cancelled_among"]

logger = get_logger(__name__)

WAIT_S = 3600.0
"""How long one wait for news lasts; one that ends sooner, though nothing happened, is followed by a pause."""
PAUSE_S = 5.0


async def cancelled_among(driver: Driver, lost: Iterable[Lease], *, limit_s: float) -> frozenset[str]:
    """Return the ids of those lost leases that ended because their messages were cancelled.

    Only what the store says counts: no clock of ours tells a cancelled message from one that was taken over. What it
    does not say within `limit_s` is logged, and none of them counts as cancelled.
    """
    if not driver.capabilities.cancels_running or not isinstance(driver, KeepsResults):
        return frozenset()
    found: set[str] = set()
    try:
        async with asyncio.timeout(limit_s):
            for lease in lost:
                kept = await driver.fetch_result(lease.message_id)
                if kept is not None and cancelled_token(kept) == lease.token:
                    found.add(lease.message_id)
    except (DriverError, TimeoutError) as error:
        logger.warning("it is unknown whether lost leases belonged to cancelled tasks: %s", error)
    return frozenset(found)


class CancellationListener:
    """Waits, where the driver wakes, until a message of this worker was cancelled; at least `wait_s` each time."""

    def __init__(self, driver: Driver, *, wait_s: float) -> None:
        heard = driver.capabilities.cancels_running and driver.capabilities.wakes_waiting
        self._driver = driver if heard and isinstance(driver, CancelsRunning) else None
        self._wait_s = max(WAIT_S, wait_s)
        self._task: asyncio.Task[None] | None = None

    def start(self, on_news: Callable[[], None], *, name: str) -> None:
        """Begin; `on_news` is called when a message was probably cancelled."""
        if self._driver is not None:
            listening = self._listen(self._driver, on_news)
            self._task = asyncio.get_running_loop().create_task(listening, name=f"{name} cancellations")

    async def _listen(self, driver: CancelsRunning, on_news: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                news = await driver.wait_cancelled(wait_s=self._wait_s)
            except DriverError:  # the worker's other calls report it; renewals find what was missed
                news = False
            if news:
                on_news()
            elif loop.time() - began < self._wait_s:
                await asyncio.sleep(PAUSE_S)

    def cancel(self) -> None:
        """Stop listening, soon."""
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """Stop listening."""
        task, self._task = self._task, None
        if task is not None and task.cancel():
            await asyncio.wait([task])
