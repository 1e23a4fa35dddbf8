"""QueueStateMachine: what it does, that it finds planted bugs and shrinks them, and none where none is."""

import asyncio
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from asynctasq.kernel.ledger import Kind
from asynctasq.tasks import AsyncTask, SyncTask, task
from asynctasq.testing import Crash, FakeQueue, QueueStateMachine, strategies
from asynctasq.testing.simulation.checks import InvariantBroken
from asynctasq.testing.strategies import FAULT_KINDS, NoStrategy
from tests.mutants.planting import planted
from tests.mutants.table import MUTANTS

STEADY = settings(
    deadline=None,
    database=None,
    derandomize=True,
    print_blob=False,
    report_multiple_bugs=False,
    stateful_step_count=12,
    suppress_health_check=list(HealthCheck),
)
"""The same examples today and tomorrow; a busy machine is no finding."""


def fails(machine: type[QueueStateMachine], *, examples: int = 100, shrink: bool = True) -> Exception:
    """Return what the machine finds, shrunk; its notes have the steps."""
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    with pytest.raises(Exception) as caught:
        run_state_machine_as_test(machine, settings=settings(STEADY, max_examples=examples, phases=phases))
    return caught.value


OURS = ("dispatch", "advance", "run_due", "run_until_idle", "redrive", "crash_worker", "go_wrong", "order")


def steps_of(error: Exception) -> list[str]:
    """Return the rules of the failing example, in order."""
    called: list[str] = re.findall(r"^(?:\w+ = )?state\.(\w+)\(", "\n".join(error.__notes__), re.MULTILINE)
    return [name for name in called if name in OURS]


# -- users' bugs -----------------------------------------------------------------------------------

PAID: Counter[int] = Counter()


class Pay(AsyncTask[None]):
    """Not idempotent: a worker that dies after it has paid and before it said so pays twice."""

    def __init__(self, order: int, note: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.order = order

    async def execute(self) -> None:
        await asyncio.sleep(0.1)
        PAID[self.order] += 1


class Shop(QueueStateMachine):
    """Each order is dispatched once, by a rule of its own."""

    faults = ("crash",)

    def __init__(self) -> None:
        super().__init__()
        PAID.clear()
        self.orders = 0

    @rule(target=QueueStateMachine.dispatched)
    def order(self) -> str:
        self.orders += 1
        return self.run(self.place(self.orders))

    async def place(self, number: int) -> str:
        return await Pay(number).dispatch()

    def when_settled(self) -> None:
        assert dict(PAID) == dict.fromkeys(range(1, self.orders + 1), 1), f"paid {dict(PAID)}"


def test_a_task_that_is_not_idempotent_is_found_shrunk_and_shown() -> None:
    error = fails(Shop, examples=300)

    notes = "\n".join(error.__notes__)
    assert str(error).startswith("paid {1: 2}")
    assert {"go_wrong", "order"} < set(steps_of(error))
    assert len(steps_of(error)) <= 4
    assert "state.go_wrong(fault=Crash(at='before_settle'" in notes
    assert re.search(r"schedule seed 0, virtual time 0:00:3\d\.\d+, faults: crash 1", notes)
    assert re.search(r"w1 crashed at before_settle of \w{8} attempt 1", notes)
    assert re.search(r"\w{8} dispatched tests.testing.simulation.test_state_machine:Pay", notes)


class PayOnce(Pay):
    async def execute(self) -> None:
        PAID[self.order] = 1


class CarefulShop(Shop):
    async def place(self, number: int) -> str:
        return await PayOnce(number).dispatch()


def test_the_same_shop_passes_with_a_task_that_is_idempotent() -> None:
    run_state_machine_as_test(CarefulShop, settings=settings(STEADY, max_examples=40))


EXPIRED: set[str | None] = set()


class Expire(AsyncTask[None]):
    async def execute(self) -> None:
        EXPIRED.add(self._task_id)


class Impatient(QueueStateMachine):
    """Believes that what was dispatched an hour ago has run; a longer delay breaks that."""

    tasks = [Expire]
    faults = ()
    delays = strategies.delays(least_s=1_800, most_s=7_200)

    def __init__(self) -> None:
        super().__init__()
        EXPIRED.clear()

    @invariant()
    def what_is_an_hour_old_has_run(self) -> None:
        for record in self.queue.dispatched():
            age_s = self.clock.elapsed.total_seconds() - record.at_s
            assert age_s <= 3600 or record.task_id in EXPIRED, "an old one did not run"


def test_an_invariant_that_a_delay_breaks_is_found_and_shrunk() -> None:
    error = fails(Impatient, examples=300)

    assert str(error).startswith("an old one did not run")
    assert {"dispatch", "advance"} <= set(steps_of(error))
    assert len(steps_of(error)) <= 5


STOCK = {"pens": 0}


class Sell(AsyncTask[None]):
    async def execute(self) -> None:
        left = STOCK["pens"]
        await asyncio.sleep(0)
        STOCK["pens"] = left - 1


class Race(QueueStateMachine):
    tasks = [Sell]
    faults = ()
    workers = 1

    def __init__(self) -> None:
        super().__init__()
        STOCK["pens"] = 100

    def when_settled(self) -> None:
        assert STOCK["pens"] == 100 - len(self.queue.dispatched())


@pytest.mark.slow
def test_a_race_needs_two_dispatches_and_no_more() -> None:
    steps = steps_of(fails(Race))

    assert steps.count("dispatch") == 2
    assert len(steps) <= 4


# -- the product's bugs ----------------------------------------------------------------------------


class Work(AsyncTask[str]):
    retry_delay = [1, 40]

    def __init__(self, good: int = 1, takes: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.good, self.takes = good, takes

    async def execute(self) -> str:
        await asyncio.sleep(self.takes)
        if self.attempt < self.good:
            raise ValueError("not yet")
        return "done"

    async def failed(self, exception: Exception) -> None:
        await asyncio.sleep(1)


class Block(SyncTask[None]):
    def __init__(self, words: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def execute(self) -> None: ...


@task(queue="other")
async def spread(count: int) -> None:
    for _ in range(count):
        await Work().dispatch()


class Everything(QueueStateMachine):
    """All that the machine can do, on tasks of many kinds."""

    tasks = [
        strategies.tasks(Work, good=st.sampled_from([1, 9, 2]), takes=st.sampled_from([0, 1, 70])),
        Block,
        strategies.tasks(spread, count=st.integers(0, 2)),
    ]


class Reached(Everything):
    seen: Counter[str] = Counter()

    def teardown(self) -> None:
        super().teardown()
        self.seen.update(entry.kind.value for entry in self.queue.ledger)


def test_the_product_keeps_its_promises_whatever_is_done_to_it() -> None:
    run_state_machine_as_test(Reached, settings=settings(STEADY, max_examples=60, stateful_step_count=20))

    assert {"fault", "hook", "settled"} <= Reached.seen.keys()


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_every_kind_of_fault_strikes(kind: str) -> None:
    class Struck(Everything):
        faults = (kind,)

        def when_settled(self) -> None:
            assert kind not in self.queue.faults.fired, "it struck"

    assert str(fails(Struck, examples=200, shrink=False)).startswith("it struck")


@pytest.mark.parametrize(
    ("name", "found_by"),
    [
        ("ack before run", "exact when undisturbed"),
        ("token comes again", "exact when undisturbed"),
        ("renewal does nothing", "every extra run explained"),
        ("retry as two steps", "nothing lost"),
        ("scheduled runs at once", "never early"),
        ("failed hook never", "failed() exactly once"),
        ("redrive keeps attempts", "attempts monotone and within the limit"),
    ],
)
def test_a_defect_of_the_product_is_found_by_the_built_in_invariants(name: str, found_by: str) -> None:
    with planted(MUTANTS[name]):
        error = fails(Everything, examples=300, shrink=False)

    assert isinstance(error, InvariantBroken)
    assert f"\n  {found_by}: message " in str(error)


def test_a_defect_of_the_product_is_shrunk_to_a_few_steps() -> None:
    with planted(MUTANTS["scheduled runs at once"]):
        error = fails(Everything)

    assert len(steps_of(error)) <= 3


# -- what a machine does ---------------------------------------------------------------------------


def at_work(machine: type[QueueStateMachine]) -> Any:
    """Return a machine as Hypothesis would make it, to be used by hand, as one does to replay what it printed."""
    return machine()


def test_what_hypothesis_prints_can_be_replayed_by_hand() -> None:
    state = at_work(Shop)
    state.choose_schedules(seed=0)
    state.order()
    state.go_wrong(fault=Crash(at="before_settle", must_fire=False))
    state.run_due()

    with pytest.raises(AssertionError, match=r"paid \{1: 2\}"):
        state.teardown()


def test_the_machine_does_what_its_rules_say() -> None:
    state = at_work(Everything)
    work_id = state.dispatch(task=Work(good=9, takes=70), delay=10.0)
    state.advance(seconds=20.0)
    assert state.pending == 1
    state.crash_worker(which=0)
    state.run_until_idle()
    assert state.queue.history(work_id).failed
    state.redrive(queue="default")
    assert state.pending == 1
    assert not state.queue.history(work_id).failed
    state.run_due()
    kinds = [entry.kind for entry in state.queue.ledger]
    state.teardown()

    assert [kind for kind in kinds if kind in (Kind.CRASHED, Kind.REDRIVEN)] == [Kind.CRASHED, Kind.REDRIVEN]
    assert len(state.queue.history(work_id).attempts) == 1 + 3 + 3


def test_seeds_choose_schedules() -> None:
    def trace(seed: int) -> str:
        state = at_work(Race)
        state.choose_schedules(seed=seed)
        for _ in range(6):
            state.dispatch(task=Sell())
        state.run_due()
        state._exits.close()
        return str(state.queue.timeline())

    assert trace(0) == trace(0)
    assert trace(3) == trace(3)
    assert len({trace(seed)[:2000] for seed in range(4)}) > 1


class OwnRules(QueueStateMachine):
    """Dispatches before the schedule was chosen, uses the bundle, looks at a removed message."""

    tasks = [Block]

    def __init__(self) -> None:
        super().__init__()
        self.begun = ""

    @initialize()
    def begin(self) -> None:
        self.begun = Expire().dispatch_sync()

    @rule(task_id=QueueStateMachine.dispatched)
    def cancel(self, task_id: str) -> None:
        removed = self.run(self.queue._engine.store.cancel([task_id]))
        assert not removed or self.queue.history(task_id).settlement == "removed"

    def when_settled(self) -> None:
        assert not self.begun or self.queue.history(self.begun).completed
        assert self.pending == 0


TestOwnRules = OwnRules.TestCase
TestOwnRules.settings = settings(STEADY, max_examples=15)


class Broken(QueueStateMachine):
    def __init__(self) -> None:
        super().__init__()
        raise ZeroDivisionError("of the user's own")


def test_an_init_that_raises_hides_nothing_and_leaves_nothing_open() -> None:
    assert isinstance(fails(Broken, examples=5), ZeroDivisionError)

    state = at_work(Race)
    state.teardown()
    with FakeQueue() as queue:
        Expire().dispatch_sync()
        queue.assert_dispatched(Expire)


class Forgets(QueueStateMachine):
    def __init__(self) -> None:
        self.orders = 0


class ForgetsToo(Forgets):
    def __init__(self) -> None:
        super().__init__()
        self.more = 0


@pytest.mark.parametrize("machine", [Forgets, ForgetsToo])
def test_an_init_that_does_not_call_ours_is_told_in_one_error(machine: type[QueueStateMachine]) -> None:
    failure = fails(machine, examples=5)

    assert isinstance(failure, TypeError)
    assert str(failure) == "Forgets.__init__ must call super().__init__(), first of all: it opens the machine's queue"
    assert failure.__context__ is None
    assert failure.__cause__ is None


def test_the_failure_of_a_step_is_not_hidden_by_what_the_end_would_say() -> None:
    class Fails(Shop):
        @rule()
        def fail(self) -> None:
            assert not self.orders, "the step's own"

        def when_settled(self) -> None:
            assert not self.orders, "the end's"

    state = at_work(Fails)
    state.order()
    with pytest.raises(AssertionError, match="the step's own") as caught:
        try:
            state.fail()
        finally:
            state.teardown()

    assert "what happened, in virtual seconds:" in caught.value.__notes__[0]


def test_a_task_that_can_not_be_made_up_is_told_when_the_machine_is_defined() -> None:
    @task
    def send(to) -> None: ...  # type: ignore[no-untyped-def]

    with pytest.raises(NoStrategy, match=r"send\.to: it has no annotation"):

        class Bad(QueueStateMachine):
            tasks = [send]
