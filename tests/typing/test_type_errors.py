"""Mistakes that mypy must find before anything runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import patient_s

ROOT = Path(__file__).parents[2]
SNIPPET = """
from asynctasq import SyncTask, task

@task
def greet(name: str, times: int = 1) -> str:
    return name * times

greet(name=5)  # wrong type
greet()  # missing
greet("a", tmes=2)  # unknown
greet.dispatch_sync(1)  # wrong type of a dispatch

@task(retry_strategy="linear")  # unknown strategy
def never() -> None: ...

@task(tmeout=5)  # unknown setting
def nothing() -> None: ...

class Linear(SyncTask[None]):
    retry_strategy = "linear"  # unknown strategy of a class
    def execute(self) -> None: ...

class Text(SyncTask[int]):
    def execute(self) -> str:  # another result than promised
        return ""

class Invite(SyncTask[None]):
    to: str
    copies: int = 1
    def execute(self) -> None: ...

Invite(copies=2)  # missing field
Invite(to=5)  # wrong type of a field
Invite(to="a", cc="b")  # unknown field

greet.delay("a")  # a call of another library

async def awaits() -> None:
    await greet("a")  # a task that is not dispatched

@task(retry_on=(int,))  # no exception type
def whole() -> None: ...

greet("a", times=2)  # fine
"""


@pytest.fixture(scope="module")
def wrong_lines(tmp_path_factory: pytest.TempPathFactory) -> set[int]:
    path = tmp_path_factory.mktemp("typing") / "snippet.py"
    path.write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(path)]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=patient_s(230))
    lines = [line.split(":") for line in done.stdout.splitlines() if ": error:" in line]
    assert lines, done.stdout + done.stderr
    return {int(parts[1]) for parts in lines if parts[0].endswith("snippet.py")}


@pytest.mark.timeout(patient_s(240))
@pytest.mark.parametrize(
    "mistake",
    [
        "wrong type",
        "missing",
        "unknown",
        "wrong type of a dispatch",
        "unknown strategy",
        "unknown setting",
        "unknown strategy of a class",
        "another result than promised",
        "missing field",
        "wrong type of a field",
        "unknown field",
        "a call of another library",
        "a task that is not dispatched",
        "no exception type",
    ],
)
def test_mypy_finds(wrong_lines: set[int], mistake: str) -> None:
    numbers = [n for n, line in enumerate(SNIPPET.splitlines(), 1) if line.endswith(f"# {mistake}")]

    assert set(numbers) <= wrong_lines
    assert len(numbers) == 1


def test_mypy_accepts_what_is_right(wrong_lines: set[int]) -> None:
    number = SNIPPET.splitlines().index('greet("a", times=2)  # fine') + 1

    assert number not in wrong_lines
