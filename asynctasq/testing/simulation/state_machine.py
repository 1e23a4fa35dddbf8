"""QueueStateMachine: Hypothesis chooses dispatches and faults, the tape chooses the schedules."""
# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false
# Strategies and preconditions are functions of the machine; and a machine is made of a queue's engine.

import functools
import sys
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any, ClassVar, Final, TypeVar

from asynctasq.kernel.ledger import check
from asynctasq.tasks.base import BaseTask
from asynctasq.testing import strategies
from asynctasq.testing.clock import VirtualClock
from asynctasq.testing.engine import Engine
from asynctasq.testing.errors import SimulationError
from asynctasq.testing.fake_queue import FakeQueue
from asynctasq.testing.fake_queue.fake_queue import YEAR_S
from asynctasq.testing.faults import PointFault
from asynctasq.testing.loop import Search
from asynctasq.testing.simulation.checks import InvariantBroken
from asynctasq.testing.simulation.report import shorten_timeline
from asynctasq.testing.simulation.run import RUN_LIMITS, silence_log
from asynctasq.testing.strategies import FAULT_KINDS, TaskSource
from asynctasq.testing.strategies.dispatches import tasks_of
from asynctasq.testing.strategies.hypothesis import (
    Bundle,
    HypothesisException,
    RuleBasedStateMachine,
    SearchStrategy,
    initialize,
    invariant,
    precondition,
    rule,
    st,
)

__all__ = ["QueueStateMachine"]

T = TypeVar("T")

SEEDS: Final = st.integers(0, 9_999)
WORKERS_MAX: Final = 16


def _of_machine(choose: "Callable[[QueueStateMachine], SearchStrategy[Any]]") -> SearchStrategy[Any]:
    """Return a strategy that asks the machine which runs what it may choose from."""
    return st.runner().flatmap(choose)


def _check_init(init: "Callable[..., None]") -> "Callable[..., None]":
    """Make the `__init__` of a subclass raise if it does not call ours: without it everything else would fail."""

    @functools.wraps(init)
    def checked(self: "QueueStateMachine", *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if "queue" not in self.__dict__:
            raise TypeError(
                f"{init.__qualname__} must call super().__init__(), first of all: it opens the machine's queue"
            )

    return checked


_current_machine: "ContextVar[QueueStateMachine | None]" = ContextVar("asynctasq_state_machine", default=None)
"""The machine of this context that was not torn down yet."""


class QueueStateMachine(RuleBasedStateMachine):
    """A queue with workers in virtual time, which Hypothesis uses, disturbs and checks.

    Derive from it, list your `tasks`, add rules and invariants of your own, and write
    `TestShop = ShopMachine.TestCase` for pytest. Code under test that dispatches needs nothing else: all that is
    dispatched while the machine lives lands in `self.queue`. State outside of the machine (a database, a module's
    dict) is yours to reset in `__init__`.

    tasks: what the machine may dispatch: classes, functions decorated with `@task`, or strategies of built tasks
    (`strategies.tasks(Pay, amount=...)`).
    faults: which kinds of faults it may choose, of `strategies.FAULT_KINDS`; `()` for none.
    faults_max: how many in one example. Two can't make a message a dead letter, whose `max_crashes` is 3 by default.
    delays: for `.delay()` and for how long time passes.
    search: which schedules there are: "fifo", "random", "pct", "mix".
    settle_within_s: so many virtual seconds, at most, may work take once no fault happens any more.
    The rest is as for `FakeQueue`.
    """

    tasks: ClassVar[Sequence[TaskSource]] = ()
    faults: ClassVar[Collection[str]] = FAULT_KINDS
    faults_max: ClassVar[int] = 2
    delays: ClassVar[SearchStrategy[float]] = strategies.delays()
    workers: ClassVar[int] = 2
    concurrency: ClassVar[int] = 10
    queues: ClassVar[str | None] = None
    lease_s: ClassVar[float] = 30.0
    search: ClassVar[Search] = "mix"
    freeze_time: ClassVar[bool] = False
    settle_within_s: ClassVar[float] = YEAR_S

    dispatched: ClassVar[Bundle[str]] = Bundle("dispatched")
    """The ids of what the machine dispatched, for rules of yours: `@rule(task_id=QueueStateMachine.dispatched)`."""

    _built: ClassVar[SearchStrategy[BaseTask[Any]]] = st.nothing()
    _faults: ClassVar[SearchStrategy[Any]] = st.nothing()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            type.__setattr__(cls, "__init__", _check_init(cls.__init__))
        cls._built = st.one_of([tasks_of(source) for source in cls.tasks])
        cls._faults = strategies.faults(of=cls.faults, nth_max=1) if cls.faults else st.nothing()

    def __init__(self) -> None:
        super().__init__()
        self._exits = ExitStack()
        left = _current_machine.get()
        if left is not None:  # the __init__ of a subclass raised, and nobody tears down what was not made
            left._exits.close()
        self._faults_used = 0
        self._entries_checked = 0
        self._outer_exception = sys.exception()
        self.queue = self._open()
        """The queue all dispatches go to: look at `dispatched()`, `history()`, assert, or use its `_sync` methods."""
        self.clock: VirtualClock = self.queue.clock
        """The virtual clock."""

    # -- for rules and invariants of a subclass --------------------------------------------------

    @property
    def pending(self) -> int:
        """How many messages still have something before them; dead letters have not."""
        return self._engine.store.pending

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of your own code, in virtual time; workers take nothing new meanwhile."""
        return self._engine.run_sync(what)

    def when_settled(self) -> None:
        """Assert what must hold in the end: no fault happens any more and all work is done. Override it."""

    # -- workload --------------------------------------------------------------------------------

    @initialize(seed=SEEDS)
    def choose_schedules(self, seed: int) -> None:
        """Choose which steps run first where several could; 0 is first come, first served."""
        if seed:
            self._engine.reseed(seed, self.search)

    @precondition(lambda self: bool(self.tasks))
    @rule(
        target=dispatched,
        task=_of_machine(lambda machine: machine._built),
        delay=_of_machine(lambda machine: st.none() | machine.delays),
    )
    def dispatch(self, task: BaseTask[Any], delay: float | None = None) -> str:
        """Dispatch one of the tasks, with a delay or without."""
        return (task if delay is None else task.delay(delay)).dispatch_sync()

    # The next three are allowed from the first dispatch on, also where there is nothing to do: Hypothesis deletes steps
    # by turning them into such first, and failures come out longer where rules are seldom allowed. Before the first
    # dispatch they are not, or examples in which Hypothesis leaves out dispatches would count.

    @precondition(lambda self: self._has_begun)
    @rule(seconds=_of_machine(lambda machine: machine.delays))
    def advance(self, seconds: float) -> None:
        """Let time pass; what takes longer is still running then."""
        self.queue.advance_sync(seconds=seconds)

    @precondition(lambda self: self._has_begun)
    @rule()
    def run_due(self) -> None:
        """Run what is due, to its end."""
        self.queue.run_due_sync()

    @precondition(lambda self: self._has_begun)
    @rule()
    def run_until_idle(self) -> None:
        """Run everything, retries included."""
        self.queue.run_until_idle_sync(virtual_s_max=self.settle_within_s)

    @precondition(lambda self: bool(self._queues_with_dead_letters()))
    @rule(queue=_of_machine(lambda machine: st.sampled_from(machine._queues_with_dead_letters())))
    def redrive(self, queue: str) -> None:
        """Redrive the dead letters of a queue."""
        self.run(self._engine.store.redrive(queue, limit=100))

    # -- faults ---------------------------------------------------------------------------------

    @precondition(lambda self: self._may_inject("crash") and bool(self._busy_workers()))
    @rule(which=st.integers(0, WORKERS_MAX))
    def crash_worker(self, which: int) -> None:
        """Kill a worker while it works, as by kill -9; another one takes its place."""
        busy = self._busy_workers()
        self._faults_used += 1
        self.run(self._crash(busy[which % len(busy)]))

    @precondition(lambda self: self._has_begun and self._may_inject())
    @rule(fault=_of_machine(lambda machine: machine._faults))
    def go_wrong(self, fault: PointFault) -> None:
        """Add a fault that happens when its point is reached, now or later."""
        self._faults_used += 1
        self.queue.faults.add(fault)

    def _may_inject(self, kind: str | None = None) -> bool:
        return self._faults_used < self.faults_max and (kind in self.faults if kind else bool(self.faults))

    async def _crash(self, worker: str) -> None:
        self._engine.crash(worker, "while it was at work")

    # -- checking --------------------------------------------------------------------------------

    @precondition(lambda self: len(self.queue.ledger) > self._entries_checked)
    @invariant()
    def the_queue_keeps_its_promises(self) -> None:
        """Check all that happened so far."""
        self._entries_checked = len(self.queue.ledger)
        broken = check(self.queue.ledger, alive=self._engine.store.pending_ids(), exact=True)
        if broken:
            raise InvariantBroken(broken)

    def teardown(self) -> None:
        """Let all work end and check it; an override must call this."""
        failure = sys.exception()
        try:
            if failure is None or failure is self._outer_exception:
                self._settle()
            elif isinstance(failure, Exception) and not isinstance(failure, HypothesisException):
                self._explain(failure)
                self._close_after(failure)
        finally:
            self._exits.close()

    def _close_after(self, failure: Exception) -> None:
        """Close; an error while closing must not replace the failure itself."""
        try:
            self._exits.close()
        except SimulationError as error:
            failure.add_note(f"and when the queue was closed: {error}")

    def _settle(self) -> None:
        try:
            self._engine.stop_faults()
            self.queue.run_until_idle_sync(virtual_s_max=self.settle_within_s)
            self.the_queue_keeps_its_promises()
            self.when_settled()
        except Exception as error:
            self._explain(error)
            self._close_after(error)
            raise

    def _explain(self, error: Exception) -> None:
        queue = self.queue
        happened = ", ".join(f"{kind} {times}" for kind, times in queue.faults.fired.items()) or "nothing"
        lines = [
            f"schedule seed {queue.seed}, virtual time {queue.clock.elapsed}, faults: {happened}",
            "what happened, in virtual seconds:",
            *shorten_timeline(queue.timeline()),
        ]
        error.add_note("\n".join(lines))

    # -- the queue -------------------------------------------------------------------------------

    @property
    def _has_begun(self) -> bool:
        return bool(self.queue.ledger)

    @property
    def _engine(self) -> Engine:
        return self.queue._engine

    def _open(self) -> FakeQueue:
        queue = FakeQueue(
            workers=self.workers,
            concurrency=self.concurrency,
            queues=self.queues,
            lease_s=self.lease_s,
            faults=(),
            freeze_time=self.freeze_time,
        )
        self._exits.enter_context(silence_log())
        self._exits.enter_context(queue)
        _current_machine.set(self)
        self._exits.callback(_current_machine.set, None)
        queue.faults.account_for = False  # a fault that Hypothesis chose need not happen
        queue._engine.limits = RUN_LIMITS
        return queue

    def _busy_workers(self) -> list[str]:
        return [name for name, worker in self._engine.workers.items() if not worker.idle]

    def _queues_with_dead_letters(self) -> list[str]:
        store = self._engine.store
        return [name for name in store.queue_names() if store.dead(name)]
