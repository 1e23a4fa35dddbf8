"""Runs a real worker on a real driver until nothing is visible any more, in the loop of a test."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from asynctasq.clock import Clock
from asynctasq.core.django_databases import current_databases
from asynctasq.core.lanes.lanes import Lanes
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings, worker_lanes
from asynctasq.core.task_factory import TaskFactory
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Driver
from asynctasq.kernel.ledger import Entry
from asynctasq.tasks.application import Application
from asynctasq.testing.engine import Surroundings
from asynctasq.testing.errors import LimitExceeded
from asynctasq.testing.loop.report import describe_task
from asynctasq.testing.loop.waits import runs_application_code

__all__ = ["BurstOptions", "Bursts"]

END_S_MAX = 15.0
"""How long a worker that is stopped at once may take, in real seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstOptions:
    """What the workers are like. `address` returns the driver's URL, for child processes; "" if there is none.

    `surroundings` are what dispatches, attempts and workers have around them.
    """

    concurrency: int
    lease_s: float
    real_s_max: float
    address: Callable[[], str]
    surroundings: Surroundings


@dataclass(slots=True, kw_only=True)
class _TestRuntime(ProductionRuntime):
    """Threads, child processes and the lease thread of a worker in production; children use what the test uses."""

    address: Callable[[], str]

    def lanes(self, settings: WorkerSettings, task_factory: TaskFactory, *, threads: int) -> Lanes:  # noqa: ARG002
        return worker_lanes(settings, threads, databases=current_databases(), driver=self.address())


class Bursts:
    """Starts one worker after the other, each until nothing is visible to it."""

    def __init__(self, driver: Driver, options: BurstOptions, *, clock: Clock, record: Callable[[Entry], None]) -> None:
        self._driver = driver
        self._options = options
        self._clock = clock
        self._record = record
        self._rng = random.Random()
        self._count = 0
        self._deadline = 0.0

    def begin(self) -> None:
        """Begin to count the real seconds that one call of the test may take."""
        self._deadline = self._clock.monotonic() + self._options.real_s_max

    async def run(self, queues: Sequence[str] | str, *, limit: int | None = None) -> None:
        """Run a worker until nothing of these queues is visible, or `limit` attempts have ended.

        Raises: LimitExceeded, naming the lines at which tasks are, if the call takes too long.
        """
        before = asyncio.all_tasks()
        worker = self._worker(queues, limit)
        running = asyncio.get_running_loop().create_task(worker.start(), name=f"worker {worker.name}")
        try:
            await asyncio.wait([running], timeout=max(0.0, self._deadline - self._clock.monotonic()))
        except asyncio.CancelledError:  # the test's: what runs for it ends with it
            await _end(worker, running)
            raise
        if not running.done():
            error = self._too_long(asyncio.all_tasks() - before)
            await _end(worker, running)
            raise error
        running.result()

    def _worker(self, queues: Sequence[str] | str, limit: int | None) -> Worker:
        self._count += 1
        runtime = _TestRuntime(
            clock=self._clock,
            rng=self._rng,
            name=f"w{self._count}",
            record=self._record,
            address=self._options.address,
        )
        settings = WorkerSettings(
            application=Application(),
            lease_s=self._options.lease_s,
            shutdown_timeout_s=0.0,
            end_timeout_s=END_S_MAX / 2,
            burst=True,
            handle_signals=False,
            fetch_values=True,
            schedules=(),
            middleware=self._options.surroundings.middleware(),
            lifespans=self._options.surroundings.lifespans(),
        )
        return Worker(
            self._driver, queues, self._options.concurrency, max_tasks=limit, settings=settings, runtime=runtime
        )

    def _too_long(self, tasks: "set[asyncio.Task[Any]]") -> LimitExceeded:
        at_work = [task for task in tasks if runs_application_code(task)] or list(tasks)
        listed = "\n  ".join(sorted(describe_task(task) for task in at_work))
        return LimitExceeded(
            f"this does not end: it took {self._options.real_s_max:g} s of real time. Time limits, sleeps and servers "
            "are real on a real driver; a task that dispatches itself for ever has no end: drain(limit=...). "
            "What runs:\n"
            f"  {listed}"
        )


async def _end(worker: Worker, running: "asyncio.Task[None]") -> None:
    """Stop the worker at once: what runs is cancelled and handed back."""
    worker.stop(immediate=True)
    await asyncio.wait([running], timeout=END_S_MAX)
    if not running.done():
        running.cancel()
        await asyncio.wait([running], timeout=END_S_MAX)
    elif not running.cancelled():
        running.exception()  # retrieved: why the worker was stopped is the error to report
