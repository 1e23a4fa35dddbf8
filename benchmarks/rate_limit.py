"""How exact a rate limit is, and how close to its number: RateLimit(100, per=1) with four worker processes.

    python benchmarks/rate_limit.py [sqlite redis postgres mysql] [--tasks 1000] [--concurrency 10]

Each start is noted by the process that runs it, with the clock that all processes of a machine share. Printed are the
largest number of starts in any window of a second, and starts a second from the first to the last. Servers are private
ones, started for the run.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from bisect import bisect_left
from pathlib import Path

from asynctasq import AsyncTask
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.urls import create_driver
from asynctasq.limits import RateLimit
from asynctasq.queue import Queue
from asynctasq.testing.conformance.harnesses import mysql, postgres, redis, sqlite
from asynctasq.testing.servers import Servers

KINDS = {
    "sqlite": sqlite.make_harness,
    "redis": redis.make_harness,
    "postgres": postgres.make_harness,
    "mysql": mysql.make_harness,
}
COUNT, WORKERS = 100, 4


class Rated(AsyncTask[None]):
    """Notes when it starts."""

    limits = [RateLimit("benchmark", COUNT, per=1)]

    async def execute(self) -> None:
        """Append the time to the file that all share."""
        file = os.open(os.environ["RATE_LIMIT_STARTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{time.monotonic()!r}\n".encode())
        os.close(file)


async def work(url: str, concurrency: int) -> None:
    """Run one worker until it is stopped."""
    await Worker(
        create_driver(url), concurrency=concurrency, settings=WorkerSettings(schedules=()), runtime=ProductionRuntime()
    ).start()


async def measure(kind: str, servers: Servers, tasks: int, concurrency: int) -> None:
    """Run the tasks on one backend and print what came of it."""
    harness = KINDS[kind](servers)
    await harness.prepare()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "starts"
        path.touch()
        environment = {**os.environ, "RATE_LIMIT_STARTS": str(path)}
        command = [sys.executable, "-m", "benchmarks.rate_limit", "--work", harness.address()]
        workers = [
            await asyncio.create_subprocess_exec(*command, "--concurrency", str(concurrency), env=environment)
            for _ in range(WORKERS)
        ]
        driver = create_driver(harness.address())
        await Queue(driver).dispatch([Rated() for _ in range(tasks)])
        await driver.close()
        while len(path.read_text().splitlines()) < tasks:
            await asyncio.sleep(0.2)
        for worker in workers:
            worker.terminate()
        await asyncio.gather(*(worker.wait() for worker in workers))
        starts = sorted(map(float, path.read_text().splitlines()))
    await harness.clean_up()
    most = max(bisect_left(starts, at + 1.0) - index for index, at in enumerate(starts))
    rate = (len(starts) - COUNT) / (starts[-1] - starts[0])
    print(f"{kind:<10} most in a second: {most:>4}   starts a second after the first {COUNT}: {rate:6.1f}", flush=True)


def main() -> None:
    """Measure on the backends that are named, or on all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=10)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        asyncio.run(work(options.work, options.concurrency))
        return
    with Servers() as servers:
        for kind in options.kinds:
            asyncio.run(measure(kind, servers, options.tasks, options.concurrency))


if __name__ == "__main__":
    main()
