"""A real worker as a process that can be stopped, continued and killed; and what its tasks wrote."""

import json
import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asynctasq.drivers.base import Inspectable
from asynctasq.drivers.urls import create_driver
from asynctasq.kernel.messages import State, StoredMessage
from tests.patience import SOON_S

APPLICATION = '''
"""Tasks that write down what they do: one line a call, with one write, so that processes do not mix them."""

import asyncio, json, os, time
from pathlib import Path

from asynctasq.tasks import AsyncTask, SyncProcessTask, SyncTask

HERE = Path(__file__).parent


def note(event, task, **more):
    facts = {"event": event, "id": task._task_id, "attempt": task.attempt, "pid": os.getpid(), "at": time.time()}
    line = json.dumps({**facts, "task": type(task).__name__, **more}) + "\\n"
    file = os.open(HERE / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


class Quick(AsyncTask[None]):
    async def execute(self):
        note("start", self)
        await asyncio.sleep(0.01)
        note("end", self)


class Retried(AsyncTask[None]):
    retry_delay = 0.2

    async def execute(self):
        note("start", self)
        if self.attempt == 1:
            raise ValueError("the first attempt fails")
        note("end", self)


class InThread(SyncTask[None]):
    def execute(self):
        note("start", self)
        time.sleep(0.01)
        note("end", self)


class InProcess(SyncProcessTask[None]):
    def execute(self):
        note("start", self)
        note("end", self)


class UntilTold(AsyncTask[None]):
    async def execute(self):
        note("start", self)
        while not (HERE / "go").exists():
            await asyncio.sleep(0.005)
        note("end", self)


class Forever(AsyncTask[None]):
    async def execute(self):
        note("start", self)
        await asyncio.sleep(600)


class ForeverInThread(SyncTask[None]):
    def execute(self):
        note("start", self)
        time.sleep(600)


class ForeverInProcess(SyncProcessTask[None]):
    def execute(self):
        note("start", self)
        time.sleep(600)
'''

DISPATCH = """
import asyncio, sys, faulted_app
from asynctasq import init
from asynctasq.tasks import dispatch_many

async def main():
    init(driver=sys.argv[1])
    plan = [part.split(":") for part in sys.argv[2:]]
    # Interleaved, so that every kind is there at every moment.
    left = {name: int(count) for name, count in plan}
    tasks = []
    while any(left.values()):
        for name, count in left.items():
            share = max(1, round(count / min(filter(None, left.values()))))  if count else 0
            tasks += [getattr(faulted_app, name)() for _ in range(min(share, count))]
            left[name] -= min(share, count)
    await dispatch_many(tasks)

asyncio.run(main())
"""


def is_gone(pid: int) -> bool:
    """Say whether a process has ended; a zombie that nobody has waited for has."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@dataclass(slots=True)
class Place:
    """A folder with an application, a queue and a log."""

    folder: Path
    address: str = ""
    workers: "list[subprocess.Popen[str]]" = field(default_factory=list["subprocess.Popen[str]"])

    @property
    def url(self) -> str:
        return self.address or f"sqlite:///{self.folder / 'queue.db'}"

    def dispatch(self, *plan: str) -> None:
        """Store tasks from a process of its own: "Quick:10", "InThread:2"."""
        subprocess.run([sys.executable, "-c", DISPATCH, self.url, *plan], cwd=self.folder, check=True, timeout=SOON_S)

    def worker(self, *options: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "asynctasq", "worker", "--app", "faulted_app", "--driver", self.url, *options]
        log = (self.folder / f"worker-{len(self.workers)}.log").open("w")
        with log:
            process = subprocess.Popen(command, cwd=self.folder, text=True, stdout=log, stderr=subprocess.STDOUT)
        self.workers.append(process)
        return process

    def said(self, number: int) -> str:
        """What a worker wrote."""
        return (self.folder / f"worker-{number}.log").read_text()

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What the tasks wrote of one kind; a line that is being written is left out."""
        path = self.folder / "log"
        whole = path.read_text().splitlines(keepends=True) if path.exists() else []
        records = [json.loads(line) for line in whole if line.endswith("\n")]
        return [record for record in records if record["event"] == event]

    async def messages(self, state: State | None = None) -> Sequence[StoredMessage]:
        driver = create_driver(self.url)
        assert isinstance(driver, Inspectable)
        try:
            return (await driver.list_messages("default", state=state, limit=2000)).messages
        finally:
            await driver.close()


@contextmanager
def place_in(folder: Path, address: str = "") -> Generator[Place]:
    """Make one, on a server if its address is given; whatever it still runs at the end is killed."""
    (folder / "faulted_app.py").write_text(APPLICATION)
    (folder / "pyproject.toml").write_text("")
    place = Place(folder, address)
    try:
        yield place
    finally:
        for process in place.workers:
            if process.poll() is None:
                process.kill()
            process.wait()
