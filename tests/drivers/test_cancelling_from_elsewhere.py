"""A task that a worker runs is cancelled by another process: by its wake-up within two seconds, else by the renewal."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from asynctasq import AsyncTask
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Driver
from asynctasq.drivers.urls import create_driver
from asynctasq.queue import Queue
from asynctasq.tasks.application import Application
from asynctasq.testing.conformance.harness import DriverHarness
from asynctasq.testing.conformance.harnesses.mysql import MySQLHarness
from asynctasq.testing.conformance.harnesses.postgres import PostgresHarness
from asynctasq.testing.conformance.harnesses.redis import RedisHarness
from asynctasq.testing.conformance.harnesses.sqlite import SQLiteHarness
from asynctasq.testing.servers import Servers
from tests.patience import SOON_S, patient_s, until

SEEN: list[str] = []
CANCELS_IN_WORDS = """
import asyncio, sys
from asynctasq.results import cancel_task
from asynctasq.drivers.urls import create_driver

async def main():
    driver = create_driver(sys.argv[1])
    await driver.open()
    for line in sys.stdin:
        print((await cancel_task(driver, line.strip())).value, flush=True)
    await driver.close()

asyncio.run(main())
"""


class Sleeps(AsyncTask[None]):
    async def execute(self) -> None:
        SEEN.append("runs")
        await asyncio.sleep(3600)

    async def cancelled(self) -> None:
        SEEN.append("hook")


def address(kind: str, servers: Servers) -> tuple[DriverHarness, str]:
    """Return what keeps the store alive, and its address."""
    match kind:
        case "sqlite":
            sqlite = SQLiteHarness()
            return sqlite, f"sqlite:///{sqlite._path}"
        case "redis":
            redis = RedisHarness(servers.redis())
            return redis, f"{redis._server.url}?namespace={redis._namespace}"
        case "postgres":
            postgres = PostgresHarness(servers.postgres())
            return postgres, postgres.url
        case _:
            mysql = MySQLHarness(servers.mysql())
            return mysql, mysql.url


@asynccontextmanager
async def worker_on(driver: Driver, lease_s: float) -> AsyncIterator[None]:
    settings = WorkerSettings(application=Application(), handle_signals=False, shutdown_timeout_s=0.0, lease_s=lease_s)
    worker = Worker(driver, settings=settings, runtime=ProductionRuntime())
    running = asyncio.create_task(worker.start())
    yield
    worker.stop()
    await running


@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgres", "mysql"])
async def test_a_worker_learns_what_another_process_cancels(kind: str, conformance_servers: Servers) -> None:
    SEEN.clear()
    store, url = address(kind, conformance_servers)
    await store.prepare()
    driver = create_driver(url)
    await driver.open()
    wakes = driver.capabilities.cancels_running.level == "yes"
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CANCELS_IN_WORDS, url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert other.stdin is not None
    assert other.stdout is not None

    async with worker_on(driver, lease_s=30.0 if wakes else 3.0):
        for number in range(3):
            [task_id] = await Queue(driver).dispatch([Sleeps()])
            await until(lambda: SEEN[-1:] == ["runs"])

            other.stdin.write(f"{task_id}\n".encode())
            answer = await asyncio.wait_for(other.stdout.readline(), SOON_S)
            began = time.perf_counter()

            assert answer == b"running\n"
            await until(lambda: SEEN[-1:] == ["hook"])
            assert time.perf_counter() - began < patient_s(2.0), f"cancelled for the time {number + 1}"

    other.stdin.close()
    await asyncio.wait_for(other.wait(), SOON_S)
    await driver.close()
