"""Standard output that closes, is full or can't encode never stops a command, and costs no task anything."""

import os
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from asynctasq.cli.exit_codes import ExitCode
from asynctasq.config import ENV_PREFIX
from tests.patience import SOON_S, wait_until

TASKS = """
import asyncio, sys
from pathlib import Path
from asynctasq import AsyncTask, SyncProcessTask, task

HERE = Path(__file__).parent

def note(text: str) -> None:
    with (HERE / "notes").open("a") as file:
        file.write(text + "\\n")

@task
async def prints() -> None:
    print("✓ " * 100_000, flush=True)
    print("a complaint", "\\udcff", file=sys.stderr, flush=True)
    note("printed")

class PrintsInChild(SyncProcessTask[None]):
    def execute(self) -> None:
        print("✓ " * 100_000, flush=True)
        print("a complaint", "\\udcff", file=sys.stderr, flush=True)
        note("printed in a child")

@task(max_attempts=1)
async def fails() -> None:
    note("failed")
    raise ValueError("zażółć \\udcff ✗")

class Waits(AsyncTask[None]):
    async def execute(self) -> None:
        (HERE / "started").touch()
        while not (HERE / "go").exists():
            await asyncio.sleep(0.01)
        for _ in range(3):
            await asyncio.sleep(0)
        note("waited")
"""
EVERYTHING = "prints().dispatch_sync(); PrintsInChild().dispatch_sync(); fails().dispatch_sync()"
BURST = [sys.executable, "-m", "asynctasq", "worker", "--burst", "--process-pool-size", "1"]
NOTES = ["failed", "printed", "printed in a child"]


class Project:
    """A folder with tasks and an empty queue, in which commands run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "pyproject.toml").write_text("")
        (path / "shop.py").write_text(TASKS)

    def environment(self, **extra: str) -> dict[str, str]:
        return {**{name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}, **extra}

    def dispatch(self, code: str) -> None:
        command = [sys.executable, "-c", f"from shop import *\n{code}"]
        subprocess.run(command, cwd=self.path, env=self.environment(), timeout=SOON_S, check=True)

    def shell(self, command: str, **extra: str) -> "subprocess.CompletedProcess[bytes]":
        environment = self.environment(**extra)
        return subprocess.run(
            command, cwd=self.path, env=environment, shell=True, timeout=SOON_S, check=False, capture_output=True
        )

    @property
    def notes(self) -> list[str]:
        file = self.path / "notes"
        return sorted(file.read_text().splitlines()) if file.exists() else []

    @property
    def left(self) -> int:
        """How many messages are in the queue and no dead letters."""
        with closing(sqlite3.connect(self.path / ".asynctasq" / "queue.db")) as connection:
            rows: list[tuple[int]] = connection.execute(
                "SELECT count(*) FROM asynctasq_message WHERE death IS NULL"
            ).fetchall()
        return rows[0][0]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


@pytest.mark.parametrize(("options", "with_errors"), [("--log-level=INFO", True), ("--json", False), ("--quiet", True)])
def test_a_reader_that_leaves_stops_no_worker(
    project: Project, pipe: tuple[int, int], options: str, with_errors: bool
) -> None:
    reader, writer = pipe
    project.dispatch("Waits().dispatch_sync()")
    errors = writer if with_errors else subprocess.DEVNULL
    command = [sys.executable, "-m", "asynctasq", "worker", "--process-pool-size", "1", options]
    environment = project.environment()
    with subprocess.Popen(command, cwd=project.path, env=environment, stdout=writer, stderr=errors) as worker:
        try:
            os.close(writer)
            assert os.read(reader, 1)
            os.close(reader)
            wait_until((project.path / "started").exists)

            project.dispatch(EVERYTHING)
            wait_until(lambda: project.notes == NOTES, "what came after the reader had left runs")
            worker.send_signal(signal.SIGTERM)
            (project.path / "go").touch()

            assert worker.wait(SOON_S) == ExitCode.DONE
        finally:
            worker.kill()
    assert project.notes == [*NOTES, "waited"]
    assert project.left == 0


@pytest.mark.parametrize(
    "rest",
    [">&- 2>&-", "--json <&- >&- 2>&-", "--quiet >&-", "> /dev/full 2> /dev/full", "--json > /dev/full 2> /dev/full"],
)
def test_streams_that_can_not_be_written_stop_no_worker(project: Project, rest: str) -> None:
    project.dispatch(EVERYTHING)

    done = project.shell(f"{shlex.join(BURST)} {rest}")

    assert done.returncode == ExitCode.DONE
    assert (project.notes, project.left) == (NOTES, 0)


@pytest.mark.parametrize(
    ("options", "encoding"),
    [
        ("--log-level=INFO", {"PYTHONIOENCODING": "ascii"}),
        ("--json", {"PYTHONIOENCODING": "ascii"}),
        ("--log-level=INFO", {"PYTHONIOENCODING": "latin-1"}),
        ("--log-level=INFO", {"PYTHONIOENCODING": "utf-8"}),
        ("--log-level=INFO", {"LC_ALL": "C"}),
        ("--log-level=INFO", {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
        ("--json", {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
    ],
    ids=str,
)
def test_what_a_stream_can_not_encode_is_escaped(project: Project, options: str, encoding: dict[str, str]) -> None:
    project.dispatch(EVERYTHING)

    done = project.shell(shlex.join([*BURST, options]), **encoding)

    assert done.returncode == ExitCode.DONE, done.stderr
    assert (project.notes, project.left) == (NOTES, 0)
    assert rb"\udcff" in done.stdout


@pytest.mark.parametrize("then", ["| head -1", "2>&1 | head -1"])
def test_the_demo_ends_well_without_a_reader(project: Project, then: str) -> None:
    command = shlex.join([sys.executable, "-m", "asynctasq", "demo"])

    done = project.shell(f"{{ {command}; echo $? > code; }} {then}", PYTHONIOENCODING="ascii")

    assert done.returncode == 0
    assert (project.path / "code").read_text() == "0\n"
