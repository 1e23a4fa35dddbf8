"""Find every planted defect: `python -m tests.mutants.hunt [--seconds 60] [--workers 2] [--clean SEEDS] [NAME...]`."""

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from asynctasq.clock import SystemClock
from tests.mutants.hunting import Finding, first_finding
from tests.mutants.planting import planted
from tests.mutants.table import MUTANTS, SURVIVORS

SEEDS = 64
"""Under so many a mutant must be found."""
FEW = 5
"""To so many decisions a finding should shrink."""
ROW = "{:<46} {:<40} {:>5} {:>9} {:>7}"


def hunt(name: str, *, seconds: float = 30.0, seeds: int = SEEDS, smallest: bool = True) -> Finding | None:
    """Plant one defect and look for it; shrink what shows it to the `smallest`."""
    with planted(MUTANTS[name]):
        return first_finding(seeds=range(seeds), seconds=seconds, smallest=smallest)


def clean(seeds: range) -> Finding | None:
    """Look for anything in the product as it is."""
    return first_finding(seeds=seeds, seconds=float("inf"))


def report(found: dict[str, Finding | None], wall_s: float) -> str:
    """Return the table, the totals, and a word on each survivor."""
    lines = [ROW.format("mutant", "found by", "seeds", "decisions", "seconds")]
    for name, finding in found.items():
        if finding is None:
            lines.append(ROW.format(name, "-", "-", "-", "-"))
        else:
            by = f"{finding.case}: {finding.found_by}"
            lines.append(ROW.format(name, by, finding.seed + 1, finding.decisions, f"{finding.seconds:.2f}"))
    findings = [finding for finding in found.values() if finding is not None]
    few = sum(finding.decisions <= FEW for finding in findings)
    recorded = [name for name in found if MUTANTS[name].recorded]
    lines += [
        "",
        f"found {len(findings)} of {len(found)} ({len(findings) / len(found):.1%}); {wall_s:.1f} s",
        f"shrunk to at most {FEW} decisions: {few} ({few / max(1, len(findings)):.1%})",
        f"{len(recorded)} of them are recorded elsewhere: "
        + ", ".join(f"{name} ({MUTANTS[name].recorded})" for name in recorded),
    ]
    lines += [f"survivor: {name}: {SURVIVORS.get(name, 'NOT EXPLAINED')}" for name, one in found.items() if one is None]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Hunt, print, and return how many survivors have no explanation."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.hunt", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these mutants")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all mutants together: half of it for any one")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--clean", type=int, metavar="SEEDS", help="look at the product as it is, under so many seeds")
    options = parser.parse_args(arguments)
    clock = SystemClock()
    started = clock.monotonic()
    with ProcessPoolExecutor(options.workers) as pool:
        if options.clean:
            return _clean(pool, options.clean, clock, started)
        names = options.names or list(MUTANTS)
        findings = pool.map(partial(hunt, seconds=options.seconds / 2), names)
        found = dict(zip(names, findings, strict=True))
    print(report(found, clock.monotonic() - started))
    return sum(one is None and name not in SURVIVORS for name, one in found.items())


def _clean(pool: ProcessPoolExecutor, seeds: int, clock: SystemClock, started: float) -> int:
    step = 25
    parts = [range(first, min(first + step, seeds)) for first in range(0, seeds, step)]
    findings = [finding for finding in pool.map(clean, parts) if finding is not None]
    for finding in findings:
        print(f"{finding.case} seed {finding.seed}: {finding.text}\n{finding.timeline}")
    print(f"{len(findings)} findings under {seeds} seeds in {clock.monotonic() - started:.1f} s")
    return len(findings)


if __name__ == "__main__":
    raise SystemExit(main())
