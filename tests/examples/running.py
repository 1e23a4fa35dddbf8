"""What the tests of the examples share: a copy of the folder, its commands, and waiting until something shows."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from asynctasq.config import ENV_PREFIX
from tests.patience import SOON_S

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = {"python": [], "asynctasq": ["-m", "asynctasq"], "uvicorn": ["-m", "uvicorn"], "pytest": ["-m", "pytest"]}


@dataclass
class Example:
    """A copy of one example in a folder of its own."""

    folder: Path
    environment: dict[str, str]
    processes: "list[subprocess.Popen[str]]" = field(default_factory=list["subprocess.Popen[str]"])

    def run(self, command: str, *more: str) -> str:
        """Run one of the README's commands to its end and return what it printed."""
        done = subprocess.run(
            self._arguments(command, more),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SOON_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, command: str, *more: str) -> "subprocess.Popen[str]":
        """Start one of the README's commands; `output` shows what it says."""
        with (self.folder / f"{len(self.processes)}.log").open("w") as log:
            process = subprocess.Popen(
                self._arguments(command, more),
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.processes.append(process)
        return process

    def _arguments(self, command: str, more: tuple[str, ...]) -> list[str]:
        assert f"$ {command}" in (self.folder / "README.md").read_text(), f"the README does not say: {command}"
        program, *arguments = command.split()
        return [sys.executable, *PROGRAMS[program], *arguments, *more]

    def until(self, condition: Callable[[], Any]) -> Any:
        """Return the first true answer; no process may end meanwhile. A web server that starts refuses connections."""
        deadline, pause = time.monotonic() + SOON_S, threading.Event()
        while True:
            try:
                if answer := condition():
                    return answer
            except httpx.ConnectError:
                pass
            assert time.monotonic() < deadline, self.output
            assert all(process.poll() is None for process in self.processes), self.output
            pause.wait(0.02)

    @property
    def output(self) -> str:
        """What the started processes have said."""
        return "".join(path.read_text(encoding="utf-8") for path in sorted(self.folder.glob("*.log")))

    def end(self, process: "subprocess.Popen[str]") -> int:
        """Ask the process to end and return its exit code."""
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=SOON_S)
        self.processes.remove(process)
        return code


@contextmanager
def copied(name: str, folder: Path, **environment: str) -> Iterator[Example]:
    """Copy the example, so that nothing is left behind in the repository, and kill at last what was started of it."""
    target = folder / name
    shutil.copytree(EXAMPLES / name, target, ignore=shutil.ignore_patterns("__pycache__", ".*", "*.db", "*.sqlite3"))
    foreign = (ENV_PREFIX, "DJANGO_", "DATABASE_", "TEST_DATABASE_", "TORTOISE_", "PYTEST_")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    example = Example(target, {**clean, "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1", **environment})
    try:
        yield example
    finally:
        for process in example.processes:
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
