"""Reports a failed simulation: shrinks it, saves its tape, and describes the decisions that are left."""

import hashlib
import re
import shlex
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asynctasq.clock import SystemClock
from asynctasq.testing.simulation.run import Program, RunOptions, RunResult, run_program, silence_log
from asynctasq.testing.simulation.shrink import Shrunk, shrink
from asynctasq.testing.tape import Entry, Tape
from asynctasq.testing.tape.file import write_tape_file
from asynctasq.testing.tape.recorded_test import current_test, runnable_here

__all__ = [
    "TAPES",
    "RunningTest",
    "SimulationFailed",
    "describe_failure",
    "describe_replay_failure",
    "shorten_timeline",
]

TAPES: Final = Path(".asynctasq", "tapes")
SHRINK_S: Final = 5.0
SHRINK_RUNS: Final = 2_000
DECISIONS_SHOWN: Final = 20
ENTRIES_SHOWN: Final = 60
NAME_MAX: Final = 80
"""Parameters of a test may be long, names of files may not."""


class SimulationFailed(AssertionError):
    """A simulated run failed; the text says with which seed, why, and how to see it again. `result` is that run."""

    def __init__(self, text: str, result: RunResult) -> None:
        super().__init__(text)
        self.result = result


@dataclass(frozen=True, slots=True)
class RunningTest:
    """The test that runs: its name for files, with a hash that no other test has, and its node id for pytest."""

    name: str
    mark: str
    node_id: str | None

    @classmethod
    def current(cls, function: Callable[..., object]) -> "RunningTest":
        """Return the test that pytest runs now, or a function outside of pytest."""
        node_id = current_test()
        if node_id is None:
            return cls(getattr(function, "__name__", "program"), _short_hash(_origin(function)), None)
        name = re.sub(r"[^\w.\-]+", "_", node_id.rpartition("::")[2])
        return cls(name[:NAME_MAX], _short_hash(node_id), node_id)

    def tape(self, seed: int) -> Path:
        """Return where the tape of a failure is kept."""
        return TAPES / f"{self.name}-{seed}-{self.mark}.json"

    def replay_line(self, tape: Path) -> str:
        """Return the command that repeats the failure."""
        if self.node_id is None:
            return f"call it with replay={str(tape)!r}"
        test = runnable_here(self.node_id)
        quoted = shlex.quote(test) if "'" in test else f"'{test}'"
        return f"pytest {quoted} --simulation-replay {tape}"


def _short_hash(identity: str) -> str:
    return hashlib.blake2b(identity.encode(), digest_size=4).hexdigest()


def _origin(function: Callable[..., object]) -> str:
    """Return what distinguishes a function from others of its name, in whatever folder the project is."""
    code = getattr(function, "__code__", None)
    file = _as_seen_here(Path("" if code is None else code.co_filename))
    where = file.name if file.is_absolute() else file.as_posix()
    return f"{where}:{function.__module__}:{getattr(function, '__qualname__', '')}"


def describe_failure(
    program: Program, options: RunOptions, result: RunResult, *, seed: int, run: str, test: RunningTest
) -> SimulationFailed:
    """Shrink the failure, save the tape of the smallest one, and return the error that describes it."""
    assert result.failure is not None, "only a failed run has a failure"
    shrunk, smallest = _shrink(program, options, result, seed)
    path = test.tape(seed)
    tape = Tape.replay(smallest.entries, strict=False, seed=seed)
    for label, n, _ in smallest.entries:
        tape.draw(label, n)
    note = f"{test.node_id or test.name}: {_first_line(smallest.failure)}"
    write_tape_file(path, seed=seed, entries=tape.entries, note=note, test=test.node_id)
    before = sum(1 for entry in result.entries if entry[2])
    left = [entry for entry in smallest.entries if entry[2]]
    how = "" if shrunk.complete else ", and there was no time to try more"
    lines = [
        f"simulate: seed {seed} fails ({run})",
        _error_text(smallest.failure or result.failure),
        f"{before} decisions, shrunk to {len(left)} in {shrunk.runs} runs{how}:",
        *_describe_decisions(left),
        "what happened, in virtual seconds:",
        *shorten_timeline(smallest.timeline),
        f"to see it again: {test.replay_line(path)}",
    ]
    return SimulationFailed("\n".join(lines), smallest)


def describe_replay_failure(result: RunResult, path: str) -> SimulationFailed:
    """Return the error that describes how a replayed run failed."""
    assert result.failure is not None, "only a failed run has a failure"
    left = [entry for entry in result.entries if entry[2]]
    lines = [
        f"simulate: the replay of {_as_seen_here(Path(path))} fails",
        _error_text(result.failure),
        f"{len(left)} decisions:",
        *_describe_decisions(left),
        "what happened, in virtual seconds:",
        *shorten_timeline(result.timeline),
    ]
    return SimulationFailed("\n".join(lines), result)


def _as_seen_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _shrink(program: Program, options: RunOptions, result: RunResult, seed: int) -> tuple[Shrunk, RunResult]:
    clock = SystemClock()
    deadline = clock.monotonic() + SHRINK_S
    wanted = _signature(result.failure)
    smallest = result

    def still_fails(entries: Sequence[Entry]) -> Sequence[Entry] | None:
        nonlocal smallest
        if clock.monotonic() > deadline:
            return None
        tried = run_program(program, options, Tape.replay(entries, strict=False, seed=seed))
        if _signature(tried.failure) != wanted:
            return None
        if _cost(tried.entries) < _cost(smallest.entries):
            smallest = tried
        return tried.entries

    with silence_log():
        shrunk = shrink(result.entries, still_fails, runs_max=SHRINK_RUNS)
        again = run_program(program, options, Tape.replay(shrunk.entries, strict=False, seed=seed))
    if _signature(again.failure) == wanted:
        smallest = again
    complete = shrunk.complete and clock.monotonic() <= deadline
    return Shrunk(entries=shrunk.entries, runs=shrunk.runs, complete=complete), smallest


def _cost(entries: Sequence[Entry]) -> tuple[int, int]:
    values = [value for _, _, value in entries if value]
    return len(values), sum(values)


def _signature(error: BaseException | None) -> tuple[str, ...]:
    """Return what makes two failures the same: the kind, what it is about, and where it was raised."""
    if error is None:
        return ()
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return type(error).__qualname__, str(getattr(error, "name", "")), where


def _first_line(error: BaseException | None) -> str:
    return "" if error is None else f"{type(error).__name__}: {error}".partition("\n")[0]


def _error_text(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).rstrip()


def _describe_decisions(decisions: Sequence[Entry]) -> list[str]:
    """Name the decisions that differ from the simplest choice; equal ones are counted."""
    counted = Counter(_describe_decision(entry) for entry in decisions)
    lines = [f"  {word}" + (f" ({count} times)" if count > 1 else "") for word, count in counted.items()]
    if len(lines) > DECISIONS_SHOWN:
        lines[DECISIONS_SHOWN:] = [f"  ... and {len(lines) - DECISIONS_SHOWN} other kinds"]
    return lines


def _describe_decision(entry: Entry) -> str:
    label, n, value = entry
    kind, _, rest = label.partition(" ")
    match kind:
        case "schedule":
            return f"another ready task runs first (number {value + 1} of {n})"
        case "search" | "pct.rank" | "pct.change" | "pct.rate":
            return f"the search: {kind} is {value} of {n}"
        case "swarm":
            return f"faults of kind {rest} may happen"
        case _ if re.fullmatch(r"w\d+", kind) and n == 2:
            point, _, fault = rest.partition(" ")
            return f"{kind}: {fault or 'a fault'} at {point}"
        case _:
            return f"{label}: {value} of {n}"


def shorten_timeline(timeline: str) -> list[str]:
    """Return the lines of a timeline, those in the middle left out where there are many."""
    lines = timeline.splitlines()
    if len(lines) > ENTRIES_SHOWN:
        half = ENTRIES_SHOWN // 2
        lines[half:-half] = [f"... {len(lines) - 2 * half} entries ..."]
    return [f"  {line}" for line in lines]
