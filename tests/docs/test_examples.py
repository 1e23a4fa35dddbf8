"""The Python examples of README and docs run as the pytest files or scripts they are."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.patience import patient_s

ROOT = Path(__file__).parents[2]
HOW_TO = (
    "judge-a-real-run",
    "replay-a-failure",
    "simulate-crashes",
    "test-django",
    "test-on-a-real-driver",
    "test-retries",
)
PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "tutorial" / "testing.md",
    *(ROOT / "docs" / "how-to" / f"{name}.md" for name in HOW_TO),
    *(ROOT / "docs" / "reference" / f"{name}.md" for name in ("hypothesis", "testing")),
]
BLOCK = re.compile(
    r"(?:^<!-- (fails) -->\n)?^```python\n(.*?)^```"
    r"(?:(?:(?!^```).)*^```text\n(.*?)^```)?",  # if that is the next block
    re.DOTALL | re.MULTILINE,
)
"""An example. One that is there to fail is marked, and what it prints, lines left out or not, comes after it."""
TESTS = re.compile(r"^(?:(?:async )?def test_\w+|Test\w+ = \w+\.TestCase$)", re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """One Python block of a page."""

    text: str
    prints: str | None

    @property
    def tests(self) -> int:
        """How many tests it has; a script has none."""
        return 0 if "__main__" in self.text else len(TESTS.findall(self.text))


def examples(page: Path) -> list[Example]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Example(text, prints if fails else None) for fails, text, prints in found]


def named(examples_of: "dict[Path, list[Example]]") -> list[object]:
    return [
        pytest.param(example, id=f"{page.stem}-{number}")
        for page, found in examples_of.items()
        for number, example in enumerate(found)
    ]


FOUND = {page: examples(page) for page in PAGES}
PASSING = {
    page: [example for example in found if example.tests and not example.prints] for page, found in FOUND.items()
}
FAILING = {page: [example for example in found if example.prints] for page, found in FOUND.items()}
SCRIPTS = {page: [example for example in found if not example.tests] for page, found in FOUND.items()}


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    # With CI=true pytest would tell each failure twice.
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=patient_s(100)
    )


def run_tests(folder: Path, *files: str) -> "subprocess.CompletedProcess[str]":
    return run(folder, "-m", "pytest", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", *files)


@pytest.mark.parametrize("page", [page for page in PAGES if PASSING[page]], ids=lambda page: page.stem)
def test_the_tests_of_a_page_pass(page: Path, tmp_path: Path) -> None:
    """Each block is a file of its own, and all of a page run in one process."""
    for number, example in enumerate(PASSING[page]):
        (tmp_path / f"test_{number}.py").write_text(example.text, encoding="utf-8")

    done = run_tests(tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{sum(example.tests for example in PASSING[page])} passed in" in done.stdout


@pytest.mark.parametrize("example", named(FAILING))
def test_an_example_that_fails_prints_what_its_page_shows(example: Example, tmp_path: Path) -> None:
    (tmp_path / "test_shop.py").write_text(example.text, encoding="utf-8")

    done = run_tests(tmp_path)

    assert f"{example.tests} failed in" in done.stdout, done.stdout + done.stderr
    printed = iter(plain(done.stdout))
    missing = [line for line in plain(example.prints or "") if line not in printed]
    assert missing == [], done.stdout


def plain(output: str) -> list[str]:
    """Return the lines without pytest's marks, and all numbers and ids as 0: they change when the worker's steps do."""
    lines = [line.removeprefix("E").rpartition("SimulationFailed: ")[2].strip() for line in output.splitlines()]
    return [re.sub(r"\b[0-9a-f]{8}\b|\d+", "0", line) for line in lines]


@pytest.mark.parametrize("example", named(SCRIPTS))
def test_a_script_runs(example: Example, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(example.text, encoding="utf-8")

    done = run(tmp_path, "app.py")

    assert done.returncode == 0, done.stdout + done.stderr


def test_pages_link_only_to_what_exists() -> None:
    link = re.compile(r"\]\((?!https?:)([^)#]+)\)")
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in link.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]

    assert missing == []
