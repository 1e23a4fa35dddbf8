"""No-op tasks through the real worker, beside a bare loop of the same driver calls, in one run.

    python benchmarks/worker.py [sqlite-full sqlite-normal redis postgres mysql memory] [--tasks 20000] [--rounds 3]

The bare loop calls `turn` with as many settlements as it has leases and runs nothing in between. Both drain the same
messages, encoded by a real dispatch, in turns; the figure to quote is the ratio of the medians. Servers are private
ones, started for the run. One worker process, uvloop.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Driver, Migratable
from asynctasq.drivers.urls import create_driver, sqlite_url
from asynctasq.kernel.messages import Complete, Lease, Settlement
from asynctasq.queue import Queue
from asynctasq.tasks import AsyncTask
from asynctasq.testing.servers import Servers
from asynctasq.utils.loop import run

KINDS = ("memory", "sqlite-full", "sqlite-normal", "redis", "postgres", "mysql")
CONCURRENCIES = (10, 100)


class NoOp(AsyncTask[None]):
    """Does nothing, as fast as a task can."""

    def __init__(self, number: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.number = number

    async def execute(self) -> None:
        """Return."""


async def bare(driver: Driver, limit: int) -> None:
    """Settle and reserve until nothing is left."""
    settlements: list[tuple[Lease, Settlement]] = []
    while True:
        _, leases = await driver.turn(settlements, ["default"], limit=limit, lease_s=30)
        if not leases:
            return
        settlements = [(lease, Complete()) for lease in leases]


async def worker(driver: Driver, concurrency: int) -> None:
    """Run the real worker until nothing is left."""
    settings = WorkerSettings(burst=True, handle_signals=False)
    await Worker(driver, concurrency=concurrency, settings=settings, runtime=ProductionRuntime()).start()


async def timed(
    driver: Driver, tasks: int, drain: Callable[[], Coroutine[Any, Any, None]]
) -> tuple[float, float, float]:
    """Return seconds to dispatch, seconds to drain, and seconds of this process's CPU while draining."""
    started = time.perf_counter()
    await Queue(driver).dispatch([NoOp(number) for number in range(tasks)])
    stored, cpu = time.perf_counter(), time.process_time()
    await drain()
    return stored - started, time.perf_counter() - stored, time.process_time() - cpu


async def measure(kind: str, driver: Driver, *, tasks: int, rounds: int) -> None:
    """Print a line per concurrency."""
    if isinstance(driver, Migratable):
        await driver.migrate()
    for concurrency in CONCURRENCIES:
        bare_s: list[float] = []
        worker_s: list[float] = []
        cpu_s: list[float] = []
        stored_s: list[float] = []
        for _ in range(rounds):
            bare_s.append((await timed(driver, tasks, lambda c=concurrency: bare(driver, c)))[1])
            stored, drained, cpu = await timed(driver, tasks, lambda c=concurrency: worker(driver, c))
            stored_s.append(stored)
            worker_s.append(drained)
            cpu_s.append(cpu)
        bare_rate, rate = tasks / statistics.median(bare_s), tasks / statistics.median(worker_s)
        print(
            f"{kind:<14} c={concurrency:<4} worker {rate:>8,.0f}/s  bare loop {bare_rate:>8,.0f}/s  "
            f"ratio {rate / bare_rate:4.2f}  worker CPU {statistics.median(cpu_s) / tasks * 1e6:5.1f} us/task  "
            f"dispatched in bulk {tasks / statistics.median(stored_s):>8,.0f}/s",
            flush=True,
        )
    await driver.close()


def address(kind: str, servers: Servers, folder: Path) -> str:
    """Return where this kind of driver finds an empty store."""
    match kind:
        case "memory":
            return "memory://"
        case "sqlite-full" | "sqlite-normal":
            return f"{sqlite_url(folder / f'{kind}.db')}?durability={kind.partition('-')[2]}"
        case "redis":
            return servers.redis().url
        case "postgres":
            return servers.postgres().url
        case _:
            return servers.mysql().url


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help=", ".join(KINDS))
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with Servers() as servers, tempfile.TemporaryDirectory() as folder:
        for kind in options.kinds:
            driver = create_driver(address(kind, servers, Path(folder)))
            run(measure(kind, driver, tasks=options.tasks, rounds=options.rounds))


if __name__ == "__main__":
    main()
