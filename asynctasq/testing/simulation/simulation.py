"""`@simulate`: one test under hundreds of schedules and fault plans, each of which replays from its seed."""

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, TypeAlias, TypeVar, overload

from asynctasq.tasks.options import whole_number
from asynctasq.testing.clock import VirtualClock
from asynctasq.testing.errors import TapeMismatch
from asynctasq.testing.fake_queue import FakeQueue, NotIdle
from asynctasq.testing.fake_queue.draining import remaining_work_text
from asynctasq.testing.fake_queue.fake_queue import YEAR_S
from asynctasq.testing.faults import FaultChoice, FaultPlan, Faults
from asynctasq.testing.faults.kinds import as_list
from asynctasq.testing.loop import Limits, Search
from asynctasq.testing.parameters import TaskReference, check_seconds
from asynctasq.testing.simulation.checks import InvariantBroken, PropertyBroken
from asynctasq.testing.simulation.report import RunningTest, SimulationFailed, describe_failure, describe_replay_failure
from asynctasq.testing.simulation.run import (
    RUN_LIMITS,
    Program,
    RunOptions,
    RunParts,
    RunResult,
    run_program,
    silence_log,
)
from asynctasq.testing.simulation.settings import current
from asynctasq.testing.tape import Tape
from asynctasq.testing.tape.file import read_tape_file
from asynctasq.testing.tape.recorded_test import current_test, same_test

__all__ = [
    "DEFAULT_FAULTS",
    "InvariantBroken",
    "PropertyBroken",
    "Simulation",
    "SimulationFailed",
    "explore",
    "simulate",
    "simulate_now",
]

DEFAULT_FAULTS: Final = Faults(
    crash=0.02,
    lost_reply=0.02,
    fail_before=0.02,
    fail_after=0.02,
    duplicate=0.02,
    lease_expiry=0.01,
    stop=0.01,
    latency=0.05,
    clock_skew=5,
    must_fire=False,
)
"""Some of each kind; each run has its own mixture. Since these are the default, none of them has to happen."""

WITHIN_S: Final = 3600.0
TROUBLE_S: Final = 600.0

Simulated: TypeAlias = Callable[..., Coroutine[Any, Any, object]]
T = TypeVar("T")


class Simulation:
    """One run, as its test sees it: workers run from the beginning, and faults happen until `settle` stops them.

    queue: the FakeQueue all dispatches go to. clock: its virtual clock. faults: its faults, with their counters.
    rng: chance that replays with the run.
    """

    def __init__(self, parts: RunParts) -> None:
        self.queue: FakeQueue = parts.queue
        self.clock: VirtualClock = parts.engine.clock
        self.faults: FaultPlan = parts.queue.faults
        self.rng: Random = parts.tape.random("program")
        self._engine = parts.engine
        self._checks = parts.checks

    @property
    def seed(self) -> int:
        """The seed of this run; 0 is the one without faults, first come, first served."""
        return self._engine.tape.seed

    def always(self, name: str, predicate: Callable[[], bool]) -> None:
        """Fail the run as soon as `predicate()` is false: asked now and after everything that happens."""
        self._checks.always(name, predicate)

    def eventually(self, name: str, predicate: Callable[[], bool], *, within: float = WITHIN_S) -> None:
        """Fail the run if `predicate()` has not been true once within so many virtual seconds from now."""
        self._checks.eventually(name, predicate, within)

    def sometimes(self, name: str, condition: bool | Callable[[], bool] = True) -> None:
        """Say that this situation is worth testing; the test fails if no run ever reaches it with `condition` true.

        A function is asked here and now, and nowhere else.
        """
        self._checks.sometimes(name, condition)

    async def settle(self, *, trouble: float = TROUBLE_S, within: float = YEAR_S) -> None:
        """Run until nothing is left but dead letters; after `trouble` virtual seconds no fault happens any more.

        Raises: NotIdle if work is left `within` so many virtual seconds after that.
        """
        check_seconds(trouble, "trouble")
        check_seconds(within, "within")
        engine = self._engine
        engine.start_workers()
        engine.gate.set_open(is_open=True)
        await engine.waits.until(self._is_quiet, virtual_s_max=trouble)
        engine.stop_faults()
        if not await engine.waits.until(self._is_quiet, virtual_s_max=within):
            raise NotIdle(remaining_work_text(engine, within))

    def _is_quiet(self) -> bool:
        return not self._engine.busy and not self._engine.store.pending


class Explorer:
    """Runs one program under many seeds, and judges all runs together."""

    def __init__(self, function: Simulated, options: RunOptions, *, name: str, must_cover: bool = True) -> None:
        self._options = options
        self._name = name
        self._must_cover = must_cover
        self.fired: Counter[str] = Counter()
        self.declared: set[str] = set()
        self.covered: set[str] = set()
        self.lifecycles = 0
        self._function = function

    def program(self, *args: Any, **kwargs: Any) -> Program:
        """Return the function with everything but its simulation filled in."""

        def program(parts: RunParts) -> Coroutine[Any, Any, object]:
            return self._function(*args, sim=Simulation(parts), **kwargs)

        return program

    def run(self, program: Program, seeds: range, *, check_coverage: bool) -> None:
        """Run the seeds; `check_coverage` asks for coverage too.

        Raises: SimulationFailed at the first seed that fails, shrunk.
        """
        with silence_log():
            for number, seed in enumerate(seeds, start=1):
                result = run_program(program, self._options, Tape(seed))
                if result.failure is not None:
                    run = f"run {number} of {len(seeds)}"
                    test = RunningTest.current(self._function)
                    failed = describe_failure(program, self._options, result, seed=seed, run=run, test=test)
                    raise failed from failed.result.failure
                self._add(result)
        if check_coverage:
            self._check_coverage(len(seeds))

    def replay(self, program: Program, path: str) -> None:
        """Run what a tape recorded.

        Raises: TapeMismatch for a tape of another test; SimulationFailed if the run fails.
        """
        _check_recorded_test(path)
        result = run_program(program, self._options, Tape.load(path))
        if result.failure is not None:
            raise describe_replay_failure(result, path) from result.failure

    def _add(self, result: RunResult) -> None:
        self.fired += result.fired
        self.declared |= result.declared
        self.covered |= result.covered
        self.lifecycles += result.lifecycles

    def _check_coverage(self, runs: int) -> None:
        never = [f"sometimes {name!r}" for name in sorted(self.declared - self.covered)]
        if self._must_cover:
            never += [f"a fault of kind {kind}" for kind in self._kinds() if not self.fired[kind]]
        if never:
            raise AssertionError(
                f"{self._name}: in {runs} runs these never happened, so nothing is known of them:\n  "
                + "\n  ".join(never)
                + "\ntake more runs or higher rates, or say must_fire=False"
            )

    def _kinds(self) -> list[str]:
        kinds: dict[str, None] = {}
        for fault in as_list(self._options.faults):
            if not isinstance(fault, Faults):
                kinds[fault.kind] = None
            elif fault.must_fire:
                kinds |= dict.fromkeys(kind for kind, rate in fault.rates().items() if rate)
        return list(kinds)


def explore(
    function: Simulated,
    *,
    runs: int,
    first_seed: int = 0,
    options: RunOptions | None = None,
    must_cover: bool = False,
    replay: str | None = None,
) -> Explorer:
    """Run `function(sim=...)` under many seeds, from any code, or the recorded run of the tape `replay`."""
    whole_number(runs, "runs", least=1)
    explorer = Explorer(function, options or RunOptions(faults=DEFAULT_FAULTS), name=_name_of(function))
    if replay is None:
        explorer.run(explorer.program(), range(first_seed, first_seed + runs), check_coverage=must_cover)
    else:
        explorer.replay(explorer.program(), replay)
    return explorer


@overload
def simulate(function: Simulated, /) -> Callable[..., None]: ...
@overload
def simulate(
    *,
    runs: int = ...,
    workers: int = ...,
    concurrency: int = ...,
    queues: str | None = ...,
    lease_s: float = ...,
    faults: FaultChoice = ...,
    search: Search = ...,
    invariants: bool = ...,
    freeze_time: bool = ...,
    limits: Limits = ...,
    schedules: bool | Sequence[TaskReference] = ...,
) -> Callable[[Simulated], Callable[..., None]]: ...
def simulate(  # noqa: PLR0913 - one keyword per choice of a test
    function: Simulated | None = None,
    /,
    *,
    runs: int = 500,
    workers: int = 3,
    concurrency: int = 10,
    queues: str | None = None,
    lease_s: float = 30.0,
    faults: FaultChoice = DEFAULT_FAULTS,
    search: Search = "mix",
    invariants: bool = True,
    freeze_time: bool = False,
    limits: Limits = RUN_LIMITS,
    schedules: bool | Sequence[TaskReference] = False,
) -> Any:
    """Make a test of an `async def test_x(sim)`: run it under `runs` seeds, with workers, schedules and faults.

    faults: by chance or by hand, see `asynctasq.testing.faults`; `()` for none. search: "fifo", "random", "pct", "mix".
    invariants: check after each run that the ledger breaks no invariant. limits: when a run ends as a failure.
    schedules: keep those of all imported tasks going, or of these alone, as FakeQueue does.
    Other fixtures of the test work as usual; what they give is shared by all runs. A failure is shrunk and says
    how to see it again; `--simulation-seed N`, `--simulation-runs N` and `--simulation-replay FILE` of pytest
    choose the runs. Called outside of pytest, the test takes `replay="FILE"`.
    """
    whole_number(runs, "runs", least=1)
    options = RunOptions(
        workers=workers,
        concurrency=concurrency,
        queues=queues,
        lease_s=lease_s,
        faults=faults,
        search=search,
        invariants=invariants,
        freeze_time=freeze_time,
        limits=limits,
        schedules=schedules,
    )

    def decorate(function: Simulated) -> Callable[..., None]:
        if not inspect.iscoroutinefunction(function) or "sim" not in inspect.signature(function).parameters:
            raise TypeError(f"@simulate is for an `async def` with a parameter `sim`, {_name_of(function)} is not one")

        @functools.wraps(function)
        def test(*args: Any, **kwargs: Any) -> None:
            explorer = Explorer(function, options, name=_name_of(function))
            tape = None if "replay" in signature.parameters else kwargs.pop("replay", None)
            if tape is None:
                _run_as_configured(explorer, args, kwargs, runs)
            else:
                explorer.replay(explorer.program(*args, **kwargs), tape)

        # pytest reads the signature for fixtures, and `sim` is not one of them.
        signature = inspect.signature(function)
        rest = [parameter for name, parameter in signature.parameters.items() if name != "sim"]
        test.__dict__["asynctasq_simulation"] = True  # for pytest's `-m simulation`
        test.__dict__["__signature__"] = signature.replace(parameters=rest, return_annotation=None)
        del test.__dict__["__wrapped__"]
        return test

    return decorate if function is None else decorate(function)


def simulate_now(program: Simulated, **choices: Any) -> None:
    """Run `async def program(sim)` as a test decorated with `@simulate(**choices)` would be, here and now."""
    simulate(**choices)(program)()


def _run_as_configured(explorer: Explorer, args: tuple[Any, ...], kwargs: dict[str, Any], runs: int) -> None:
    settings, program = current(), explorer.program(*args, **kwargs)
    if settings.replay is not None:
        explorer.replay(program, settings.replay)
    elif settings.seed is not None:
        explorer.run(program, range(settings.seed, settings.seed + (settings.runs or 1)), check_coverage=False)
    else:
        count = runs if settings.runs is None else settings.runs
        explorer.run(program, range(count), check_coverage=count >= runs)


def _check_recorded_test(path: str) -> None:
    recorded, here = read_tape_file(Path(path)).test, current_test()
    if recorded is not None and here is not None and not same_test(recorded, here):
        raise TapeMismatch(f"{path} was recorded by {recorded}, and this is {here}; replay it with that test")


def _name_of(function: Callable[..., object]) -> str:
    return getattr(function, "__name__", "program")
