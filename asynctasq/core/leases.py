"""Renews the leases of running attempts, and reports an event loop that is blocked.

The thread has its own event loop and connection, so that a task that blocks the worker's loop for minutes keeps its
lease. The simulated worker renews from its own loop instead, where time is virtual.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Protocol

from asynctasq.clock import Clock
from asynctasq.core.cancellation import cancelled_among
from asynctasq.core.in_flight import InFlightAttempt
from asynctasq.core.loop_watch import LoopWatch
from asynctasq.core.progress import ProgressReports
from asynctasq.drivers.base import Driver
from asynctasq.drivers.loops import running_loop
from asynctasq.errors import DriverError
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.messages import Lease, Progress
from asynctasq.logs import get_logger

__all__ = ["LeaseRenewer", "LoopLeaseRenewer", "ThreadLeaseRenewer"]

logger = get_logger(__name__)

FLOAT_TOLERANCE_S = 1e-6
"""A lease is due this much before a third of it has passed, so that a timer set for then finds it due."""

CANCELLED_LOOK_SHARE = 1 / 10
"""How much of a lease it may take to find out whether lost leases were cancelled."""

END_S_MAX = 10.0
"""How long stopping waits for the thread, which may be in the middle of a call; it never keeps a process alive."""

BLOCKED_LOOP_S = 2.0
"""A loop that has run no callback for this long, or for a lease, is reported, once per blockage."""


class LeaseRenewer(Protocol):
    """Renews the leases of the attempts that were added, until they are removed."""

    @property
    def loop_blocked_s(self) -> float:
        """For how many seconds the worker's loop has not run; 0 where only the loop itself could tell."""
        ...

    def start(self, on_lost: Callable[[Sequence[InFlightAttempt]], None]) -> None:
        """Start; `on_lost` is called in the worker's loop with the attempts whose leases are lost."""
        ...

    def add(self, attempt: InFlightAttempt) -> None:
        """Renew the lease of this attempt from now on."""
        ...

    def remove(self, attempt: InFlightAttempt) -> None:
        """Stop renewing the lease of this attempt."""
        ...

    def renew_all(self) -> None:
        """Renew all leases soon, to find out which are lost; call it in the worker's loop."""
        ...

    def report(self, attempt: InFlightAttempt, progress: Progress) -> None:
        """Store the progress of this attempt soon, unless it has ended by then; may be called from any thread."""
        ...

    async def stop(self) -> None:
        """Stop; nothing is renewed afterwards."""
        ...


class _Renewals:
    """The attempts whose leases are renewed. Dict operations are atomic, so that two threads may share it."""

    def __init__(self, lease_s: float, clock: Clock) -> None:
        self.lease_s = lease_s
        self._clock = clock
        self._attempts: dict[str, InFlightAttempt] = {}
        self.all_due = False
        """All are due, whenever they were renewed."""
        self._all_asked = False

    def add(self, attempt: InFlightAttempt) -> None:
        self._attempts[attempt.lease.message_id] = attempt

    def remove(self, attempt: InFlightAttempt) -> None:
        if self._attempts.get(attempt.lease.message_id) is attempt:
            self._attempts.pop(attempt.lease.message_id, None)

    def __len__(self) -> int:
        return len(self._attempts)

    def due(self) -> list[InFlightAttempt]:
        """Return the attempts of whose leases a third has passed."""
        self._all_asked, self.all_due = self.all_due, False
        if self._all_asked:
            return [*self._attempts.copy().values()]
        until = self._clock.monotonic() + self.lease_s * 2 / 3 + FLOAT_TOLERANCE_S
        return [attempt for attempt in self._attempts.copy().values() if attempt.deadline <= until]

    def failed(self) -> None:
        """Note that what was due last could not be renewed."""
        self.all_due = self.all_due or self._all_asked

    def next_due_in_s(self) -> float:
        """Return in how many seconds the next lease is due for renewal; 0 if one is overdue."""
        if self.all_due:
            return 0.0
        first = min(attempt.deadline for attempt in self._attempts.copy().values())
        return max(0.0, first - self.lease_s * 2 / 3 - self._clock.monotonic())

    def apply_reply(
        self, asked: Sequence[InFlightAttempt], lost: AbstractSet[str], asked_at: float
    ) -> list[InFlightAttempt]:
        """Move the deadlines and return the attempts whose leases are lost.

        An attempt whose message was reserved again meanwhile, or that was removed, is left out.
        """
        newly_lost: list[InFlightAttempt] = []
        for attempt in asked:
            message_id = attempt.lease.message_id
            if self._attempts.get(message_id) is not attempt:
                continue
            if message_id in lost:
                self._attempts.pop(message_id, None)
                newly_lost.append(attempt)
            else:
                attempt.deadline = asked_at + self.lease_s
        return newly_lost

    async def find_cancelled(self, driver: Driver, lost: Sequence[InFlightAttempt]) -> None:
        """Ask the store which of these were cancelled, and note it in them; no lease is renewed meanwhile."""
        limit_s = self.lease_s * CANCELLED_LOOK_SHARE
        cancelled = await cancelled_among(driver, [attempt.lease for attempt in lost], limit_s=limit_s)
        for attempt in lost:
            attempt.found_cancelled = attempt.lease.message_id in cancelled


class ThreadLeaseRenewer:
    """Renews from a dedicated thread, with a connection of its own."""

    def __init__(self, driver: Driver, *, lease_s: float, clock: Clock) -> None:
        self._driver = driver
        self._clock = clock
        self._renewals = _Renewals(lease_s, clock)
        self._reports = ProgressReports(driver, clock=clock, limit_s=lease_s / 3)
        self._period_s = min(1.0, lease_s / 6)
        self._stopping = False
        self._look = threading.Event()
        """The thread looks what is to do."""
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: LoopWatch | None = None
        self._on_lost: Callable[[Sequence[InFlightAttempt]], None] = lambda lost: None  # noqa: ARG005
        self._ended = asyncio.Event()

    @property
    def loop_blocked_s(self) -> float:
        return 0.0 if self._watch is None else self._watch.blocked_s

    def start(self, on_lost: Callable[[Sequence[InFlightAttempt]], None]) -> None:
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._watch = LoopWatch(self._clock)
        self._stopping = False  # a worker may be started again
        self._look.clear()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="asynctasq-leases", daemon=True)
        self._thread.start()

    def add(self, attempt: InFlightAttempt) -> None:
        self._renewals.add(attempt)

    def remove(self, attempt: InFlightAttempt) -> None:
        self._renewals.remove(attempt)
        if self._reports.latest:
            self._reports.remove(attempt)

    def renew_all(self) -> None:
        self._renewals.all_due = True
        self._look.set()

    def report(self, attempt: InFlightAttempt, progress: Progress) -> None:
        self._reports.add(attempt, progress)

    async def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping = True
        self._look.set()
        # Not joined in a thread of the loop's executor: the loop could not be closed before that returns.
        with suppress(TimeoutError):
            async with asyncio.timeout(END_S_MAX):
                await self._ended.wait()

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            while not self._wait_stopping():
                self._check_loop()
                runner.run(self._renew())
                if self._reports.latest:
                    runner.run(self._reports.write())
            runner.run(self._driver.close())
        self._call_in_worker_loop(self._ended.set)

    def _check_loop(self) -> None:
        assert self._watch is not None
        try:
            self._watch.check(report_after_s=min(BLOCKED_LOOP_S, self._renewals.lease_s))
        except RuntimeError:  # the worker's loop has ended
            self._stopping = True

    def _wait_stopping(self) -> bool:
        """Wait for the next look, and return whether the thread is to end instead."""
        self._look.wait(self._period_s)
        self._look.clear()
        return self._stopping

    async def _renew(self) -> None:
        due = self._renewals.due()
        if not due:
            return
        leases, asked_at = [attempt.lease for attempt in due], self._clock.monotonic()
        try:
            async with asyncio.timeout(self._renewals.lease_s / 3):
                lost = await self._driver.extend(leases, lease_s=self._renewals.lease_s)
        except (DriverError, TimeoutError) as error:
            logger.warning("renewing %d leases failed, trying again in %g s: %s", len(leases), self._period_s, error)
            self._renewals.failed()
            return
        if newly_lost := self._renewals.apply_reply(due, lost, asked_at):
            await self._renewals.find_cancelled(self._driver, newly_lost)
            self._call_in_worker_loop(lambda: self._on_lost(newly_lost))

    def _call_in_worker_loop(self, call: Callable[[], None]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the worker's loop has ended
            self._stopping = True


class LoopLeaseRenewer:
    """Renews from the worker's own loop, each lease when it is due; sets no timer while there are none."""

    def __init__(
        self, driver: Driver, *, lease_s: float, clock: Clock, record: Callable[[Entry], None] | None, worker: str
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._renewals = _Renewals(lease_s, clock)
        self._reports = ProgressReports(driver, clock=clock, limit_s=lease_s / 3)
        self._report_timer: asyncio.TimerHandle | None = None
        self._reporting: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._record = record
        self._worker = worker
        self._retry_s = min(1.0, lease_s / 6)
        self._timer: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._on_lost: Callable[[Sequence[InFlightAttempt]], None] = lambda lost: None  # noqa: ARG005

    @property
    def loop_blocked_s(self) -> float:
        return 0.0

    def start(self, on_lost: Callable[[Sequence[InFlightAttempt]], None]) -> None:
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()

    def add(self, attempt: InFlightAttempt) -> None:
        self._renewals.add(attempt)
        if self._timer is None:
            self._arm(self._renewals.lease_s / 3)

    def remove(self, attempt: InFlightAttempt) -> None:
        self._renewals.remove(attempt)
        if not len(self._renewals):
            self._disarm()
        if self._reports.latest:
            self._reports.remove(attempt)

    def renew_all(self) -> None:
        if len(self._renewals):
            self._renewals.all_due = True
            self._disarm()
            self._fire()  # not by a timer: time may stand still while something runs in a thread

    def report(self, attempt: InFlightAttempt, progress: Progress) -> None:
        self._reports.add(attempt, progress)
        if self._loop is running_loop():
            self._arm_report()
        elif self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arm_report)

    async def stop(self) -> None:
        self._disarm()
        if self._report_timer is not None:
            self._report_timer.cancel()
        for task in (self._renewing, self._reporting):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])

    def _arm_report(self) -> None:
        """Write reports when they are due; set no timer while there are none, or while some are written."""
        if self._reports.latest and self._report_timer is None and (self._reporting is None or self._reporting.done()):
            loop = asyncio.get_running_loop()
            self._report_timer = loop.call_later(self._reports.due_in_s(), self._write_reports)

    def _write_reports(self) -> None:
        self._report_timer = None
        name = f"{self._worker} progress"
        self._reporting = asyncio.get_running_loop().create_task(self._write_and_arm(), name=name)

    async def _write_and_arm(self) -> None:
        await self._reports.write()
        if self._reports.latest:
            self._report_timer = asyncio.get_running_loop().call_later(self._reports.due_in_s(), self._write_reports)

    def _arm(self, after_s: float) -> None:
        self._disarm()
        self._timer = asyncio.get_running_loop().call_later(after_s, self._fire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        if self._renewing is not None and not self._renewing.done():
            return  # it sets the next timer when it ends
        if due := self._renewals.due():
            self._renewing = asyncio.get_running_loop().create_task(self._renew(due), name=f"{self._worker} leases")
        elif len(self._renewals):
            self._arm(self._renewals.next_due_in_s())

    async def _renew(self, due: Sequence[InFlightAttempt]) -> None:
        renewed = await self._extend(due)
        if len(self._renewals):
            self._arm(self._renewals.next_due_in_s() if renewed else self._retry_s)

    async def _extend(self, due: Sequence[InFlightAttempt]) -> bool:
        leases, asked_at, asked_now = [attempt.lease for attempt in due], self._clock.monotonic(), self._clock.now()
        try:
            async with asyncio.timeout(self._renewals.lease_s / 3):
                lost = await self._driver.extend(leases, lease_s=self._renewals.lease_s)
        except (DriverError, TimeoutError) as error:
            logger.warning("renewing %d leases failed: %s", len(leases), error)
            self._renewals.failed()
            return False
        self._record_extended([lease for lease in leases if lease.message_id not in lost], asked_now)
        if newly_lost := self._renewals.apply_reply(due, lost, asked_at):
            await self._renewals.find_cancelled(self._driver, newly_lost)
            self._on_lost(newly_lost)
        return True

    def _record_extended(self, leases: Sequence[Lease], asked_now: float) -> None:
        if self._record is None:
            return
        for lease in leases:
            at, due_at = self._clock.now(), asked_now + self._renewals.lease_s
            self._record(Entry.of(lease, Kind.EXTENDED, at=at, worker=self._worker, due_at=due_at))
