"""RealQueue: dispatches go to a private queue on a real driver, and run when the test says so; time can be skipped."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from asynctasq.drivers.base import Driver
from asynctasq.drivers.loops import running_loop
from asynctasq.errors import AsyncTasqError
from asynctasq.kernel.ledger import Entry, Kind, timeline
from asynctasq.queue import background_loop
from asynctasq.tasks.dispatching import fake_closed, fake_opened, scoped_dispatcher
from asynctasq.tasks.middleware import Middleware
from asynctasq.tasks.options import seconds as seconds_of
from asynctasq.tasks.options import whole_number
from asynctasq.testing.engine import Surroundings
from asynctasq.testing.fake_queue.draining import (
    DrainOptions,
    DrainResult,
    Errors,
    NotIdle,
    advance_step,
    raise_first,
    summarise,
)
from asynctasq.testing.fake_queue.expectation import Dispatched
from asynctasq.testing.fake_queue.fake_queue import YEAR_S, NestedFakeError
from asynctasq.testing.fake_queue.outcomes import Outcomes
from asynctasq.testing.fake_queue.recording import Captured
from asynctasq.testing.real_queue.bursts import BurstOptions, Bursts
from asynctasq.testing.real_queue.clock import MovedClock
from asynctasq.testing.real_queue.dispatches import DispatchLog
from asynctasq.testing.real_queue.recording_driver import RecordingDriver
from asynctasq.testing.real_queue.remaining import Remaining
from asynctasq.testing.real_queue.store import OneDriverQueue, Store

__all__ = ["RealQueue"]

T = TypeVar("T")


class RealQueue(Outcomes):
    """Store dispatches with a real driver, and run them with a real worker in the test's own loop.

    The fixture `real_queue` gives one. Nothing runs until asked. Delays and retries are not waited for: the driver's
    clock is moved. Everything else is real: threads, child processes, sleeps, time limits.

    concurrency: how many attempts run at once. queues: which queues are served, as `--queues`; by default all.
    real_s_max: how many real seconds one call may take. middleware, resources: as of a FakeQueue.
    """

    def __init__(
        self,
        store: Store,
        *,
        concurrency: int = 10,
        queues: str | None = None,
        lease_s: float = 30.0,
        real_s_max: float = 60.0,
        middleware: Sequence[Middleware] | None = None,
        resources: object = None,
    ) -> None:
        super().__init__()
        self._surroundings = Surroundings(middleware, resources)
        self._store = store
        self._driver = RecordingDriver(store.create())
        self._served = queues
        self._clock = MovedClock()
        self._ledger: list[Entry] = []
        self._log = DispatchLog(self._clock, add=self._add, skip=self._add_skipped, record=self._ledger.append)
        self._driver.on_stored = self._log.stored
        self._driver.on_stored_in = self._log.stored_in_transaction
        self._driver.on_skipped = self._log.skipped
        self._driver.on_reserved = self._log.reserved
        self._driver.on_cancelled = self._log.cancelled
        self._remaining = Remaining(self._driver)
        self._bursts = Bursts(
            self._driver,
            BurstOptions(
                concurrency=whole_number(concurrency, "concurrency", least=1),
                lease_s=seconds_of(lease_s, "lease_s", above_zero=True),
                real_s_max=seconds_of(real_s_max, "real_s_max", above_zero=True),
                address=self._address,
                surroundings=self._surroundings,
            ),
            clock=self._clock,
            record=self._ledger.append,
        )
        self._state = "not open yet"
        self._running = False
        self._runner: asyncio.Runner | None = None

    # -- opening and closing ---------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._check_may_open()
        background_loop.run(self._prepare)
        self._enter_scope()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave_scope()
        try:
            self.close_connections()
        finally:
            background_loop.run(self._store.clean_up)

    async def __aenter__(self) -> Self:
        self._check_may_open()
        await self._prepare()
        self._enter_scope()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave_scope()
        try:
            await self._driver.close()
            self.close_connections()
        finally:
            await self._store.clean_up()

    def _check_may_open(self) -> None:
        if self._state != "not open yet":
            raise NestedFakeError("this RealQueue was opened already; make a new one for each test")
        if scoped_dispatcher.get() is not None:
            raise NestedFakeError("a FakeQueue or a RealQueue is open in this context already; a test has one of them")

    async def _prepare(self) -> None:
        prepare = getattr(self._store, "prepare", None)
        if prepare is not None:
            await prepare()

    def _enter_scope(self) -> None:
        self._state = "open"
        self._thread = threading.get_ident()
        scoped_dispatcher.set(OneDriverQueue(self._driver, middleware=self._surroundings.middleware()))
        fake_opened(self._thread)

    def _leave_scope(self) -> None:
        self._confirm()  # nothing can be asked of the store afterwards
        # Not reset with a token: a fixture may be torn down in another context than it was set up in.
        scoped_dispatcher.set(None)
        fake_closed(self._thread)
        self._state = "closed"

    def close_connections(self) -> None:
        """Close what the driver has open in event loops that don't run now; what is used again opens again."""
        for loop in list(self._driver.loops):
            if loop.is_closed() or loop is running_loop():
                continue
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(self._driver.close(), loop).result(timeout=10)
            elif running_loop() is None:
                loop.run_until_complete(self._driver.close())
        if self._runner is not None and running_loop() is None:
            self._runner.close()
            self._runner = None

    # -- what there is ---------------------------------------------------------------------------

    @property
    def driver(self) -> Driver:
        """The driver that holds the messages: `depth`, `find`, `redrive` and the rest."""
        return self._driver

    @property
    def url(self) -> str:
        """Where the queue is, as a URL without options; "" where there is none."""
        return self._address().partition("?")[0]

    @property
    def clock(self) -> MovedClock:
        """The driver's clock as tasks' delays see it; `clock.elapsed` is the time since the queue was opened."""
        return self._clock

    @property
    def ledger(self) -> Sequence[Entry]:
        """Everything that happened, for `asynctasq.kernel.ledger.check`."""
        self._confirm()
        return self._ledger

    def timeline(self) -> str:
        """Return everything that happened as text, one line an event, in seconds since the opening."""
        return timeline(self.ledger, start=self._clock.opened_at)

    @property
    def _records(self) -> list[Dispatched]:
        self._confirm()
        return self._recorded

    @contextmanager
    def captures(self) -> Generator[Captured]:
        """Collect what the block dispatches, and only that; a transaction that the block commits included."""
        self._confirm()
        with super().captures() as captured:
            yield captured
            self._confirm()

    def _confirm(self) -> None:
        """Find out which of the messages that were stored in transactions are there; rolled back ones never are."""
        uncommitted = self._log.uncommitted
        if uncommitted and self._state == "open":
            found = background_loop.run(lambda: self._remaining.existing(uncommitted))
            self._log.committed(found)

    def _pending_ids(self) -> frozenset[str]:
        if self._state != "open":
            raise AsyncTasqError(f"this RealQueue is {self._state}; ask what is waiting to be run while it is open")
        ids = [record.task_id for record in self._records]
        return frozenset(background_loop.run(lambda: self._remaining.waiting(ids)))

    def _context_text(self) -> str:
        return f"\n{self._clock.elapsed} after the start, on {self._driver}"

    def _same_times(self, wanted: Sequence[float], actual: Sequence[float]) -> bool:
        """Say whether each is what was wanted, and later by no more than the real time that went by in the test."""
        if len(wanted) != len(actual):
            return False
        late_s_max = self._clock.real_s
        return all(-0.001 <= is_at - at <= late_s_max for at, is_at in zip(wanted, actual, strict=True))

    def _address(self) -> str:
        address: Callable[[], str] | None = getattr(self._store, "address", None)
        return "" if address is None else address()

    # -- running ---------------------------------------------------------------------------------

    async def run_due(self) -> DrainResult:
        """Run all that is due now, and what that makes due."""
        return await self._run(self._drain(DrainOptions()))

    async def advance(
        self,
        delta: timedelta | None = None,
        *,
        seconds: float = 0,
        minutes: float = 0,
        hours: float = 0,
        days: float = 0,
    ) -> DrainResult:
        """Let so much time pass by the driver's clock and run what comes due in it, each at its instant."""
        step = advance_step(delta, seconds=seconds, minutes=minutes, hours=hours, days=days)
        return await self._run(self._drain(DrainOptions(scheduled=step)))

    async def run_until_idle(self, *, virtual_s_max: float = YEAR_S) -> DrainResult:
        """Run until nothing is left but dead letters; the driver's clock jumps, at most `virtual_s_max` seconds.

        Raises: NotIdle if work is left then, or lies in a queue that is not served.
        """
        bound_s = seconds_of(virtual_s_max, "virtual_s_max", above_zero=False)
        return await self._run(self._run_until_idle(bound_s))

    async def drain(
        self, *, limit: int | None = None, scheduled: bool | timedelta = False, errors: Errors = "raise"
    ) -> DrainResult:
        """Run what is waiting, and count.

        limit: attempts at most.
        scheduled: False runs what is due, True everything, a timedelta what comes due within it.
        errors: "raise" raises, once all has run, the first exception a task raised, with a note on where.
        """
        return await self._run(self._drain(DrainOptions(limit=limit, scheduled=scheduled, errors=errors)))

    def run_due_sync(self) -> DrainResult:
        """Do `run_due` from synchronous code."""
        return self._run_sync(self.run_due)

    def advance_sync(
        self,
        delta: timedelta | None = None,
        *,
        seconds: float = 0,
        minutes: float = 0,
        hours: float = 0,
        days: float = 0,
    ) -> DrainResult:
        """Do `advance` from synchronous code."""
        step = advance_step(delta, seconds=seconds, minutes=minutes, hours=hours, days=days)
        return self._run_sync(lambda: self.advance(step))

    def run_until_idle_sync(self, *, virtual_s_max: float = YEAR_S) -> DrainResult:
        """Do `run_until_idle` from synchronous code."""
        return self._run_sync(lambda: self.run_until_idle(virtual_s_max=virtual_s_max))

    def drain_sync(
        self, *, limit: int | None = None, scheduled: bool | timedelta = False, errors: Errors = "raise"
    ) -> DrainResult:
        """Do `drain` from synchronous code."""
        return self._run_sync(lambda: self.drain(limit=limit, scheduled=scheduled, errors=errors))

    async def _run(self, what: Coroutine[Any, Any, T]) -> T:
        if self._state != "open" or self._running:
            what.close()
            raise RuntimeError(
                "this RealQueue runs tasks already; await one call after the other"
                if self._running
                else f"this RealQueue is {self._state}; use it in a `with` or `async with` statement"
            )
        self._running = True
        try:
            self._bursts.begin()
            return await what
        finally:
            self._running = False

    def _run_sync(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if running_loop() is not None:
            raise RuntimeError("an event loop runs here; await the method without _sync instead")
        if self._runner is None:
            # With a factory the runner leaves the thread's current loop alone.
            self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        return self._runner.run(make(), context=copy_context())

    async def _run_until_idle(self, virtual_s_max: float) -> DrainResult:
        result = await self._drain(DrainOptions(scheduled=True), virtual_s_max=virtual_s_max)
        left = await self._remaining.unfinished(await self._remaining.queues(self._log.queues))
        if left:
            counts = ", ".join(f"{count} on {queue!r}" for queue, count in left.items())
            raise NotIdle(
                f"not idle: work is left ({counts}), which no worker of this RealQueue takes now: its queue is not "
                f"among queues={self._served!r}, or it is due later than allowed, or at a time to which the driver's "
                "clock can't be moved"
            )
        return result

    async def _drain(self, options: DrainOptions, *, virtual_s_max: float = YEAR_S) -> DrainResult:
        before, started = len(self._ledger), self._clock.elapsed
        match options.scheduled:
            case False:
                await self._run_visible(options.limit)
            case True:
                await self._run_within(virtual_s_max, options.limit, to_the_end=False)
            case timedelta() as delta:
                await self._run_within(delta.total_seconds(), options.limit, to_the_end=True)
        entries = self._ledger[before:]
        if options.errors == "raise":
            raise_first(entries, opened_at=self._clock.opened_at)
        return summarise(entries, self._clock.elapsed - started)

    async def _run_visible(self, limit: int | None) -> int:
        """Run all that is visible, and what that makes visible; return how many attempts that were."""
        ran = 0
        while limit is None or ran < limit:
            queues = await self._served_queues()
            if not queues:
                break
            begin = len(self._ledger)
            await self._bursts.run(self._served or queues, limit=None if limit is None else limit - ran)
            ran += sum(entry.kind is Kind.RESERVED for entry in self._ledger[begin:])
            if not await self._remaining.any_visible(await self._served_queues(), known=queues):
                break
        return ran

    async def _run_within(self, left_s: float, limit: int | None, *, to_the_end: bool) -> None:
        """Jump from due instant to due instant, at most `left_s` seconds in all; `to_the_end` lets all of them pass."""
        ran, extra_s = await self._run_visible(limit), 0.0
        while limit is None or ran < limit:
            due_at = await self._remaining.next_due(await self._served_queues())
            wait_s = None if due_at is None else max(0.0, due_at - self._clock.now())
            if wait_s is None or wait_s > left_s:
                break
            step_s = min(wait_s + extra_s, left_s)
            self._move(step_s)
            left_s -= step_s
            more = await self._run_visible(None if limit is None else limit - ran)
            ran += more
            extra_s = 0.0 if more else max(0.000_01, 4 * extra_s)  # the server's clock may be behind ours
        if to_the_end:
            self._move(left_s)
            await self._run_visible(None if limit is None else limit - ran)

    async def _served_queues(self) -> list[str]:
        if self._served is not None:
            return [part.partition(":")[0].strip() for part in self._served.split(",")]
        return await self._remaining.queues(self._log.queues)

    def _move(self, seconds: float) -> None:
        self._store.advance(seconds)
        self._clock.offset_s += seconds
