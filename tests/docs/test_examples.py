"""The Python examples of README and docs run as the pytest files or scripts they are."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from asynctasq.testing.servers import Servers
from tests.codec.orm.databases import database
from tests.patience import patient_s

ROOT = Path(__file__).parents[2]
HOW_TO = (
    "cancel-tasks",
    "engines-and-clients",
    "fair-keys",
    "judge-a-real-run",
    "keep-tasks-unique",
    "limit-tasks",
    "priorities",
    "read-the-log",
    "replay-a-failure",
    "retries",
    "run-every-night",
    "simulate-crashes",
    "test-django",
    "test-on-a-real-driver",
    "test-http",
    "test-retries",
    "wrap-attempts",
)
WITH_A_DATABASE = ROOT / "docs" / "tutorial" / "tasks-with-a-database.md"
PAGES = [
    ROOT / "README.md",
    WITH_A_DATABASE,
    *(ROOT / "docs" / "tutorial" / f"{name}.md" for name in ("testing", "writing-tasks")),
    *(ROOT / "docs" / "how-to" / f"{name}.md" for name in HOW_TO),
    *(
        ROOT / "docs" / "reference" / f"{name}.md"
        for name in ("hypothesis", "limits", "results", "schedules", "testing", "unique")
    ),
]
FILE = re.compile(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```", re.DOTALL | re.MULTILINE)
"""A file that the page's tests import or that configures them."""
BLOCK = re.compile(
    r"(?:^<!-- (fails|file: \S+) -->\n)?^```python\n(.*?)^```"
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
    return [
        Example(text, prints if mark == "fails" else None)
        for mark, text, prints in found
        if not mark.startswith("file: ")
    ]


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


def run(folder: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    # With CI=true pytest would tell each failure twice.
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | variables
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=patient_s(100)
    )


def run_tests(folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    return run(folder, "-m", "pytest", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", **variables)


def check_tests_of(page: Path, folder: Path, **variables: str) -> None:
    """Run the tests of a page in one process: each block is a file of its own, beside those that the page names."""
    for name, text in FILE.findall(page.read_text(encoding="utf-8")):
        (folder / name).write_text(text, encoding="utf-8")
    for number, example in enumerate(PASSING[page]):
        (folder / f"test_{number}.py").write_text(example.text, encoding="utf-8")

    done = run_tests(folder, **variables)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{sum(example.tests for example in PASSING[page])} passed in" in done.stdout


@pytest.mark.parametrize("page", [page for page in PAGES if PASSING[page]], ids=lambda page: page.stem)
def test_the_tests_of_a_page_pass(page: Path, tmp_path: Path) -> None:
    check_tests_of(page, tmp_path)


def test_the_page_on_databases_holds_on_postgres(tmp_path: Path, conformance_servers: Servers) -> None:
    with database("postgres", conformance_servers, tmp_path) as made:
        check_tests_of(WITH_A_DATABASE, tmp_path, TEST_DATABASE_URL=made.sqlalchemy_async)


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
