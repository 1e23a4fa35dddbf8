"""complete_in under kill -9: whatever the instant, the count of effects is the count of tasks."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asynctasq.drivers.base import Driver
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.drivers.urls import create_driver
from asynctasq.queue import Queue
from asynctasq.testing.conformance.harnesses.mysql import MySQLHarness
from asynctasq.testing.conformance.harnesses.postgres import PostgresHarness
from asynctasq.testing.servers import Servers
from tests.faults.exactly_once_app import Effect, MayRepeat, open_database
from tests.patience import SOON_S, patient_s, until

ROOT = Path(__file__).parents[2]
POINTS = (
    "start",
    "before begin",
    "begin sent",
    "begin unread",
    "after begin",
    "write sent",
    "after a write",
    "in the block",
    "write in the block sent",
    "end of the block",
    "settle sent",
    "settle unread",
    "settled",
    "late write sent",
    "late write unread",
    "before commit",
    "commit sent",
    "commit unread",
    "after commit",
    "before return",
)
# An attempt takes some milliseconds: these strike anywhere in it, differently in every run.
DELAYS = tuple(f"delay:{random.uniform(0, 0.025):.5f}" for _ in range(10))
TASKS_PER_POINT = 3


@pytest.fixture(params=["sqlite", "postgres", "mysql"])
async def url(request: pytest.FixtureRequest, conformance_servers: Servers, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'app.db'}"
        driver = SQLiteDriver(tmp_path / "app.db")
        await driver.open()
        await driver.close()
        await make_tables(url)
        yield url
        return
    make = PostgresHarness if request.param == "postgres" else MySQLHarness
    harness: Any = make(conformance_servers.get(request.param))
    await harness.prepare()
    await make_tables(harness.url)
    yield harness.url
    await harness.clean_up()


async def make_tables(url: str) -> None:
    database = await open_database(url)
    for statement in (
        "CREATE TABLE effect (number INT)",
        "CREATE TABLE counter (n INT, late INT)",
        "INSERT INTO counter VALUES (0, 0)",
    ):
        await database.run(statement)
    if not url.startswith("postgresql"):
        await database.commit()
    await database.close()


async def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    database = await open_database(url)
    try:
        if url.startswith("postgresql"):
            return [tuple(row) for row in await database.connection.fetch(statement)]
        async with database.connection.cursor() as cursor:
            await cursor.execute(statement)
            return [tuple(row) for row in await cursor.fetchall()]
    finally:
        await database.close()


@contextmanager
def worker(url: str, failpoint: str = "") -> Iterator["subprocess.Popen[bytes]"]:
    """Run a worker process; it is killed at the end if it still runs."""
    command = [sys.executable, "-m", "asynctasq", "worker", "--app", "tests.faults.exactly_once_app", "--driver", url]
    process = subprocess.Popen(
        [*command, "--lease", "1", "--concurrency", "1", "--quiet", "--log-level", "ERROR"],
        cwd=ROOT,
        env={**os.environ, "EFFECTS_URL": url, "FAILPOINT": failpoint},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


async def is_empty(driver: Driver) -> bool:
    depth = await driver.depth("default")
    assert depth.dead == 0
    return depth.ready + depth.scheduled + depth.reserved == 0


async def test_the_count_of_effects_is_the_count_of_tasks_wherever_workers_are_killed(url: str) -> None:
    driver = create_driver(url)
    killed = 0

    for index, failpoint in enumerate(POINTS + DELAYS):
        numbers = range(index * TASKS_PER_POINT, (index + 1) * TASKS_PER_POINT)
        await Queue(driver).dispatch([Effect(number=number) for number in numbers])
        with worker(url, failpoint) as process:
            assert process.wait(timeout=SOON_S) == -signal.SIGKILL, failpoint
            killed += 1
    with worker(url):
        await until(lambda: is_empty(driver), within_s=patient_s(60))

    tasks = (len(POINTS) + len(DELAYS)) * TASKS_PER_POINT
    found = Counter(number for (number,) in await rows(url, "SELECT number FROM effect"))
    assert killed == len(POINTS) + len(DELAYS)
    assert found == dict.fromkeys(range(tasks), 1), DELAYS
    assert await rows(url, "SELECT n, late FROM counter") == [(tasks, tasks)]
    await driver.close()


@pytest.mark.parametrize("failpoint", ["commit unread", "after commit", "before return"])
async def test_without_it_the_same_kill_repeats_the_effect(url: str, failpoint: str) -> None:
    driver = create_driver(url)
    await Queue(driver).dispatch([MayRepeat(number=number) for number in range(3)])

    with worker(url, failpoint) as process:
        assert process.wait(timeout=SOON_S) == -signal.SIGKILL
    with worker(url):
        await until(lambda: is_empty(driver), within_s=patient_s(60))

    found = Counter(number for (number,) in await rows(url, "SELECT number FROM effect"))
    assert sorted(found.values()) == [1, 1, 2]
    await driver.close()
