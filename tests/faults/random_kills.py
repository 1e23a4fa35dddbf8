"""Kill workers at random while they drain a queue, then judge what ran by what the tasks themselves wrote.

    python -m tests.faults.random_kills redis --tasks 100000 --workers 2 --kills 8

The ledger is a file to which each task appends a line when it starts and when it ends, with the process that runs it.
Nothing may be missing, and every run too many must belong to a process that was killed.
"""

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from asynctasq.drivers.base import Driver, Migratable
from asynctasq.drivers.urls import create_driver, sqlite_url
from asynctasq.testing.servers import Servers
from tests.patience import SOON_S, patient_s

APP = """
import os
from asynctasq import AsyncTask

LEDGER = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


class Mark(AsyncTask[None]):
    def __init__(self, number: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.number = number

    async def execute(self) -> None:
        os.write(LEDGER, b"start %d %d\\n" % (self.number, os.getpid()))
        os.write(LEDGER, b"end %d %d\\n" % (self.number, os.getpid()))
"""
LEASE_S = 2.0


@dataclass(slots=True)
class Verdict:
    """What a run showed."""

    tasks: int
    runs: int = 0
    missing: list[int] = field(default_factory=list)
    unexplained: list[int] = field(default_factory=list)
    killed: set[int] = field(default_factory=set)

    @property
    def clean(self) -> bool:
        return not self.missing and not self.unexplained


def judge(ledger: Path, tasks: int, killed: set[int]) -> Verdict:
    """Read the ledger; the last line of a killed process may be cut, but O_APPEND lines are whole."""
    starts: dict[int, list[int]] = defaultdict(list)
    ended: set[int] = set()
    for line in ledger.read_text(encoding="ascii").splitlines():
        word, number, pid = line.split()
        if word == "start":
            starts[int(number)].append(int(pid))
        else:
            ended.add(int(number))
    verdict = Verdict(tasks, killed=killed, runs=sum(map(len, starts.values())))
    verdict.missing = [number for number in range(tasks) if number not in ended]
    verdict.unexplained = [n for n, pids in starts.items() if any(pid not in killed for pid in pids[:-1])]
    return verdict


class Workers:
    """Worker processes on one queue, replaced when they are killed."""

    def __init__(self, folder: Path, url: str, count: int, concurrency: int) -> None:
        self._folder = folder
        self._command = [
            *(sys.executable, "-m", "asynctasq", "worker", "--app", "marks", "--driver", url, "--quiet"),
            *("--concurrency", str(concurrency), "--lease", str(LEASE_S)),
        ]
        self._environment = {**os.environ, "LEDGER": str(folder / "ledger")}
        self._running = [self._start() for _ in range(count)]
        self.killed: set[int] = set()

    def _start(self) -> subprocess.Popen[bytes]:
        log = (self._folder / "workers.log").open("ab")
        with log:
            return subprocess.Popen(self._command, cwd=self._folder, env=self._environment, stdout=log, stderr=log)

    def kill_one(self, rng: random.Random) -> None:
        """Kill one with -9 and start another."""
        index = rng.randrange(len(self._running))
        victim = self._running[index]
        self.killed.add(victim.pid)
        victim.kill()
        victim.wait()
        self._running[index] = self._start()

    def stop(self) -> list[int]:
        """Stop them cleanly and return their exit codes."""
        for process in self._running:
            process.send_signal(signal.SIGTERM)
        return [process.wait(timeout=SOON_S) for process in self._running]


async def dispatch(driver: Driver, folder: Path, tasks: int) -> None:
    """Store the tasks of the app in bulk."""
    from asynctasq.queue import Queue

    sys.path.insert(0, str(folder))
    os.environ["LEDGER"] = str(folder / "ledger")
    try:
        import marks  # type: ignore[import-not-found]

        if isinstance(driver, Migratable):
            await driver.migrate()
        for first in range(0, tasks, 10_000):
            await Queue(driver).dispatch([marks.Mark(number) for number in range(first, min(tasks, first + 10_000))])
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("marks", None)
        await driver.close()


async def left(driver: Driver) -> int:
    """Return how many messages are not done."""
    depth = await driver.depth("default")
    await driver.close()
    return depth.ready + depth.reserved + depth.scheduled + depth.dead


def kill_at_random(
    url: str, folder: Path, *, tasks: int, workers: int = 2, kills: int = 5, seed: int = 0, concurrency: int = 100
) -> Verdict:
    """Run the whole experiment in `folder` on the queue at `url`; raise TimeoutError if it does not drain."""
    (folder / "marks.py").write_text(APP, encoding="utf-8")
    (folder / "ledger").touch()
    asyncio.run(dispatch(create_driver(url), folder, tasks))
    rng = random.Random(seed)
    crew = Workers(folder, url, workers, concurrency)
    try:
        for progress in _marks(tasks, kills):
            _wait_for_lines(folder / "ledger", progress)
            crew.kill_one(rng)
        deadline = time.monotonic() + patient_s(60 + tasks / 200)
        while asyncio.run(left(create_driver(url))):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the queue did not drain: {(folder / 'workers.log').read_text()[-2000:]}")
            time.sleep(0.2)
    finally:
        codes = crew.stop()
    assert codes == [0] * workers, codes
    return judge(folder / "ledger", tasks, crew.killed)


def _marks(tasks: int, kills: int) -> Iterator[int]:
    """Yield after how many ledger lines each kill happens, spread over the run."""
    for number in range(kills):
        yield 2 * tasks * (number + 1) // (kills + 2)


def _wait_for_lines(ledger: Path, lines: int) -> None:
    deadline = time.monotonic() + patient_s(120)
    while ledger.read_bytes().count(b"\n") < lines:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the workers wrote {ledger.read_bytes().count(10)} lines, waiting for {lines}")
        time.sleep(0.02)


def address(kind: str, servers: Servers, folder: Path) -> str:
    """Return where this kind of driver keeps its messages."""
    if kind == "sqlite":
        return sqlite_url(folder / "queue.db")
    return str(getattr(servers, kind)().url)


def main() -> None:
    """Run one experiment and print its verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["sqlite", "redis", "postgres", "mysql"])
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with Servers() as servers, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        verdict = kill_at_random(
            address(options.kind, servers, folder),
            folder,
            tasks=options.tasks,
            workers=options.workers,
            kills=options.kills,
            seed=options.seed,
        )
    print(
        f"{options.kind}: {verdict.tasks} tasks, {len(verdict.killed)} workers killed, {verdict.runs} runs, "
        f"{verdict.runs - verdict.tasks} repeated after a kill, {len(verdict.missing)} missing, "
        f"{len(verdict.unexplained)} unexplained"
    )
    sys.exit(0 if verdict.clean else 1)


if __name__ == "__main__":
    main()
