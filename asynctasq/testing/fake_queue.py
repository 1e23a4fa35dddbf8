"""FakeQueue: while it is open, every dispatch of its context is recorded, and runs when the test says so."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, NoReturn, Self

from asynctasq.drivers.base import Driver
from asynctasq.errors import AsyncTasqError
from asynctasq.kernel.ledger import Entry, timeline
from asynctasq.queue import MessageFactory
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.dispatching import scoped_dispatcher
from asynctasq.testing._dispatcher import FakeDispatcher, Filter
from asynctasq.testing._draining import Draining, DrainOptions, DrainResult, NotIdle, raise_first, summarise
from asynctasq.testing._engine import Engine, EngineOptions
from asynctasq.testing._fault_injector import injecting, seed_of
from asynctasq.testing._fault_plan import FaultPlan
from asynctasq.testing._history import AttemptRecord, History, histories
from asynctasq.testing._performing import Performed, perform
from asynctasq.testing._recording import Dispatched, Recording, TaskReference, task_class_of
from asynctasq.testing.clock import VirtualClock
from asynctasq.testing.faults import FaultChoice
from asynctasq.testing.loop import SimulationLoop
from asynctasq.testing.search import Search
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

YEAR_S = 365 * 86_400.0


class NestedFakeError(AsyncTasqError):
    """A FakeQueue was opened inside another one of the same context."""


class FakeQueue(Recording):
    """Record dispatches, and run them with the real worker in virtual time.

    Use it as `with FakeQueue() as queue:` or `async with FakeQueue() as queue:`; it is scoped by a context
    variable, so code in the same thread or task sees it, and other tests do not. Nothing runs until asked.

    only, except_: fake some tasks and let the rest through to the configured queue.
    workers, concurrency: how many workers, and how many attempts each runs at once.
    queues: which queues they serve, as `--queues`; all, in order of their first message, unless told.
    seed, search: which of the possible schedules; 0 is first come, first served.
    faults: what goes wrong, see `asynctasq.testing.faults`.
    real_executors: real threads and child processes; virtual time stands still meanwhile.
    freeze_time: `datetime.now()` and `time.time()` of the code under test follow the virtual clock.
    strict: work left at the end is an error.
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
        freeze_time: bool = False,
        strict: bool = False,
    ) -> None:
        super().__init__()
        self._filter = Filter(
            None if only is None else [task_class_of(task) for task in only], [task_class_of(task) for task in except_]
        )
        self._options = EngineOptions(
            workers=workers,
            concurrency=concurrency,
            queues=queues,
            search=search,
            real_executors=real_executors,
            lease_s=lease_s,
        )
        self._seed = seed or seed_of(faults)
        self._injecting = None if faults is None else injecting(faults)
        self._freeze_time = freeze_time
        self._strict = strict
        self._opened: Engine | None = None
        self._exits = ExitStack()

    # -- opening and closing ---------------------------------------------------------------------

    def __enter__(self) -> Self:
        loop = _running_simulation()
        if loop is not None:
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
            self._leave()
            self._engine.close(failed=error)

    async def __aenter__(self) -> Self:
        self._open(_running_simulation())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, trace
        try:
            self._check_nothing_left(failed=error is not None)
        finally:
            self._leave()
            if self._engine.owns_loop:
                self._engine.close(failed=error)
            else:
                await self._engine.stop_workers()

    def _open(self, loop: SimulationLoop | None) -> None:
        if self._opened is not None:
            raise NestedFakeError("this FakeQueue was opened already; make a new one for each test")
        if isinstance(scoped_dispatcher.get(), FakeDispatcher):
            raise NestedFakeError("a FakeQueue is open in this context already; use that one, or close it first")
        engine = Engine(self._options, tape=Tape(self._seed), loop=loop, faults=self._injecting)
        self._opened = engine
        if self._freeze_time:
            from asynctasq.testing.freeze import frozen_to

            self._exits.enter_context(frozen_to(engine.clock))
        scoped_dispatcher.set(FakeDispatcher(engine, self._filter, self._add))

    def _leave(self) -> None:
        # Not reset with a token: a fixture may be torn down in another context than it was set up in.
        scoped_dispatcher.set(None)
        self._exits.close()

    def _check_nothing_left(self, *, failed: bool) -> None:
        if self._engine.plan is not None and not failed:
            self._engine.plan.check_fired()
        left = self._engine.store.pending_ids()
        if self._strict and left and not failed:
            lines = "".join(f"\n  {record}" for record in self._records if record.task_id in left)
            raise AssertionError(f"{len(left)} tasks were dispatched and not run to their end:{lines}")

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
        """Everything that happened, for `asynctasq.kernel.ledger.check`."""
        return self._engine.ledger

    @property
    def driver(self) -> Driver:
        """The driver that holds the messages: `depth`, `find`, `redrive` and the rest."""
        return self._engine.store

    @property
    def faults(self) -> FaultPlan:
        """What goes wrong: `faults.fired` counts it by kind, `faults.stop()` ends it."""
        if self._engine.plan is None:
            raise RuntimeError("this FakeQueue has no faults; make it with FakeQueue(faults=...)")
        return self._engine.plan

    def history(self, task_id: str) -> History:
        """Return the attempts of one task: start times, outcomes, exceptions, hooks."""
        try:
            return histories(self.ledger)[task_id]
        except KeyError:
            raise KeyError(f"no task {task_id!r} was dispatched here") from None

    def timeline(self) -> str:
        """Return everything that happened as text, one line an event, in virtual seconds since the opening."""
        return timeline(self.ledger, start=self.clock.now() - self.clock.monotonic())

    def _pending_ids(self) -> frozenset[str]:
        return frozenset(self._engine.store.pending_ids())

    def _circumstances(self) -> str:
        return f"\nvirtual time {self.clock.elapsed}, seed {self.seed}"

    # -- running ---------------------------------------------------------------------------------

    async def run_due(self) -> DrainResult:
        """Run all that is due now, and what that makes due; the clock moves only as far as tasks sleep."""
        return await self._engine.run(self._drain(DrainOptions(), errors="collect"))

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
        step = _step(delta, seconds=seconds, minutes=minutes, hours=hours, days=days)
        return await self._engine.run(self._drain(DrainOptions(scheduled=step), errors="collect"))

    async def run_until_idle(self, *, virtual_s_max: float = YEAR_S) -> DrainResult:
        """Run until nothing is left but dead letters; the clock jumps, at most `virtual_s_max` seconds.

        Raises: NotIdle if work is left then.
        """
        options = DrainOptions(scheduled=True)
        return await self._engine.run(self._drain(options, errors="collect", virtual_s_max=virtual_s_max))

    async def drain(
        self,
        *,
        limit: int | None = None,
        recursion: bool = True,
        scheduled: bool | timedelta = False,
        retries: Literal["due", "never", "all"] = "due",
        errors: Literal["raise", "collect"] = "raise",
    ) -> DrainResult:
        """Run what is waiting, and count.

        limit: attempts at most. recursion: run what is dispatched meanwhile, too.
        scheduled: False runs what is due, True everything, a timedelta what comes due within it.
        retries: "due" runs those that come due in that time, "never" none, "all" every one.
        errors: "raise" raises, once all has run, the first exception a task raised, with a note on where.
        """
        options = DrainOptions(limit=limit, recursion=recursion, scheduled=scheduled, retries=retries)
        return await self._engine.run(self._drain(options, errors=errors))

    async def perform(self, task: BaseTask[Any], *, attempt: int = 1) -> Performed:
        """Run one task as the worker would in its attempt number `attempt`, hooks included, without the queue."""
        return await self._engine.run(self._perform(task, attempt))

    def run_due_sync(self) -> DrainResult:
        """Do `run_due` from synchronous code."""
        return self._engine.run_sync(self._drain(DrainOptions(), errors="collect"))

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
        step = _step(delta, seconds=seconds, minutes=minutes, hours=hours, days=days)
        return self._engine.run_sync(self._drain(DrainOptions(scheduled=step), errors="collect"))

    def run_until_idle_sync(self, *, virtual_s_max: float = YEAR_S) -> DrainResult:
        """Do `run_until_idle` from synchronous code."""
        options = DrainOptions(scheduled=True)
        return self._engine.run_sync(self._drain(options, errors="collect", virtual_s_max=virtual_s_max))

    def drain_sync(
        self,
        *,
        limit: int | None = None,
        recursion: bool = True,
        scheduled: bool | timedelta = False,
        retries: Literal["due", "never", "all"] = "due",
        errors: Literal["raise", "collect"] = "raise",
    ) -> DrainResult:
        """Do `drain` from synchronous code."""
        options = DrainOptions(limit=limit, recursion=recursion, scheduled=scheduled, retries=retries)
        return self._engine.run_sync(self._drain(options, errors=errors))

    def perform_sync(self, task: BaseTask[Any], *, attempt: int = 1) -> Performed:
        """Do `perform` from synchronous code."""
        return self._engine.run_sync(self._perform(task, attempt))

    async def _drain(
        self, options: DrainOptions, *, errors: Literal["raise", "collect"], virtual_s_max: float = YEAR_S
    ) -> DrainResult:
        engine = self._engine
        before, started = len(engine.ledger), engine.clock.elapsed
        await Draining(engine, options).run(virtual_s_max=virtual_s_max)
        entries = engine.ledger[before:]
        if errors == "raise":
            raise_first(entries, engine.clock)
        return summarise(entries, engine.clock.elapsed - started)

    async def _perform(self, task: BaseTask[Any], attempt: int) -> Performed:
        message = MessageFactory(clock=self.clock, new_id=self._engine.new_id).message(task)
        return await perform(self._engine, message, attempt=attempt)

    # -- assertions on what ran ------------------------------------------------------------------

    def assert_completed(self, task: TaskReference, *, times: int | None = None) -> None:
        """Assert that a dispatch of this task ended well; or exactly `times` of them."""
        done = [history for history in self._histories(task) if history.completed]
        if (times is None and not done) or (times is not None and len(done) != times):
            wanted = "to complete" if times is None else f"to complete {times} times"
            self._fail(f"expected {_name(task)} {wanted}; {len(done)} did", task)

    def assert_failed(
        self, task: TaskReference, *, with_: type[BaseException] | None = None, attempts: int | None = None
    ) -> None:
        """Assert that a dispatch of this task became a dead letter: `with_` this exception, after so many attempts."""
        for history in self._histories(task):
            fits = with_ is None or isinstance(history.exception, with_)
            if history.failed and fits and attempts in (None, len(history.attempts)):
                return
        wanted = f" with {with_.__name__}" if with_ else ""
        counted = f" after {attempts} attempts" if attempts is not None else ""
        self._fail(f"expected {_name(task)} to fail for good{wanted}{counted}", task)

    def assert_retried_at(self, seconds: Sequence[float], *, task: TaskReference | None = None) -> None:
        """Assert when attempts after the first started, in virtual seconds since the dispatch.

        Of the one task that was retried, or of `task`.
        """
        retried = [history for history in self._histories(task) if history.retried_at_s]
        if len(retried) > 1:
            self._fail(f"{len(retried)} tasks were retried; say which with task=", task)
        actual = retried[0].retried_at_s if retried else []
        if [round(float(second), 6) for second in seconds] != actual:
            self._fail(f"expected retries at {list(seconds)} s after the dispatch, they were at {actual}", task)

    def assert_failed_hook(self, task: TaskReference, *, times: int = 1) -> None:
        """Assert how often the `failed` hook of this task ran, over all its dispatches."""
        ran = sum(history.hooks.count("failed") for history in self._histories(task))
        if ran != times:
            self._fail(f"expected failed() of {_name(task)} to run {times} times; it ran {ran} times", task)

    def _histories(self, task: TaskReference | None) -> list[History]:
        found = histories(self.ledger).values()
        if task is None:
            return list(found)
        wanted = {record.task_id for record in self.dispatched(task)}
        return [history for history in found if history.task_id in wanted]

    def _fail(self, text: str, task: TaskReference | None) -> NoReturn:
        lines = "".join(f"\n{history}" for history in self._histories(task)) or "\nnothing of it was dispatched"
        raise AssertionError(f"{text}{lines}{self._circumstances()}")


def _name(task: TaskReference) -> str:
    return task_class_of(task).__qualname__


def _running_simulation() -> SimulationLoop | None:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return loop if isinstance(loop, SimulationLoop) else None


def _step(delta: timedelta | None, *, seconds: float, minutes: float, hours: float, days: float) -> timedelta:
    step = (delta or timedelta()) + timedelta(seconds=seconds, minutes=minutes, hours=hours, days=days)
    if step < timedelta():
        raise ValueError(f"virtual time never goes back: advance({step})")
    return step
