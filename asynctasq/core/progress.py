"""The progress that running tasks report, until it is stored: the latest of each attempt, once a second at most."""

import asyncio
import math
from typing import cast

from asynctasq.clock import Clock
from asynctasq.core.in_flight import InFlightAttempt
from asynctasq.drivers.base import Driver, ReportsProgress
from asynctasq.errors import DriverError
from asynctasq.kernel.messages import Progress
from asynctasq.logs import get_logger

__all__ = ["ProgressReports"]

logger = get_logger(__name__)

PERIOD_S = 1.0
TOLERANCE_S = 0.05
"""A write is due this much early: whoever looks once in a period must not miss every second one."""


class ProgressReports:
    """Reports that are to be stored; any thread may add some. A driver that stores none has none to store.

    What keeps them from being stored is logged once, and they are tried again: a task never learns of it.
    """

    def __init__(self, driver: Driver, *, clock: Clock, limit_s: float) -> None:
        self._driver = cast("ReportsProgress", driver) if driver.capabilities.reports_progress else None
        self._clock = clock
        self._limit_s = limit_s
        self._written_at = -math.inf
        self._failing = False
        self.latest: dict[str, tuple[InFlightAttempt, Progress]] = {}

    def add(self, attempt: InFlightAttempt, progress: Progress) -> None:
        """Store this soon, in place of what the attempt reported before."""
        if self._driver is not None:
            self.latest[attempt.lease.message_id] = attempt, progress

    def remove(self, attempt: InFlightAttempt) -> None:
        """Forget what an attempt reported that has ended."""
        known = self.latest.get(attempt.lease.message_id)
        if known is not None and known[0] is attempt:
            self.latest.pop(attempt.lease.message_id, None)

    def due_in_s(self) -> float:
        """Return in how many seconds the next write is due."""
        return max(0.0, self._written_at + PERIOD_S - self._clock.monotonic())

    async def write(self) -> None:
        """Store what there is, if it is due."""
        if self._driver is None or not self.latest or self.due_in_s() > TOLERANCE_S:
            return
        reports = [taken for message_id in list(self.latest) if (taken := self.latest.pop(message_id, None))]
        self._written_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._limit_s):
                await self._driver.report_progress([(attempt.lease, progress) for attempt, progress in reports])
        except (DriverError, TimeoutError) as error:
            if not self._failing:
                logger.warning("the progress of %d tasks can't be stored, and is tried again: %s", len(reports), error)
            self._failing = True
            for attempt, progress in reports:
                if attempt.asyncio_task is not None and not attempt.asyncio_task.done():
                    self.latest.setdefault(attempt.lease.message_id, (attempt, progress))
        else:
            self._failing = False
