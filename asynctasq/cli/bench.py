"""`asynctasq bench`: how fast the configured backend stores and runs tasks that do nothing, from this machine."""

import asyncio
import secrets
import statistics
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from asynctasq.cli.application import prepare_application
from asynctasq.cli.bench_tasks import Nothing, listeners
from asynctasq.cli.operating import say, say_json, say_table
from asynctasq.clock import SystemClock
from asynctasq.config import Settings
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.setup import signing_key_bytes
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Driver, Inspectable
from asynctasq.errors import DriverError, DriverUnavailable, UnsupportedFeature
from asynctasq.kernel.texts import printable
from asynctasq.queue import MessageFactory, Queue
from asynctasq.tasks.application import Application
from asynctasq.utils.loop import run

__all__ = ["Figures", "measured", "run_bench"]

ONE_BY_ONE_MAX = 200
BATCH = 500
LATENCIES = 50
LATENCY_S_MAX = 30.0
"""How long one task may take from its dispatch to its run before the backend counts as out of order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured: tasks a second, and milliseconds from a dispatch to the run by an idle worker."""

    dispatched_per_s: float
    dispatched_in_batches_per_s: float
    run_per_s: float
    latency_p50_ms: float
    latency_p99_ms: float


def run_bench(given: Mapping[str, Any], *, tasks: int, as_json: bool) -> None:
    """Measure, and write a table or one JSON object. What it stores is in a queue of its own, and removed.

    Raises: ConfigError, DriverError.
    """
    prepared = prepare_application(given)
    settings, setup = prepared.settings, prepared.setup
    driver = setup.driver(settings.driver)
    figures = run(measured(driver, settings, setup.queue.factory, tasks=tasks))
    if as_json:
        facts = {"driver": str(driver), "tasks": tasks, "concurrency": settings.concurrency}
        say_json({**facts, **{name: round(value, 3) for name, value in asdict(figures).items()}})
        return
    say(f"{printable(str(driver))}, {tasks:,} tasks that do nothing, {settings.concurrency} at once\n")
    say_table(
        ("what", "here"),
        [
            ("dispatched one by one", f"{figures.dispatched_per_s:,.0f}/s"),
            (f"dispatched {BATCH} at a time", f"{figures.dispatched_in_batches_per_s:,.0f}/s"),
            ("run by one worker", f"{figures.run_per_s:,.0f}/s"),
            ("from dispatch to run, worker idle, median", f"{figures.latency_p50_ms:,.1f} ms"),
            ("the slowest of a hundred", f"{figures.latency_p99_ms:,.1f} ms"),
        ],
    )


async def measured(driver: Driver, settings: Settings, factory: MessageFactory, *, tasks: int) -> Figures:
    """Measure with so many tasks; what is stored is removed, and the driver closed.

    Raises: UnsupportedFeature for a driver whose queues can't be emptied, DriverError.
    """
    if not (driver.capabilities.inspects and isinstance(driver, Inspectable)):
        raise UnsupportedFeature(f"{driver} would be left with a queue of this measurement, so it is not measured")
    name = f"asynctasq.bench.{secrets.token_hex(4)}"
    try:
        figures = await _Bench(driver, settings, factory, name).figures(tasks)
    except BaseException:
        with suppress(DriverError):  # the first error is the one to tell
            await driver.purge(name)
        raise
    else:
        await driver.purge(name)
        return figures
    finally:
        await driver.close()


class _Bench:
    """Measures on one queue."""

    def __init__(self, driver: Driver, settings: Settings, factory: MessageFactory, name: str) -> None:
        self._driver = driver
        self._settings = settings
        self._name = name
        self._queue = Queue(driver, factory=factory)
        self._clock = SystemClock()
        self._stored = 0

    async def figures(self, tasks: int) -> Figures:
        """Measure with so many tasks."""
        one_by_one = await self.dispatched_per_s(min(tasks, ONE_BY_ONE_MAX), at_once=1)
        in_batches = await self.dispatched_per_s(tasks, at_once=BATCH)
        run_per_s = await self.run_per_s()
        latencies = await self.latencies_ms(LATENCIES)
        return Figures(
            dispatched_per_s=one_by_one,
            dispatched_in_batches_per_s=in_batches,
            run_per_s=run_per_s,
            latency_p50_ms=statistics.median(latencies),
            latency_p99_ms=statistics.quantiles(latencies, n=100, method="inclusive")[-1],
        )

    async def dispatched_per_s(self, count: int, *, at_once: int) -> float:
        """Return how many tasks a second are stored, so many in each call."""
        started = self._clock.monotonic()
        for first in range(0, count, at_once):
            size = min(at_once, count - first)
            await self._queue.dispatch([Nothing().on_queue(self._name) for _ in range(size)])
        self._stored += count
        return count / (self._clock.monotonic() - started)

    async def run_per_s(self) -> float:
        """Return how many tasks a second a worker runs, of all that are stored."""
        started = self._clock.monotonic()
        await self._worker(burst=True).start()
        return self._stored / (self._clock.monotonic() - started)

    async def latencies_ms(self, count: int) -> list[float]:
        """Return how long each of some tasks takes from its dispatch to its run, one after the other."""
        ran = asyncio.Event()
        listeners.append(ran.set)
        found: list[float] = []
        try:
            async with self._working():
                for _ in range(count + 1):
                    ran.clear()
                    started = self._clock.monotonic()
                    await self._queue.dispatch([Nothing().on_queue(self._name)])
                    await asyncio.wait_for(ran.wait(), LATENCY_S_MAX)
                    found.append((self._clock.monotonic() - started) * 1000)
        except TimeoutError:
            text = f"{self._driver} has given a worker no task for {LATENCY_S_MAX:g} s that was dispatched"
            raise DriverUnavailable(text) from None
        finally:
            listeners.remove(ran.set)
        return found[1:]  # the worker may have started during the first

    @asynccontextmanager
    async def _working(self) -> AsyncGenerator[None]:
        worker = self._worker(burst=False)
        running = asyncio.create_task(worker.start())
        try:
            yield
        finally:
            worker.stop()
            await running

    def _worker(self, *, burst: bool) -> Worker:
        settings = self._settings
        return Worker(
            self._driver,
            self._name,
            settings.concurrency,
            settings=WorkerSettings(
                application=Application((Nothing.__module__,)),
                signing_keys=signing_key_bytes(settings),
                lease_s=settings.lease_s,
                burst=burst,
                schedules=(),
                middleware=(),
                lifespans=(),
            ),
            runtime=ProductionRuntime(),
        )
