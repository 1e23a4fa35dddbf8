"""The report of a conformance run: JSON for machines, a matrix for the terminal and, as Markdown, for the docs.

python -m asynctasq.testing.conformance.report report.json > driver-matrix.md
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from asynctasq.testing.conformance import SUITE_VERSION
from asynctasq.testing.conformance.selection import BUILT_IN

__all__ = ["STATUSES", "Entry", "Report", "render_markdown", "render_terminal"]

STATUSES = ("passed", "failed", "error", "unsupported", "under-claimed", "not run")
SUITE = "asynctasq-conformance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one test found on one driver."""

    driver: str
    subject: str
    test: str
    clause: str
    status: str
    reason: str


@dataclass(slots=True)
class Report:
    """All entries of a run, and what the drivers claim: claim -> "yes", "no" or "partial (reason)"."""

    entries: list[Entry] = field(default_factory=list[Entry])
    claims: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])

    def add(self, entry: Entry) -> None:
        """Add an entry; a test that failed and whose store could then not be removed counts once, as the worst."""
        same = [old for old in self.entries if (old.driver, old.subject, old.test) == _key(entry)]
        for old in same:
            self.entries.remove(old)
        self.entries.append(next((old for old in same if old.status in ("failed", "error", "not run")), entry))

    def drivers(self) -> list[str]:
        """Return the drivers: ours in the order of `BUILT_IN`, then others by name."""
        names = {entry.driver for entry in self.entries}
        return [*(name for name in BUILT_IN if name in names), *sorted(names.difference(BUILT_IN))]

    def subjects(self) -> list[str]:
        """Return the subjects, sorted."""
        return sorted({entry.subject for entry in self.entries})

    def counts(self, driver: str, subject: str | None = None) -> Counter[str]:
        """Count the statuses of a driver, of one subject or of all."""
        return Counter(
            entry.status
            for entry in self.entries
            if entry.driver == driver and (subject is None or entry.subject == subject)
        )

    def to_json(self) -> str:
        """Return the whole as JSON text."""
        drivers = {
            name: {
                "counts": {status: self.counts(name)[status] for status in STATUSES},
                "claims": self.claims.get(name, {}),
                "tests": [asdict(entry) for entry in sorted(self.entries, key=_key) if entry.driver == name],
            }
            for name in self.drivers()
        }
        head = {"suite": SUITE, "version": SUITE_VERSION, "asynctasq": version("asynctasq")}
        return json.dumps({**head, "python": sys.version.split()[0], "drivers": drivers}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Rebuild from `to_json`; several files may be merged by `add`."""
        found: dict[str, Any] = json.loads(text)
        report = cls()
        for name, driver in found["drivers"].items():
            report.claims[name] = driver["claims"]
            report.entries += [Entry(**entry) for entry in driver["tests"]]
        return report


def _key(entry: Entry) -> tuple[str, str, str]:
    return entry.driver, entry.subject, entry.test


def _cell(counts: Counter[str]) -> str:
    """Return `12` if all passed, else e.g. `10, 1 failed, 1 unsupported`."""
    rest = [f"{counts[status]} {status}" for status in STATUSES[1:] if counts[status]]
    return ", ".join([str(counts["passed"]), *rest])


def render_terminal(report: Report) -> Iterator[str]:
    """Yield the lines of the matrix: a row per driver; then whatever did not simply pass, with its reason."""
    yield f"{SUITE} {SUITE_VERSION}"
    head = ["driver", *STATUSES]
    rows = [[name, *(str(report.counts(name)[status]) for status in STATUSES)] for name in report.drivers()]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    for (driver, status, reason), tests in _grouped(report):
        yield f"{driver}: {status}: {', '.join(tests)}{': ' if reason else ''}{reason}"


def _grouped(report: Report) -> Iterator[tuple[tuple[str, str, str], list[str]]]:
    groups: dict[tuple[str, str, str], list[str]] = {}
    for entry in report.entries:
        if entry.status != "passed":
            groups.setdefault((entry.driver, entry.status, entry.reason), []).append(entry.test)
    for key, tests in groups.items():
        yield key, tests if len(tests) <= 3 else [*tests[:2], f"and {len(tests) - 2} more"]


def render_markdown(report: Report) -> str:
    """Return the page of the docs: claims, then results by subject, then what is not plain."""
    drivers = report.drivers()
    lines = [
        "# Driver matrix",
        "",
        f"Made from a run of {SUITE} {SUITE_VERSION}; not edited by hand.",
        "",
        "## Claims",
        "",
    ]
    claims = list(dict.fromkeys(claim for name in drivers for claim in report.claims.get(name, {})))
    lines += _table(
        ["driver", *(f"`{claim}`" for claim in claims)],
        ([name, *(_level(report.claims.get(name, {}).get(claim, "?")) for claim in claims)] for name in drivers),
    )
    lines += ["", "Partial claims and refusals, with their reasons:", ""]
    lines += [
        f"* {name}, `{claim}`: {text}"
        for name in drivers
        for claim, text in report.claims.get(name, {}).items()
        if "(" in text
    ]
    lines += ["", "## Results", "", "Tests passed, by subject; what else there was, in words.", ""]
    lines += _table(
        ["subject", *drivers],
        ([subject, *(_cell(report.counts(name, subject)) for name in drivers)] for subject in report.subjects()),
    )
    lines += ["", "## What did not simply pass", ""]
    lines += [f"* {key[0]}, {key[1]}: {', '.join(tests)}: {key[2]}" for key, tests in _grouped(report)] or ["Nothing."]
    return "\n".join(lines) + "\n"


def _level(text: str) -> str:
    return text.split(" (", 1)[0]


def _table(head: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def main(paths: list[str]) -> None:
    """Print the Markdown page for one or several reports; of a driver that is in several, the last counts."""
    merged = Report()
    for path in paths:
        report = Report.from_json(Path(path).read_text())
        merged.entries = [entry for entry in merged.entries if entry.driver not in report.claims] + report.entries
        merged.claims.update(report.claims)
    sys.stdout.write(render_markdown(merged))


if __name__ == "__main__":
    main(sys.argv[1:])
