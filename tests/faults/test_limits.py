"""Limits on real backends: four workers that share one rate and one number of attempts, and kill -9."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from asynctasq import AsyncTask
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.limits import ConcurrencyLimit, RateLimit
from asynctasq.queue import Queue
from asynctasq.tasks.application import Application
from asynctasq.testing.conformance.harness import DriverHarness
from asynctasq.testing.conformance.harnesses import mysql, postgres, redis, sqlite
from asynctasq.testing.servers import Servers
from tests.faults.worker_process import Place, place_in
from tests.patience import SOON_S, until, wait_until

WORKERS = 4
STARTS, PER_S, AT_ONCE = 20, 1.0, 3
MAKERS = {
    "sqlite": sqlite.make_harness,
    "redis": redis.make_harness,
    "postgres": postgres.make_harness,
    "mysql": mysql.make_harness,
}
STARTED: list[float] = []
RUNNING: Counter[str] = Counter()
MOST: Counter[str] = Counter()
ENDED: list[str] = []

APPLICATION = """
import asyncio, os, time
from pathlib import Path

from asynctasq import AsyncTask
from asynctasq.limits import ConcurrencyLimit

def note(event, task):
    file = os.open(Path(__file__).parent / "runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{event} {task.task_id} {os.getpid()} {time.time()}\\n".encode())
    os.close(file)

class One(AsyncTask[None]):
    limits = [ConcurrencyLimit("one", 1)]

    async def execute(self):
        note("start", self)
        await asyncio.sleep(600)
        note("end", self)
"""


class Rated(AsyncTask[None]):
    limits = [RateLimit("rated", STARTS, per=PER_S)]

    async def execute(self) -> None:
        STARTED.append(time.monotonic())


class AtOnce(AsyncTask[None]):
    limits = [ConcurrencyLimit("at once", AT_ONCE)]

    async def execute(self) -> None:
        RUNNING["all"] += 1
        MOST["all"] = max(MOST["all"], RUNNING["all"])
        await asyncio.sleep(0.01)
        RUNNING["all"] -= 1
        ENDED.append(str(self.task_id))


@pytest.fixture(params=list(MAKERS))
async def harness(request: pytest.FixtureRequest, conformance_servers: Servers) -> AsyncIterator[DriverHarness]:
    made = MAKERS[request.param](conformance_servers)
    await made.prepare()
    for found in (STARTED, ENDED, RUNNING, MOST):
        found.clear()
    yield made
    await made.clean_up()


async def run_all(harness: DriverHarness, tasks: list[AsyncTask[None]], ended: list[float] | list[str]) -> None:
    """Let four workers run the tasks."""
    settings = WorkerSettings(handle_signals=False, schedules=(), application=Application(), broker_timeout_s=SOON_S)
    workers = [
        Worker(harness.create(), concurrency=5, settings=settings, runtime=ProductionRuntime(wait_s=5.0))
        for _ in range(WORKERS)
    ]
    running = [asyncio.create_task(worker.start()) for worker in workers]
    driver = harness.create()
    await Queue(driver).dispatch(tasks)
    await driver.close()
    await until(lambda: len(ended) == len(tasks) or any(task.done() for task in running), "all have run")
    for worker in workers:
        worker.stop()
    await asyncio.gather(*running)
    assert len(ended) == len(tasks)


@pytest.mark.timeout(120)
async def test_four_workers_keep_one_rate(harness: DriverHarness) -> None:
    await run_all(harness, [Rated() for _ in range(3 * STARTS + 5)], STARTED)

    starts = sorted(STARTED)
    most = max(sum(first <= at < first + PER_S for at in starts) for first in starts)
    assert most <= STARTS, f"{most} in a window"


@pytest.mark.timeout(120)
async def test_four_workers_run_so_many_at_once(harness: DriverHarness) -> None:
    await run_all(harness, [AtOnce() for _ in range(60)], ENDED)

    assert 1 < MOST["all"] <= AT_ONCE


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as made:
        (tmp_path / "faulted_app.py").write_text(APPLICATION)
        yield made


def runs_of(place: Place) -> list[list[str]]:
    path = place.folder / "runs"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_a_killed_worker_gives_its_token_back(place: Place) -> None:
    place.dispatch("One:3")
    first = place.worker("--lease", "1", "--quiet")
    second = place.worker("--lease", "1", "--quiet")
    wait_until(lambda: runs_of(place), "one of them runs")
    pid = int(runs_of(place)[0][2])
    holder = first if first.pid == pid else second
    holder.kill()
    holder.wait()

    wait_until(lambda: len(runs_of(place)) >= 2, "the next one runs")

    assert runs_of(place)[1][2] != str(pid)
    assert len(runs_of(place)) == 2
