"""`asynctasq worker --processes`: what dies is started again, one signal ends all, and nobody outlives the parent."""

import asyncio
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asynctasq.cli import memory
from asynctasq.cli.exit_codes import ExitCode
from asynctasq.cli.memory import MEGABYTE, rss_bytes, stop_above
from asynctasq.cli.processes import NUMBER, address_of_child, child_number
from tests.patience import SOON_S, wait_until

pytestmark = pytest.mark.program

TASKS = """
import os, time
from asynctasq import task

@task
def note(text: str) -> None:
    with open("ran", "a") as file:
        file.write(f"{text} {os.getpid()}\\n")

@task
async def slow() -> None:
    import asyncio
    open("began", "w").close()
    await asyncio.sleep(3600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text('[tool.asynctasq]\napp = "shop_tasks"\n')
    (tmp_path / "shop_tasks.py").write_text(TASKS)
    return tmp_path


class Running:
    """A parent with its children, and the lines that they write."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "asynctasq", "worker", "--json", *arguments]
        self.process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:  # until all who have it have ended
            for line in lines:
                self._lines.put(json.loads(line))

    def event(self, name: str, text: str = "") -> dict[str, Any]:
        """Return the next line of this event that has this text."""
        while True:
            line = self._lines.get(timeout=SOON_S)
            if line["event"] == name and text in json.dumps(line):
                return line

    def ended(self) -> int:
        """Return the exit code, once the children have ended, too."""
        self._reader.join(SOON_S)
        assert not self._reader.is_alive()
        return self.process.wait(SOON_S)


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Running]:
    parent = Running(folder, *arguments)
    try:
        yield parent
    finally:
        if parent.process.poll() is None:
            parent.process.send_signal(signal.SIGTERM)
        parent.ended()


def is_there(pid: int) -> bool:
    """Say whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def dispatch(folder: Path, program: str) -> None:
    subprocess.run([sys.executable, "-c", f"import shop_tasks as t; {program}"], cwd=folder, timeout=SOON_S, check=True)


def test_a_child_that_is_killed_is_started_again_and_one_signal_ends_all(folder: Path) -> None:
    with running(folder, "--processes", "2") as parent:
        first, second = parent.event("started"), parent.event("started")
        assert len({parent.process.pid, first["pid"], second["pid"]}) == 3

        os.kill(first["pid"], signal.SIGKILL)
        assert parent.event("log", "ended with signal 9 (Killed)")["level"] == "warning"
        third = parent.event("started")
        assert third["pid"] not in (first["pid"], second["pid"])

        parent.process.send_signal(signal.SIGTERM)
        assert parent.ended() == ExitCode.DONE
        assert not any(map(is_there, (second["pid"], third["pid"])))


def test_what_can_not_start_ends_all_with_its_code(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "asynctasq", "worker", "--processes", "2", "--driver", "nothing://"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SOON_S,
        check=False,
    )

    assert done.returncode == ExitCode.CONFIGURATION
    assert "all are stopped" in done.stderr


def test_a_signal_while_the_children_are_started_ends_all_well(folder: Path) -> None:
    for _ in range(4):
        with running(folder, "--processes", "2") as parent:
            parent.event("log", "runs 2 workers")
            parent.process.send_signal(signal.SIGTERM)
            assert parent.ended() == ExitCode.DONE


def test_with_burst_all_end_when_nothing_is_left(folder: Path) -> None:
    dispatch(folder, "[t.note(str(n)).dispatch_sync() for n in range(40)]")

    with running(folder, "--processes", "2", "--burst") as parent:
        assert parent.ended() == ExitCode.DONE

    ran = [line.split()[0] for line in (folder / "ran").read_text().splitlines()]
    assert sorted(ran, key=int) == [str(number) for number in range(40)]


def test_a_second_signal_hands_everything_back_at_once(folder: Path) -> None:
    dispatch(folder, "t.slow().dispatch_sync()")

    with running(folder, "--processes", "2", "--shutdown-timeout", "3600") as parent:
        parent.event("started")
        parent.event("started")
        wait_until((folder / "began").exists, "the task runs")
        parent.process.send_signal(signal.SIGTERM)
        parent.process.send_signal(signal.SIGINT)
        assert parent.ended() == ExitCode.DONE

    shown = subprocess.run(
        [sys.executable, "-m", "asynctasq", "queues", "--json"],
        cwd=folder,
        capture_output=True,
        timeout=SOON_S,
        check=True,
    )
    assert json.loads(shown.stdout)[0]["ready"] == 1


def test_children_end_when_their_parent_is_killed(folder: Path) -> None:
    with running(folder, "--processes", "2") as parent:
        pids = [parent.event("started")["pid"] for _ in range(2)]
        parent.process.kill()
        parent.ended()
    wait_until(lambda: not any(map(is_there, pids)), "the children have ended")


def test_a_child_knows_its_number_once_and_has_a_port_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NUMBER, "3")

    assert (child_number(), child_number()) == (3, None)
    assert address_of_child("8080", 3) == "8083"
    assert address_of_child("0.0.0.0:8080", 3) == "0.0.0.0:8083"
    assert address_of_child("[::1]:8080", 0) == "[::1]:8080"
    assert address_of_child("0", 3) == "0"
    assert address_of_child("nothing", 3) == "nothing"


async def test_a_process_that_has_grown_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CHECK_S", 0)
    sizes, stopped = iter([5, 10, 11]), asyncio.Event()

    await asyncio.wait_for(stop_above(10, stopped.set, read=lambda: next(sizes) * MEGABYTE), SOON_S)

    assert stopped.is_set()
    assert list(sizes) == []


def test_the_memory_in_use_is_told_in_bytes() -> None:
    before = rss_bytes()
    block = bytearray(b"x") * (64 * MEGABYTE)

    assert 5 * MEGABYTE < before < rss_bytes() - 32 * MEGABYTE
    del block


def test_a_worker_that_is_too_large_ends_well(folder: Path) -> None:
    with running(folder, "--max-rss", "1") as worker:
        assert "more than 1 (--max-rss)" in worker.event("log", "max-rss")["message"]
        assert worker.ended() == ExitCode.DONE
