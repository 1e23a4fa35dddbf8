"""The real worker, one to four of it, under schedules and faults: judged by the ledger, exactly where nothing struck.

Hypothesis chooses workload, workers and faults; the tape chooses schedules and when a fault strikes.
"""

import contextlib
import itertools
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, initialize, precondition

from asynctasq.codec.arguments import unpack_result
from asynctasq.kernel.ledger import Kind, check
from asynctasq.kernel.messages import DeadReason, State
from asynctasq.tasks.base import BaseTask
from asynctasq.testing import Crash, Delay, Duplicate, ExpireLease, FailAfter, FailBefore, FakeQueue, Faults, LoseReply
from asynctasq.testing import Stop as StopWorker
from asynctasq.testing.faults import DirectedFault
from asynctasq.testing.simulation.run import silence_log
from property_tests.reached import MeasuredMachine, explore, goes_red, step
from property_tests.worker_tasks import (
    AGAIN_S,
    LIST_S,
    LOG,
    SNOOZE_S,
    TAKES_S,
    Acts,
    ActsByList,
    Blocks,
)
from tests.mutants.planting import planted
from tests.mutants.table import MUTANTS

QUEUES = ("work", "other")
ACTS = ("succeed", "fail", "refuse", "snooze", "again", "reject", "die", "overrun", "child", "long", "at once")
ERRORS = {
    "fail": "ValueError",
    "refuse": "KeyError",
    "again": "Retry",
    "at once": "Retry",
    "overrun": "TaskTimeoutError",
    "reject": "Reject",
    "die": "ChildCrashed",
}
TROUBLE_S = 600.0
KINDS = ("crash", "lost_reply", "fail_before", "fail_after", "duplicate", "lease_expiry", "stop")

rates = st.sampled_from([0.0, 0.0, 0.02, 0.1])
by_chance = st.builds(
    Faults,
    **dict.fromkeys(KINDS, rates),
    latency=st.sampled_from([None, None, 0.05]),
    clock_skew=st.sampled_from([0.0, 20.0]),
    must_fire=st.just(False),
)
by_hand: st.SearchStrategy[DirectedFault] = st.one_of(
    st.builds(
        Crash,
        at=st.sampled_from(["after_reserve", "before_start", "mid_attempt", "before_settle", "after_settle"]),
        nth=st.integers(1, 3),
    ),
    st.builds(StopWorker, at=st.just("mid_attempt"), immediate=st.booleans()),
    st.builds(LoseReply, at=st.sampled_from(["reserve", "settle", "turn"])),
    st.builds(FailBefore, at=st.sampled_from(["reserve", "settle"])),
    st.builds(FailAfter, at=st.sampled_from(["reserve", "settle"])),
    st.builds(Delay, at=st.just("reserve:after"), seconds=st.just(40.0)),
    st.builds(Duplicate),
    st.builds(ExpireLease),
)
stop_at_once = StopWorker(at="mid_attempt", immediate=True)
plans = st.one_of(
    st.just([]),
    st.just([stop_at_once]),
    st.lists(by_hand, min_size=1, max_size=2),
    st.lists(by_chance, min_size=1, max_size=1),
)
scripts = st.one_of(
    st.lists(st.sampled_from(ACTS), max_size=5),
    st.sampled_from(ACTS[1:]).map(lambda act: [act] * 4),
)


@dataclass
class Dispatch:
    """What was dispatched, and what must come of it. `runs` are attempt and instant, `from_s` is where they begin."""

    task_id: str
    key: str
    acts: Sequence[str]
    max_attempts: int
    waits_s: Sequence[float]
    max_crashes: int
    timeout_s: float
    from_s: float
    timed: bool = True
    runs: list[tuple[int, float]] = field(default_factory=list)
    hooks: int = 0
    asked: int = 0
    ends: str = ""
    error: str = ""
    counted: int = 0
    children: dict[str, float] = field(default_factory=dict)
    cancelled: bool = False

    def live(self) -> None:
        """Work out a life from its begin to its end; a redriven message has another one."""
        attempt, crashes, now = 1, 0, self.from_s
        while True:
            number = len(self.runs)
            act = self.acts[number] if number < len(self.acts) else "succeed"
            self.runs.append((attempt, now))
            now += self.timeout_s if act == "overrun" else TAKES_S.get(act, 1.0)
            more = attempt < self.max_attempts
            match act:
                case "succeed" | "long" | "child":
                    if act == "child":
                        self.children[f"{self.key} child"] = now
                    self.ends = "done"
                    return
                case "snooze":
                    now += SNOOZE_S
                case "die" if crashes + 1 < self.max_crashes:
                    crashes += 1
                case "fail" | "overrun" | "again" | "at once" if more:
                    self.asked += act not in AGAIN_S
                    now += AGAIN_S.get(act, self.waits_s[min(attempt, len(self.waits_s)) - 1])
                    attempt += 1
                case _:
                    self.asked += act == "refuse" and more
                    self.hooks += 1
                    self.error, self.counted = ERRORS[act], attempt - (act == "die")
                    self.ends = {"die": "crashed", "reject": "rejected"}.get(act, "failed")
                    return


class Workers(MeasuredMachine):
    """A queue with workers; what happens to it between the rules is the tape's affair."""

    branches: ClassVar[frozenset[str]] = frozenset(
        {
            *(f"act: {act}" for act in ACTS),
            *(f"fault: {kind}" for kind in (*KINDS, "slow", "clock_skew", "delay")),
            *(f"workers: {count}" for count in (1, 2, 3, 4)),
            *("ends: done", "ends: failed", "ends: rejected", "ends: crashed", "given up after crashes of its workers"),
            *(
                "judged exactly",
                "judged by counts",
                "judged under faults",
                "retried by a list",
                "hook broke",
                "child ran",
            ),
            *("redriven", "completed after its redrive", "cancelled", "not cancelled", "dispatched twice"),
            *("blocking task retried", "an attempt ran again", "a lease was lost", "a stopped worker handed back"),
            "handed back, not counted",
        }
    )
    dispatches: ClassVar[Bundle[Dispatch]] = Bundle("dispatches")

    @initialize(
        workers=st.integers(1, 4),
        concurrency=st.sampled_from([2, 50]),
        seed=st.integers(1, 10**6),
        search=st.sampled_from(["fifo", "random", "pct", "mix"]),
        plan=plans,
    )
    def open(self, workers: int, concurrency: int, seed: int, search: Any, plan: list[Any]) -> None:
        LOG.clear()
        self.exits = contextlib.ExitStack()
        self.exits.enter_context(silence_log())
        self.queue = FakeQueue(workers=workers, concurrency=concurrency, seed=seed, search=search, faults=plan)
        self.exits.enter_context(self.queue)
        self.queue.faults.account_for = False
        self.roomy = concurrency == 50
        self.known: list[Dispatch] = []
        self.numbers = itertools.count(1)
        self.failing = False
        self.reach(f"workers: {workers}")

    def teardown(self) -> None:
        if not hasattr(self, "queue"):
            return
        try:
            if not self.failing:
                self.settle()
        finally:
            self.exits.close()

    def run(self, what: Coroutine[Any, Any, Any]) -> Any:
        return self.queue._engine.run_sync(what)

    @property
    def now(self) -> float:
        return self.queue.clock.monotonic()

    # -- the workload ----------------------------------------------------------------------------

    @step(
        target=dispatches,
        acts=scripts,
        max_attempts=st.integers(0, 4),
        max_crashes=st.integers(1, 4),
        retry_after_s=st.sampled_from([None, 0, 2.5, 60]),
        delay_s=st.sampled_from([0, 0, 9, 12.345678]),
        queue=st.sampled_from(QUEUES),
        hook_breaks=st.booleans(),
    )
    def dispatch(
        self,
        acts: list[str],
        max_attempts: int,
        max_crashes: int,
        retry_after_s: float | None,
        delay_s: float,
        queue: str,
        hook_breaks: bool,
    ) -> Dispatch:
        key = f"task {next(self.numbers)}"
        timeout_s = 100.0 if "long" in acts else 3.0
        task: Acts = (ActsByList if retry_after_s is None else Acts)(key=key, acts=acts, hook_breaks=hook_breaks)
        task = task.on_queue(queue).with_options(max_attempts=max_attempts, max_crashes=max_crashes, timeout=timeout_s)
        task = task if retry_after_s is None else task.retry_after(retry_after_s)
        task_id = (task.delay(delay_s) if delay_s else task).dispatch_sync()
        dispatched = Dispatch(
            task_id=task_id,
            key=key,
            acts=acts,
            max_attempts=max_attempts,
            max_crashes=max_crashes,
            timeout_s=timeout_s,
            waits_s=LIST_S if retry_after_s is None else [retry_after_s],
            from_s=self.now + delay_s,
        )
        self.known.append(dispatched)
        dispatched.live()
        self.reach("hook broke", hook_breaks and dispatched.hooks > 0)
        self.reach("retried by a list", retry_after_s is None and any(attempt > 1 for attempt, _ in dispatched.runs))
        return dispatched

    @step(target=dispatches)
    def dispatch_blocking(self) -> Dispatch:
        key = f"task {next(self.numbers)}"
        dispatched = Dispatch(
            task_id=Blocks(key=key).dispatch_sync(),
            key=key,
            acts=["fail"],
            max_attempts=3,
            max_crashes=3,
            timeout_s=0.0,
            waits_s=[7.0],
            from_s=self.now,
            timed=False,
        )
        dispatched.live()
        dispatched.asked = 0  # it does not override should_retry, so nobody counts
        self.known.append(dispatched)
        self.reach("blocking task retried")
        return dispatched

    @step(one=dispatches)
    def dispatch_again(self, one: Dispatch) -> None:
        """Use the id of a message that lives: nothing is stored, whatever it is."""
        if self.run(self.queue.driver.find(one.task_id)) is None:
            return
        before = len(self.queue.dispatched())
        again: BaseTask[Any] = Acts(key="never", acts=[], hook_breaks=False).with_options(task_id=one.task_id)
        assert again.dispatch_sync() == one.task_id
        assert len(self.queue.dispatched()) == before
        self.reach("dispatched twice")

    @step(one=dispatches, after_s=st.sampled_from([0.0, 0.5]))
    def cancel(self, one: Dispatch, after_s: float) -> None:
        self.queue.advance_sync(seconds=after_s)
        before = self.run(self.queue.driver.find(one.task_id))
        gone = self.run(self.queue.driver.cancel([one.task_id]))
        if gone:
            one.cancelled = True
            self.reach("cancelled")
        else:
            self.reach("not cancelled", before is not None and before.state is State.RESERVED)

    # -- time ------------------------------------------------------------------------------------

    @step(seconds=st.sampled_from([0.5, 1.0, 5.0, 31.0, 120.0]))
    @precondition(lambda self: self.known)
    def advance(self, seconds: float) -> None:
        self.queue.advance_sync(seconds=seconds)

    @step()
    @precondition(lambda self: self.known)
    def settle_and_redrive(self) -> None:
        """Let all come to its end, be judged, and drive the dead letters again."""
        self.settle()
        dead = [one for one in self.known if one.ends not in ("", "done") and not one.cancelled]
        for queue in QUEUES:
            self.run(self.queue.driver.redrive(queue, limit=100))
        for one in dead:
            one.from_s = self.now
            one.live()
            self.reach("completed after its redrive", one.ends == "done")
        self.reach("redriven", bool(dead))

    # -- judging ---------------------------------------------------------------------------------

    def settle(self) -> None:
        self.failing = True  # unless all of the following holds
        queue = self.queue
        queue.advance_sync(seconds=TROUBLE_S)
        if queue._engine.busy or queue._engine.store.pending:
            queue._engine.stop_faults()
            queue.run_until_idle_sync(virtual_s_max=TROUBLE_S)
        violations = check(queue.ledger, exact=True)
        assert not violations, violations
        self.judge()
        self.failing = False

    def judge(self) -> None:
        calm = not self.queue.faults.fired
        self.reach("judged exactly" if calm and self.roomy else "judged by counts" if calm else "judged under faults")
        for kind in self.queue.faults.fired:
            if kind != "stuck":  # a latency longer than a lease, which comes too rarely to count on
                self.reach(f"fault: {kind}")
        for one in self.known:
            if one.cancelled:
                continue
            self.judge_end(one, calm=calm)
            if calm:
                self.judge_life(one)
        for kind, branch in ((Kind.LOST, "a lease was lost"), (Kind.SETTLED, "a stopped worker handed back")):
            entries = [entry for entry in self.queue.ledger if entry.kind is kind]
            self.reach(branch, any(kind is Kind.LOST or entry.detail == "hand back" for entry in entries))

    def judge_end(self, one: Dispatch, *, calm: bool) -> None:
        """Whatever struck: it is done, or dead with a reason, and its hook has run then and only then."""
        stored = self.run(self.queue.driver.find(one.task_id))
        reason = None if stored is None else stored.reason
        hooks = LOG.hooks.get(one.key, [])
        assert stored is None or reason is not None, f"{one} is left: {stored}"
        if one.timed:
            assert bool(hooks) >= (reason is not None), f"{one} is dead and its hook never ran: {stored}"
        if calm:
            assert (reason.value if reason else "done") == one.ends, f"{one}: {stored}"
        if reason is None:
            assert LOG.ended.get(one.key), f"{one} is done, and none of its runs came to its end"
            data = self.run(self.queue.driver.fetch_result(one.task_id))
            assert (None if data is None else unpack_result(data, str)) == (one.key if one.timed else None)
        if set(self.queue.faults.fired) == {"stop"} and "overrun" not in one.acts:  # which does not end by itself
            ended = LOG.ended.get(one.key, [])
            assert ended == [attempt for attempt, _ in one.runs], f"{one} came to these ends: {ended}"
            self.reach("handed back, not counted", len(LOG.runs.get(one.key, [])) > len(ended))
        if calm and stored is not None:
            assert stored.error is not None, f"{one}: {stored}"
            kind = stored.error.type.rpartition(".")[2]
            assert (kind, stored.attempts) == (one.error, one.counted), f"{one}: {stored}"
        one.ends = reason.value if reason else "done"  # under faults its life may have been another one
        self.reach(f"ends: {one.ends}")
        numbers = [attempt for attempt, _ in LOG.runs.get(one.key, [])]
        self.reach("an attempt ran again", not calm and len(numbers) > len(set(numbers)))
        gave_up = reason is DeadReason.CRASHED and "WorkerCrashedError" in hooks
        self.reach("given up after crashes of its workers", gave_up and not calm and "die" not in one.acts)

    def judge_life(self, one: Dispatch) -> None:
        """Nothing struck: every run, hook and question is as foretold."""
        runs = LOG.runs.get(one.key, [])
        assert [attempt for attempt, _ in runs] == [attempt for attempt, _ in one.runs], f"{one} ran {runs}"
        assert len(LOG.hooks.get(one.key, [])) == one.hooks, f"{one}: hooks {LOG.hooks}"
        assert LOG.asked.get(one.key, 0) == one.asked, f"{one}: asked {LOG.asked}"
        for number in range(len(runs)):
            self.reach(f"act: {one.acts[number] if number < len(one.acts) else 'succeed'}")
        if self.roomy and one.timed:
            wanted = [round(at, 6) for _, at in one.runs]
            assert [round(at, 6) for _, at in runs] == wanted, f"{one} ran {runs}"
        for key, at in one.children.items():
            ran = LOG.runs.get(key, [])
            assert [attempt for attempt, _ in ran] == [1], f"{key} ran {ran}"
            assert not self.roomy or round(ran[0][1], 6) == round(at, 6), f"{key} ran {ran}, not at {at}"
            self.reach("child ran")


EXAMPLES, STEPS = 400, 12


def test_workers_keep_every_promise_under_faults() -> None:
    explore(Workers, examples=EXAMPLES, steps=STEPS)


@pytest.mark.parametrize("name", ["attempt counted twice", "hook after the commit", "timeout ignored"])
def test_a_planted_defect_turns_the_machine_red(name: str) -> None:
    with planted(MUTANTS[name]):
        error = goes_red(Workers, examples=EXAMPLES, steps=STEPS)

    assert isinstance(error, AssertionError), MUTANTS[name].breaks
