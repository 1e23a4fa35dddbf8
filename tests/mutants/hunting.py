"""Runs the workloads under seeds until something is found, and shrinks what was found."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from asynctasq.clock import SystemClock
from asynctasq.testing import Crash, Delay, Duplicate, FailBefore, Faults, Latency, Simulation, Stop
from asynctasq.testing.faults import FaultChoice
from asynctasq.testing.loop import Limits
from asynctasq.testing.simulation.run import RunOptions, RunParts, RunResult, run_program, silence_log
from asynctasq.testing.simulation.shrink import shrink
from asynctasq.testing.tape import Entry, Tape
from tests.mutants.cancelled import Victim, cancelled, cancelled_meanwhile, cancelled_under_faults
from tests.mutants.contract import contract
from tests.mutants.fair import fair
from tests.mutants.keyed import keyed, unique_tasks
from tests.mutants.leveled import leveled
from tests.mutants.limited import limited, limited_calmly
from tests.mutants.programs import (
    deployed,
    deployed_meanwhile,
    given_up,
    kept,
    mixed,
    once,
    outage,
    redriven,
    taken_over,
    taken_over_meanwhile,
)
from tests.mutants.random_arguments import carried
from tests.mutants.random_driver_calls import stored
from tests.mutants.random_tasks import drawn
from tests.mutants.scheduled import scheduled, scheduled_under_faults
from tests.mutants.surrounded import surrounded
from tests.mutants.task_words import aged, policed
from tests.mutants.tasks import Careless, Choosy, Long, Plain
from tests.mutants.worker_lifecycle import life

Workload: TypeAlias = Callable[[Simulation], Coroutine[Any, Any, None]]

TROUBLE: Final = Faults(
    crash=0.02,
    lost_reply=0.02,
    fail_before=0.02,
    fail_after=0.02,
    duplicate=0.02,
    lease_expiry=0.02,
    stop=0.02,
    latency=0.05,
    clock_skew=20,
)
SLOW: Final = Latency(typical_s=1, often=0.3, rarely=0)
LIMITS: Final = Limits(steps_max=25_000, virtual_s_max=20_000_000)
SHRINK_S: Final = 1.0
SHRINK_RUNS: Final = 300
CALM_EVERY: Final = 4
"""One run in so many has no faults, so that all its times are expected to the microsecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One workload, run once in `every` seeds. Without `faults`, only schedules differ."""

    workload: Workload
    faults: FaultChoice = TROUBLE
    invariants: bool = True
    every: int = 1
    workers: int = 3
    concurrency: int = 10

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return self.workload.__name__

    def options(self, seed: int) -> RunOptions:
        """Return how it is run under this seed."""
        calm = self.faults is TROUBLE and seed % CALM_EVERY == 0
        return RunOptions(
            workers=self.workers,
            concurrency=self.concurrency,
            faults=() if calm else self.faults,
            invariants=self.invariants,
            limits=LIMITS,
        )

    def run(self, tape: Tape, seed: int) -> RunResult:
        """Run it once."""

        async def program(parts: RunParts) -> None:
            await self.workload(Simulation(parts))

        try:
            return run_program(program, self.options(seed), tape)
        except SystemExit as error:  # a task asked for it, and its worker let it out
            return RunResult(entries=tape.entries, failure=error)


CASES: Final = (
    Case(workload=mixed),
    Case(workload=redriven, invariants=False, every=2),
    Case(workload=life, faults=(), every=8),
    Case(workload=surrounded, faults=(), every=16),
    Case(workload=contract, faults=(), every=1_000_000),
    Case(workload=given_up, faults=[Crash(at="mid_attempt", task=Long) for _ in range(5)], every=32),
    Case(workload=taken_over, faults=Duplicate(task=Long), every=32, concurrency=1),
    Case(workload=taken_over, faults=Duplicate(task=Long), every=32, workers=1),
    Case(workload=taken_over_meanwhile, faults=Duplicate(task=Careless), every=8, concurrency=1),
    Case(workload=kept, faults=FailBefore(at="extend"), every=32),
    Case(workload=deployed, faults=Stop(at="mid_attempt", task=Long), every=32),
    Case(workload=deployed_meanwhile, faults=Stop(at="before_settle", task=Choosy, immediate=True)),
    Case(workload=once, faults=Delay(at="reserve:after", task=Plain, seconds=40), every=32),
    Case(workload=once, faults=FailBefore(at="settle"), every=32),
    Case(workload=once, faults=[Stop(at="mid_attempt", task=Plain), FailBefore(at="settle")], every=8),
    Case(workload=outage, faults=Faults(fail_before=0.05), every=8),
    Case(workload=outage, faults=Faults(fail_before=0.05, stop=0.02), every=8),
    Case(workload=outage, faults=Faults(fail_before=0.05, fail_after=0.05, latency=SLOW), every=8),
    Case(workload=aged, faults=Faults(clock_skew=7200), every=8),
    Case(workload=policed, faults=(), every=8),
    Case(workload=cancelled, faults=(), every=8),
    Case(workload=cancelled_meanwhile, faults=Delay(at="reserve:after", task=Victim, seconds=3), every=16),
    Case(workload=cancelled_under_faults, faults=(), every=2),
    Case(workload=cancelled_under_faults, every=4),
    Case(workload=leveled, faults=(), every=16, workers=1, concurrency=1),
    Case(workload=fair, faults=(), every=16, workers=1, concurrency=1),
    Case(workload=drawn, faults=()),
    Case(workload=stored, faults=()),
    Case(workload=carried, faults=(), every=2),
    Case(workload=keyed, faults=()),
    Case(workload=unique_tasks, every=4),
    Case(workload=scheduled, faults=(), every=16, workers=1),
    Case(workload=scheduled_under_faults, every=4),
    Case(workload=scheduled_under_faults, faults=Faults(lost_reply=0.1, crash=0.05), every=4),
    Case(workload=limited_calmly, faults=(), every=16, concurrency=4),
    Case(workload=limited, faults=Faults(crash=0.03, lost_reply=0.02, fail_before=0.02), every=4, concurrency=4),
    Case(workload=limited, faults=Faults(latency=SLOW, crash=0.01), every=8, concurrency=4),
    Case(workload=limited, faults=Faults(latency=SLOW), every=8, concurrency=4),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found: by which check of which workload, under which seed; how few decisions are left of it."""

    case: str
    seed: int
    found_by: str
    text: str
    decisions: int
    seconds: float
    timeline: str


def first_finding(*, seeds: Sequence[int], seconds: float, smallest: bool = True) -> Finding | None:
    """Run every workload under these seeds until one fails or the time is up; shrink it to the `smallest`."""
    clock = SystemClock()
    started = clock.monotonic()
    with silence_log():
        for seed in seeds:
            for case in CASES:
                if seed % case.every:
                    continue
                result = case.run(Tape(seed), seed)
                if result.failure is not None:
                    decisions = _shrunk(case, seed, result) if smallest else _decisions(result)
                    took = clock.monotonic() - started
                    return _finding(case, seed, result, decisions, took)
            if clock.monotonic() - started > seconds:
                return None
    return None


def _finding(case: Case, seed: int, result: RunResult, decisions: int, took: float) -> Finding:
    error = result.failure
    assert error is not None
    return Finding(
        case=case.name,
        seed=seed,
        found_by=signature(error),
        text=str(error),
        decisions=decisions,
        seconds=took,
        timeline=result.timeline,
    )


def signature(error: BaseException) -> str:
    """Name what an error says is wrong: the promise, or the kind of exception."""
    name = getattr(error, "name", None)
    return str(name) if isinstance(error, AssertionError) and name else type(error).__name__


def _decisions(result: RunResult) -> int:
    return sum(1 for _, _, value in result.entries if value)


def _shrunk(case: Case, seed: int, result: RunResult) -> int:
    """Return how many decisions the smallest run has that fails the same way."""
    if not _decisions(result):
        return 0
    clock = SystemClock()
    deadline = clock.monotonic() + SHRINK_S
    assert result.failure is not None
    wanted = signature(result.failure)

    def still_fails(entries: Sequence[Entry]) -> Sequence[Entry] | None:
        if clock.monotonic() > deadline:
            return None
        tried = case.run(Tape.replay(entries, strict=False, seed=seed), seed)
        return tried.entries if tried.failure is not None and signature(tried.failure) == wanted else None

    return len(shrink(result.entries, still_fails, runs_max=SHRINK_RUNS).decisions)
