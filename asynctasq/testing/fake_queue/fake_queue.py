"""FakeQueue: while it is open, every dispatch of its context is recorded, and runs when the test says so."""

import threading
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, get_args

from asynctasq.drivers.base import Driver
from asynctasq.errors import AsyncTasqError
from asynctasq.kernel.ledger import Entry, timeline
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.dispatching import fake_closed, fake_opened, scoped_dispatcher
from asynctasq.tasks.middleware import Middleware
from asynctasq.tasks.options import one_of, whole_number
from asynctasq.tasks.options import seconds as seconds_of
from asynctasq.testing.clock import VirtualClock, frozen_to
from asynctasq.testing.engine import Engine, EngineOptions, OnRefusal, Surroundings
from asynctasq.testing.fake_queue.dispatcher import FakeDispatcher, Filter
from asynctasq.testing.fake_queue.draining import (
    Drain,
    DrainOptions,
    DrainResult,
    Errors,
    NotIdle,
    Retries,
    advance_step,
    check_nothing_left,
    raise_first,
    raise_unserved,
    summarise,
    uncommitted,
)
from asynctasq.testing.fake_queue.history import AttemptRecord, History
from asynctasq.testing.fake_queue.like_driver import LikeDriver
from asynctasq.testing.fake_queue.outcomes import Outcomes
from asynctasq.testing.fake_queue.performed import Performed
from asynctasq.testing.fake_queue.performing import perform_task, task_with_arguments
from asynctasq.testing.fake_queue.recording import Dispatched, Recording
from asynctasq.testing.fake_queue.start import schedules_of, start_of
from asynctasq.testing.faults import FaultChoice, FaultPlan, Faults
from asynctasq.testing.faults.injector import FaultInjector, seed_of
from asynctasq.testing.faults.kinds import as_list
from asynctasq.testing.loop import Search, SimulationLoop, running_simulation
from asynctasq.testing.parameters import TaskReference, check_seed, task_class_of
from asynctasq.testing.tape import Tape

__all__ = [
    "AttemptRecord",
    "Dispatched",
    "DrainResult",
    "FakeQueue",
    "History",
    "NestedFakeError",
    "NotIdle",
    "Performed",
    "Recording",
]

R = TypeVar("R")
YEAR_S = 365 * 86_400.0


class NestedFakeError(AsyncTasqError):
    """A FakeQueue was opened inside another one of the same context."""


class FakeQueue(Outcomes):
    """Record dispatches, and run them with the real worker in virtual time.

    Use it with `with` or `async with`. It is scoped by a context variable, so code in the same thread or task sees it,
    and other tests do not. Nothing runs until asked.

    only, except_: fake some tasks and dispatch the others to the configured queue.
    workers, concurrency: how many workers, and how many attempts each runs at once.
    queues: which queues they serve, as `--queues`; by default all, which a real worker does not.
    seed, search: which of the possible schedules; 0 is first come, first served.
    faults: which faults happen, see `asynctasq.testing.faults`.
    real_executors: real threads and child processes; virtual time stands still meanwhile.
    start: at which instant the virtual clock begins, by default 2020-01-01; without a time zone it is UTC.
    freeze_time: `datetime.now()` and `time.time()` of the code under test follow the virtual clock; an instant says at
    once from when on, True inside a freeze of freezegun that it begins where that stands.
    strict: work left at the end is an error.
    real_s_max: how many real seconds may pass in which nothing happens while tasks wait for the outside.
    on_refusal: what is refused to a task, such as the network in a simulation, fails the test, or raises in the task.
    like: refuse what this driver would, a name such as "sqs", in place of the configured one.
    schedules: keep the schedules of all imported tasks going, or of these alone, from the first run on.
    middleware: in place of the configured one, which holds here too; `[]` for none.
    resources: one object, or a tuple, in place of the configured lifespans, which each worker here enters otherwise.

    What is dispatched in a transaction of the application, `dispatch(connection=...)`, is recorded when that commits.
    """

    def __init__(  # noqa: PLR0913 - one keyword per choice of a test
        self,
        *,
        only: Sequence[TaskReference] | None = None,
        except_: Sequence[TaskReference] = (),
        workers: int = 1,
        concurrency: int = 10,
        queues: str | None = None,
        lease_s: float = 30.0,
        seed: int = 0,
        search: Search = "fifo",
        faults: FaultChoice | None = None,
        real_executors: bool = False,
        start: datetime | None = None,
        freeze_time: bool | datetime = False,
        strict: bool = False,
        real_s_max: float = 60.0,
        on_refusal: OnRefusal = "fail_test",
        like: str | Driver | None = None,
        schedules: bool | Sequence[TaskReference] = False,
        middleware: Sequence[Middleware] | None = None,
        resources: object = None,
    ) -> None:
        super().__init__()
        surroundings = Surroundings(middleware, resources)
        self._like = LikeDriver(like, surroundings.settings)
        for name, count in (("workers", workers), ("concurrency", concurrency)):
            whole_number(count, name, least=1)
        check_seed(seed)
        one_of(on_refusal, "on_refusal", get_args(OnRefusal))
        self._filter = Filter(
            None if only is None else [task_class_of(task) for task in only], [task_class_of(task) for task in except_]
        )
        by_chance = any(isinstance(fault, Faults) for fault in as_list(faults or []))
        choices = {"seed=": seed, "search=": search != "fifo", "faults=Faults(...)": by_chance}
        self._options = EngineOptions(
            workers=workers,
            concurrency=concurrency,
            queues=queues,
            search=search,
            real_executors=real_executors,
            lease_s=seconds_of(lease_s, "lease_s", above_zero=True),
            real_s_max=seconds_of(real_s_max, "real_s_max", above_zero=True),
            on_refusal=on_refusal,
            start=start_of(start, freeze_time),
            schedules=schedules_of(schedules),
            surroundings=surroundings,
            chooses=", ".join(name for name, given in choices.items() if given),
        )
        self._seed = seed or seed_of(faults)
        self._faults = faults
        self._start_chosen = start is not None or isinstance(freeze_time, datetime)
        self._freeze_time = freeze_time is not False
        self._strict = strict
        self._opened: Engine | None = None
        self._plan: FaultPlan | None = None
        self._exits = ExitStack()

    # -- opening and closing ---------------------------------------------------------------------

    def __enter__(self) -> Self:
        if running_simulation() is not None:
            raise RuntimeError("inside a simulation's loop use `async with FakeQueue()`")
        self._open(None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, trace
        try:
            self._check_nothing_left(failed=error is not None)
        finally:
            self._leave_scope()
            self._engine.close(failed=error)

    async def __aenter__(self) -> Self:
        loop = running_simulation()
        if loop is None:
            self._options.check_needs_no_simulation()
        self._open(loop)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, trace
        try:
            self._check_nothing_left(failed=error is not None)
        finally:
            self._leave_scope()
            await self._engine.leave()

    def _open(self, loop: SimulationLoop | None) -> None:
        if self._opened is not None:
            raise NestedFakeError("this FakeQueue was opened already; make a new one for each test")
        if loop is not None and self._start_chosen:
            raise ValueError("in a simulation the clock is the simulation's, which begins at 2020-01-01 00:00 UTC")
        if isinstance(scoped_dispatcher.get(), FakeDispatcher):
            raise NestedFakeError("a FakeQueue is open in this context already; use that one, or close it first")
        faults = None if self._faults is None else partial(self._inject, self._faults)
        engine = Engine(self._options, tape=Tape(self._seed), loop=loop, faults=faults)
        engine.stands_for = lambda: self._like.driver
        self._opened = engine
        if self._freeze_time:
            self._exits.enter_context(frozen_to(engine.clock))
        self._dispatcher_around = scoped_dispatcher.get()
        scoped_dispatcher.set(FakeDispatcher(engine, self._filter, self._add, self._like))
        self._exits.callback(fake_closed, threading.get_ident())
        fake_opened(threading.get_ident())

    def _inject(self, faults: FaultChoice, engine: Engine) -> FaultInjector:
        self._plan = FaultPlan(faults, engine.tape)
        return FaultInjector(engine, self._plan)

    def _leave_scope(self) -> None:
        # Not reset with a token: a fixture may be torn down in another context than it was set up in.
        scoped_dispatcher.set(self._dispatcher_around)
        self._exits.close()

    def _check_nothing_left(self, *, failed: bool) -> None:
        self._look()  # a transaction that ended unseen is recorded while its connection is there
        if not failed and not self._engine.waits.failure_raised:
            self._engine.waits.raise_failure()
        if self._plan is not None and not failed:
            self._plan.check_fired()
        if self._strict and not failed:
            check_nothing_left(self._engine, self._records)

    @property
    def _engine(self) -> Engine:
        if self._opened is None:
            raise RuntimeError("this FakeQueue is not open; use it in a `with` or `async with` statement")
        return self._opened

    # -- what there is ---------------------------------------------------------------------------

    @property
    def clock(self) -> VirtualClock:
        """The virtual clock; `clock.elapsed` is the time since the queue was opened."""
        return self._engine.clock

    @property
    def seed(self) -> int:
        """The seed of every decision in here."""
        return self._engine.tape.seed

    @property
    def ledger(self) -> Sequence[Entry]:
        """Everything that happened, entry by entry; `Ledger(entries)` judges it."""
        self._look()
        return self._engine.ledger

    @property
    def driver(self) -> Driver:
        """The driver that holds the messages: `depth`, `find`, `redrive` and the rest."""
        self._look()
        return self._engine.store

    def commit(self) -> None:
        """Record what waits for the commit of a transaction, as if every one had been committed now.

        For transactions whose end a FakeQueue can't see: one that a fixture holds around the whole test.
        """
        self._engine.transactions.commit()

    @property
    def faults(self) -> FaultPlan:
        """The faults: `faults.fired` counts them by kind, `faults.stop()` ends them."""
        if self._plan is None:
            raise RuntimeError("this FakeQueue has no faults; make it with FakeQueue(faults=...)")
        return self._plan

    def timeline(self) -> str:
        """Return everything that happened as text, one line an event, in virtual seconds since the opening."""
        return timeline(self.ledger, start=self.clock.now() - self.clock.monotonic())

    def _check_faked(self, task: type[BaseTask[Any]]) -> None:
        self._filter.check_faked(task)

    def _pending_ids(self) -> frozenset[str]:
        return frozenset(self._engine.store.pending_ids())

    def _look(self) -> None:
        self._engine.transactions.refresh()

    def _context_text(self) -> str:
        transactions = self._engine.transactions
        said = [
            f"\nnot recorded, since the transaction they were dispatched in {fate}:{dispatches}"
            for fate, changes in (
                ("is still open", transactions.waiting),
                ("was rolled back", transactions.rolled_back),
            )
            if (dispatches := uncommitted(changes))
        ]
        return f"{''.join(said)}\nvirtual time {self.clock.elapsed}, seed {self.seed}"

    # -- running ---------------------------------------------------------------------------------

    async def run_due(self) -> DrainResult:
        """Run all that is due now, and what that makes due; the clock moves only as far as tasks sleep."""
        return await self._engine.run(self._drain(DrainOptions()))

    async def advance(
        self,
        delta: timedelta | None = None,
        *,
        seconds: float = 0,
        minutes: float = 0,
        hours: float = 0,
        days: float = 0,
    ) -> DrainResult:
        """Let so much virtual time pass and run what comes due in it, each at its instant."""
        step = advance_step(delta, seconds=seconds, minutes=minutes, hours=hours, days=days)
        return await self._engine.run(self._drain(DrainOptions(scheduled=step)))

    async def run_until_idle(self, *, virtual_s_max: float = YEAR_S) -> DrainResult:
        """Run until nothing is left but dead letters; the clock jumps, at most `virtual_s_max` seconds.

        Raises: NotIdle if work is left then, or lies in a queue that no worker serves.
        """
        bound_s = seconds_of(virtual_s_max, "virtual_s_max", above_zero=False)
        return await self._engine.run(self._run_until_idle(bound_s))

    async def drain(
        self,
        *,
        limit: int | None = None,
        recursion: bool = True,
        scheduled: bool | timedelta = False,
        retries: Retries = "due",
        errors: Errors = "raise",
    ) -> DrainResult:
        """Run what is waiting, and count.

        limit: attempts at most. recursion: run what is dispatched meanwhile, too.
        scheduled: False runs what is due, True everything, a timedelta what comes due within it.
        retries: "due" runs those that come due in that time, "never" none, "all" every one.
        errors: "raise" raises, once all has run, the first exception a task raised, with a note on where.

        What lies in queues that no worker serves is left.
        """
        options = DrainOptions(limit=limit, recursion=recursion, scheduled=scheduled, retries=retries, errors=errors)
        return await self._engine.run(self._drain(options))

    async def perform(self, task: BaseTask[R], *, attempt: int = 1) -> Performed[R]:
        """Run one task as the worker would in its attempt number `attempt`, hooks included, without the queue."""
        return await self._engine.run(self._perform(task, attempt))

    def run_due_sync(self) -> DrainResult:
        """Do `run_due` from synchronous code."""
        return self._engine.run_sync(self._drain(DrainOptions()))

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
        return self._engine.run_sync(self._drain(DrainOptions(scheduled=step)))

    def run_until_idle_sync(self, *, virtual_s_max: float = YEAR_S) -> DrainResult:
        """Do `run_until_idle` from synchronous code."""
        bound_s = seconds_of(virtual_s_max, "virtual_s_max", above_zero=False)
        return self._engine.run_sync(self._run_until_idle(bound_s))

    def drain_sync(
        self,
        *,
        limit: int | None = None,
        recursion: bool = True,
        scheduled: bool | timedelta = False,
        retries: Retries = "due",
        errors: Errors = "raise",
    ) -> DrainResult:
        """Do `drain` from synchronous code."""
        options = DrainOptions(limit=limit, recursion=recursion, scheduled=scheduled, retries=retries, errors=errors)
        return self._engine.run_sync(self._drain(options))

    def perform_sync(self, task: BaseTask[R], *, attempt: int = 1) -> Performed[R]:
        """Do `perform` from synchronous code."""
        return self._engine.run_sync(self._perform(task, attempt))

    async def _run_until_idle(self, virtual_s_max: float) -> DrainResult:
        result = await self._drain(DrainOptions(scheduled=True), virtual_s_max=virtual_s_max)
        raise_unserved(self._engine)
        return result

    async def _drain(self, options: DrainOptions, *, virtual_s_max: float = YEAR_S) -> DrainResult:
        engine = self._engine
        before, started = len(engine.ledger), engine.clock.elapsed
        await Drain(engine, options).run(virtual_s_max=virtual_s_max)
        entries = engine.ledger[before:]
        if options.errors == "raise":
            raise_first(entries, opened_at=engine.clock.now() - engine.clock.monotonic())
        return summarise(entries, engine.clock.elapsed - started)

    def _perform(self, task: BaseTask[R], attempt: int) -> Coroutine[Any, Any, Performed[R]]:
        attempt = whole_number(attempt, "attempt", least=1)
        return perform_task(self._engine, task_with_arguments(task), attempt=attempt)
