"""Keeps the leases of running attempts alive, and notices an event loop that is blocked.

The thread has its own event loop and connection, so that a task that blocks the worker's loop for minutes
loses nothing. The simulated worker renews from its own loop instead, where time is virtual.
"""

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from asynctasq.clock import Clock
from asynctasq.core.attempt import Held
from asynctasq.drivers.base import Driver
from asynctasq.errors import DriverError
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.messages import Lease

__all__ = ["LeaseKeeper", "LoopLeaseKeeper", "ThreadLeaseKeeper"]

logger = logging.getLogger(__name__)

INEXACT_S = 1e-6
"""By so much less than a third a lease is due: a timer for just then must find it so, whatever floats make of it."""

BLOCKED_S = 2.0
"""A loop that has not answered for so long, or for a lease, is reported, once per blockage."""


class LeaseKeeper(Protocol):
    """Renews what it was told to hold until told to drop it."""

    def start(self, on_lost: Callable[[Sequence[Held]], None]) -> None:
        """Begin; `on_lost` is called in the worker's loop with what another worker may have taken."""
        ...

    def hold(self, held: Held) -> None:
        """Renew this lease from now on."""
        ...

    def drop(self, held: Held) -> None:
        """Stop renewing it."""
        ...

    async def stop(self) -> None:
        """End; nothing is renewed afterwards."""
        ...


class _Renewals:
    """Which leases are due for renewal. Dict operations are atomic, so that two threads may share it."""

    def __init__(self, lease_s: float, clock: Clock) -> None:
        self.lease_s = lease_s
        self._clock = clock
        self._held: dict[str, Held] = {}

    def add(self, held: Held) -> None:
        self._held[held.lease.message_id] = held

    def discard(self, held: Held) -> None:
        if self._held.get(held.lease.message_id) is held:
            self._held.pop(held.lease.message_id, None)

    def __len__(self) -> int:
        return len(self._held)

    def due(self) -> list[Held]:
        """Return what holds a lease of which a third has passed."""
        until = self._clock.monotonic() + self.lease_s * 2 / 3 + INEXACT_S
        return [held for held in self._held.copy().values() if held.deadline <= until]

    def next_due_in_s(self) -> float:
        """Return in how many seconds the next lease is due for renewal; 0 if one is overdue."""
        first = min(held.deadline for held in self._held.copy().values())
        return max(0.0, first - self.lease_s * 2 / 3 - self._clock.monotonic())

    def renewed(self, asked: Sequence[Held], lost: AbstractSet[str], asked_at: float) -> list[Held]:
        """Take in the answer; return which leases are lost, but none whose message was reserved anew meanwhile."""
        gone: list[Held] = []
        for held in asked:
            message_id = held.lease.message_id
            if self._held.get(message_id) is not held:
                continue
            if message_id in lost:
                self._held.pop(message_id, None)
                gone.append(held)
            else:
                held.deadline = asked_at + self.lease_s
        return gone


class ThreadLeaseKeeper:
    """Renews from a dedicated thread, with a connection of its own."""

    def __init__(self, driver: Driver, *, lease_s: float, clock: Clock) -> None:
        self._driver = driver
        self._clock = clock
        self._renewals = _Renewals(lease_s, clock)
        self._period_s = min(1.0, lease_s / 6)
        self._blocked_s = min(BLOCKED_S, lease_s)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread_id = 0
        self._on_lost: Callable[[Sequence[Held]], None] = lambda lost: None  # noqa: ARG005
        self._answered_at = 0.0
        self._reported = False

    def start(self, on_lost: Callable[[Sequence[Held]], None]) -> None:
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._loop_thread_id = threading.get_ident()
        self._answered()
        self._stopping.clear()  # a worker may be started again
        self._thread = threading.Thread(target=self._run, name="asynctasq-leases", daemon=True)
        self._thread.start()

    def hold(self, held: Held) -> None:
        self._renewals.add(held)

    def drop(self, held: Held) -> None:
        self._renewals.discard(held)

    async def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping.set()
        await asyncio.to_thread(thread.join, 10.0)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            while not self._stopping.wait(self._period_s):
                self._watch_loop()
                runner.run(self._renew())
            runner.run(self._driver.close())

    async def _renew(self) -> None:
        due = self._renewals.due()
        if not due:
            return
        leases, asked_at = [held.lease for held in due], self._clock.monotonic()
        try:
            async with asyncio.timeout(self._renewals.lease_s / 3):
                lost = await self._driver.extend(leases, lease_s=self._renewals.lease_s)
        except (DriverError, TimeoutError) as error:
            logger.warning("renewing %d leases failed, trying again in %g s: %s", len(leases), self._period_s, error)
            return
        gone = self._renewals.renewed(due, lost, asked_at)
        if gone:
            self._tell(lambda: self._on_lost(gone))

    def _tell(self, call: Callable[[], None]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the worker's loop has ended
            self._stopping.set()

    def _answered(self) -> None:
        self._answered_at = self._clock.monotonic()
        self._reported = False

    def _watch_loop(self) -> None:
        """Ask the worker's loop for a sign of life; name the task that keeps it from answering."""
        silent_s = self._clock.monotonic() - self._answered_at
        if silent_s > self._blocked_s + self._period_s and not self._reported:
            self._reported = True
            logger.warning(
                "the event loop has not run for %.1f s: %s blocks it; its leases are renewed all the same. "
                "Use SyncTask for blocking code, or await.\n%s",
                silent_s,
                self._guilty(),
                self._stack(),
            )
        if not self._reported:
            self._tell(self._answered)

    def _guilty(self) -> str:
        task = asyncio.current_task(self._loop)
        return "a callback" if task is None else task.get_name()

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._loop_thread_id)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - documented, despite its name
        return "".join(traceback.format_stack(frame)[-3:]) if frame is not None else ""


class LoopLeaseKeeper:
    """Renews from the worker's own loop, each lease when it is due; sets no timer while nothing is held."""

    def __init__(
        self, driver: Driver, *, lease_s: float, clock: Clock, record: Callable[[Entry], None] | None, worker: str
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._renewals = _Renewals(lease_s, clock)
        self._record = record
        self._worker = worker
        self._retry_s = min(1.0, lease_s / 6)
        self._timer: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._on_lost: Callable[[Sequence[Held]], None] = lambda lost: None  # noqa: ARG005

    def start(self, on_lost: Callable[[Sequence[Held]], None]) -> None:
        self._on_lost = on_lost

    def hold(self, held: Held) -> None:
        self._renewals.add(held)
        if self._timer is None:
            self._arm(self._renewals.lease_s / 3)

    def drop(self, held: Held) -> None:
        self._renewals.discard(held)
        if not len(self._renewals):
            self._disarm()

    async def stop(self) -> None:
        self._disarm()
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])

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

    async def _renew(self, due: Sequence[Held]) -> None:
        renewed = await self._extend(due)
        if len(self._renewals):
            self._arm(self._renewals.next_due_in_s() if renewed else self._retry_s)

    async def _extend(self, due: Sequence[Held]) -> bool:
        leases, asked_at, asked_now = [held.lease for held in due], self._clock.monotonic(), self._clock.now()
        try:
            async with asyncio.timeout(self._renewals.lease_s / 3):
                lost = await self._driver.extend(leases, lease_s=self._renewals.lease_s)
        except (DriverError, TimeoutError) as error:
            logger.warning("renewing %d leases failed: %s", len(leases), error)
            return False
        self._note([lease for lease in leases if lease.message_id not in lost], asked_now)
        gone = self._renewals.renewed(due, lost, asked_at)
        if gone:
            self._on_lost(gone)
        return True

    def _note(self, leases: Sequence[Lease], asked_now: float) -> None:
        if self._record is None:
            return
        for lease in leases:
            now, due_at = self._clock.now(), asked_now + self._renewals.lease_s
            self._record(
                Entry(now, Kind.EXTENDED, lease.message_id, self._worker, lease.attempt, lease.token, due_at=due_at)
            )
