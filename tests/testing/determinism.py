"""Run the same seeds in two processes on each Python and compare: `python -m tests.testing.determinism [PYTHON...]`.

Both processes have other hash seeds. Compared are, for each seed, the steps, the tape and the story of a whole
simulation with workers and faults, and those of a program that uses asyncio without them.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from asynctasq.clock import SystemClock
from asynctasq.testing.simulation import Simulation
from asynctasq.testing.simulation.run import RunParts, run_program, silence_log
from asynctasq.testing.tape import Tape
from tests.mutants.hunting import CASES
from tests.testing.loop import determinism_program

ROOT = Path(__file__).parents[2]
HASH_SEEDS = ("1", "4711")
WORKLOADS = ("mixed", "drawn")


def digests(seeds: range) -> Iterator[str]:
    """Yield a line for each seed and workload: what it was, and a digest of all that happened."""
    cases = [case for case in CASES if case.name in WORKLOADS]
    for seed in seeds:
        for case in cases:

            async def program(parts: RunParts) -> None:
                await case.workload(Simulation(parts))  # noqa: B023 - it has run before the next one comes

            with silence_log():
                result = run_program(program, case.options(seed), Tape(seed), trace=True)
            failed = "" if result.failure is None else f" {type(result.failure).__name__}"
            yield f"{case.name} {seed} {result.digest()}{failed}"
        trace, drawn, said = determinism_program.run(seed, "mix")
        yield f"asyncio {seed} {trace} {drawn} {'|'.join(said)}"


def in_a_process(python: str, hash_seed: str, seeds: int) -> list[str]:
    """Return the lines of `digests` as another process prints them."""
    command = [python, "-m", "tests.testing.determinism", "--seeds", str(seeds), "--print"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{python} failed:\n{done.stderr}")
    return done.stdout.splitlines()


def compare(pythons: Sequence[str], seeds: int) -> list[str]:
    """Return what differs from the first process of the first Python: process, and the first line that does."""
    processes = [(python, hash_seed) for python in pythons for hash_seed in HASH_SEEDS]
    with ThreadPoolExecutor(2) as pool:
        printed = list(pool.map(lambda one: in_a_process(*one, seeds), processes))
    wanted = printed[0]
    differences: list[str] = []
    for (python, hash_seed), lines in zip(processes, printed, strict=True):
        differs = [(one, other) for one, other in zip(wanted, lines, strict=False) if one != other]
        print(f"{python}, hash seed {hash_seed}: {len(lines)} runs, {len(differs)} differ")
        if differs or len(lines) != len(wanted):
            first = differs[0] if differs else (f"{len(wanted)} lines", f"{len(lines)} lines")
            differences.append(f"{python}, hash seed {hash_seed}: {first[0]!r} != {first[1]!r}")
    return differences


def main() -> int:
    """Print the digests, or let two processes of each Python print them and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pythons", nargs="*", help="interpreters with the development dependencies, beside this one")
    parser.add_argument("--seeds", type=int, default=1_000)
    parser.add_argument("--print", action="store_true", help="print the digests of this process")
    options = parser.parse_args()
    if options.print:
        for line in digests(range(options.seeds)):
            print(line)
        return 0
    clock = SystemClock()
    started = clock.monotonic()
    differences = compare([sys.executable, *options.pythons], options.seeds)
    print(*differences, f"{len(differences)} processes differ; {clock.monotonic() - started:.0f} s", sep="\n")
    return len(differences)


if __name__ == "__main__":
    raise SystemExit(main())
