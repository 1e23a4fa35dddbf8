"""One simulated run: a program, a tape, a queue with its workers, and what came of it."""

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias, get_args

from asynctasq.kernel.ledger import Entry as LedgerEntry
from asynctasq.kernel.ledger import check, timeline
from asynctasq.tasks.options import one_of, whole_number
from asynctasq.testing.engine import Engine
from asynctasq.testing.fake_queue import FakeQueue
from asynctasq.testing.faults import DirectedFault, FaultChoice, Faults
from asynctasq.testing.faults.kinds import as_list
from asynctasq.testing.faults.plan import check_faults
from asynctasq.testing.loop import Limits, Search, SimulationLoop
from asynctasq.testing.parameters import TaskReference, check_seconds
from asynctasq.testing.simulation.checks import Checks, InvariantBroken
from asynctasq.testing.tape import Entry, Tape

__all__ = ["Program", "RunOptions", "RunParts", "RunResult", "run_program", "silence_log"]

SWARM_FACTORS: Final = (0.0, 1.0, 1.0, 3.0)
"""By what the rate of each kind of fault is multiplied in one run: plans that leave some kinds out find more."""

RUN_LIMITS: Final = Limits(steps_max=300_000)
"""One of hundreds of runs: a program that needs more steps most likely never ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What every run of a simulation has in common."""

    workers: int = 3
    concurrency: int = 10
    queues: str | None = None
    lease_s: float = 30.0
    faults: FaultChoice = ()
    search: Search = "mix"
    invariants: bool = True
    freeze_time: bool = False
    limits: Limits = RUN_LIMITS
    schedules: bool | Sequence[TaskReference] = False

    def __post_init__(self) -> None:
        whole_number(self.workers, "workers", least=1)
        whole_number(self.concurrency, "concurrency", least=1)
        check_seconds(self.lease_s, "lease_s", above_zero=True)
        one_of(self.search, "search", get_args(Search))
        check_faults(self.faults)


@dataclass(frozen=True, slots=True)
class RunParts:
    """What a program works with."""

    queue: FakeQueue
    engine: Engine
    checks: Checks
    tape: Tape


Program: TypeAlias = Callable[[RunParts], Coroutine[Any, Any, object]]


@dataclass(slots=True, kw_only=True)
class RunResult:
    """How one run ended. `failure` None: well."""

    entries: Sequence[Entry]
    failure: BaseException | None = None
    ledger: Sequence[LedgerEntry] = ()
    opened_at: float = 0.0
    fired: Counter[str] = field(default_factory=Counter[str])
    declared: set[str] = field(default_factory=set[str])
    covered: set[str] = field(default_factory=set[str])
    lifecycles: int = 0
    trace: str = ""

    @property
    def timeline(self) -> str:
        """All that happened as text, in virtual seconds."""
        return timeline(self.ledger, start=self.opened_at)

    def digest(self) -> str:
        """Return a hash of all that happened: equal for equal runs, in every process and on every Python."""
        text = f"{self.trace}\n{self.timeline}\n{self.entries}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def run_program(program: Program, options: RunOptions, tape: Tape, *, trace: bool = False) -> RunResult:
    """Run the program once; whatever it raises is in the result."""
    result = RunResult(entries=tape.entries)
    loop = SimulationLoop(tape, search=options.search, trace=trace, limits=options.limits)
    try:
        loop.run(_run(program, options, result))
        tape.finish()
    except Exception as error:  # noqa: BLE001 - the failure of user code is what is looked for
        # A run that differs from the recorded one proves nothing.
        result.failure = tape.mismatch or error
    if trace:
        result.trace = loop.trace_digest()
    return result


async def _run(program: Program, options: RunOptions, result: RunResult) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulationLoop), "a run has its own loop"
    queue = FakeQueue(
        workers=options.workers,
        concurrency=options.concurrency,
        queues=options.queues,
        lease_s=options.lease_s,
        faults=_for_this_run(options.faults, loop.tape),
        freeze_time=options.freeze_time,
        schedules=options.schedules,
    )
    async with queue:
        result.opened_at = queue.clock.now()
        engine = queue._engine  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - a run is made of one
        queue.faults.account_for = False  # over all runs, not in each
        try:
            await _with_workers(program, RunParts(queue, engine, Checks(engine), loop.tape), result)
        finally:
            await engine.stop_workers()
            result.ledger = engine.ledger
            result.fired = queue.faults.fired
            result.lifecycles = len(queue.dispatched())
    if options.invariants and (violations := check(queue.ledger, alive=engine.store.pending_ids(), exact=True)):
        raise InvariantBroken(violations)


async def _with_workers(program: Program, parts: RunParts, result: RunResult) -> None:
    engine, checks = parts.engine, parts.checks
    result.declared, result.covered = checks.declared, checks.covered
    engine.start_workers()
    engine.gate.set_open(is_open=True)
    running = engine.loop.create_task(program(parts), name="program")
    await asyncio.wait([running, checks.broken], return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        running.cancel()
        await asyncio.wait([running])
    if checks.broken.done():
        checks.broken.result()
    await running
    checks.finish()
    engine.waits.raise_failure()


def _for_this_run(choice: FaultChoice, tape: Tape) -> list[DirectedFault | Faults]:
    """Give each run its own mixture: without some of the kinds, with more of others."""
    return [_mixed(fault, tape) if isinstance(fault, Faults) else fault for fault in as_list(choice)]


def _mixed(faults: Faults, tape: Tape) -> Faults:
    factors = {
        kind: SWARM_FACTORS[tape.draw(f"swarm {kind}", len(SWARM_FACTORS))]
        for kind, rate in faults.rates().items()
        if rate
    }
    latency = faults.delays
    if latency is not None:
        factor = SWARM_FACTORS[tape.draw("swarm latency", len(SWARM_FACTORS))]
        latency = replace(latency, often=min(1.0, latency.often * factor), rarely=min(1.0, latency.rarely * factor))
        latency = latency if factor else None
    return replace(faults, latency=latency).scaled(**factors)


@contextmanager
def silence_log() -> Generator[None]:
    """Keep the warnings about thousands of simulated failures out of the log."""
    logger = logging.getLogger("asynctasq")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
