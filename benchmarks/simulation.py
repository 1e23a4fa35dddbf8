"""How fast simulations are on this machine: `python benchmarks/simulation.py`, one core, best of three."""

import asyncio
import time
from collections.abc import Callable

from asynctasq.tasks import AsyncTask
from asynctasq.testing import FakeQueue
from asynctasq.testing.faults import Faults
from asynctasq.testing.loop import SimulationLoop
from asynctasq.testing.simulation import Simulation
from asynctasq.testing.simulation.run import RunOptions
from asynctasq.testing.simulation.simulation import DEFAULT_FAULTS, explore

REPEATS = 3
DRAINED = 10_000
RUNS = 300
TASKS = 20
HOURS = 365 * 24


class Nothing(AsyncTask[None]):
    """The least a task can do."""

    async def execute(self) -> None:
        return None


class Step(AsyncTask[None]):
    """Takes a virtual second; every fifth fails at first."""

    n: int
    retry_delay = 5

    async def execute(self) -> None:
        await asyncio.sleep(1)
        if self.n % 5 == 0 and self.attempt == 1:
            raise ValueError(self.n)


class Hourly(AsyncTask[None]):
    """Fails every hour of a year."""

    max_attempts = HOURS
    retry_delay = 3600

    async def execute(self) -> None:
        raise ValueError


async def program(sim: Simulation) -> None:
    """What is explored: some tasks, some failures, then quiet."""
    for n in range(TASKS):
        await Step(n=n).dispatch()
    await sim.settle()


def drain() -> float:
    """Return lifecycles per second without faults, dispatch included."""
    with FakeQueue(concurrency=100) as queue:
        started = time.perf_counter()
        for _ in range(DRAINED):
            Nothing().dispatch_sync()
        dispatched = time.perf_counter()
        queue.drain_sync()
        ended = time.perf_counter()
    print(f"    dispatch {DRAINED / (dispatched - started):,.0f}/s, drain {DRAINED / (ended - dispatched):,.0f}/s")
    return DRAINED / (ended - started)


def explored(faults: Faults | tuple[()]) -> float:
    """Return lifecycles per second of real workers under schedules and faults, the ledger judged after each run."""
    started = time.perf_counter()
    seen = explore(program, runs=RUNS, first_seed=1, options=RunOptions(faults=faults))
    return seen.lifecycles / (time.perf_counter() - started)


def year() -> float:
    """Return the seconds that a year of hourly retries takes."""
    with FakeQueue() as queue:
        Hourly().dispatch_sync()
        started = time.perf_counter()
        queue.run_until_idle_sync(virtual_s_max=400 * 86_400)
        return time.perf_counter() - started


def loops() -> float:
    """Return the microseconds to create a loop, run next to nothing and close it."""

    async def nothing() -> None:
        return None

    count = 5_000
    started = time.perf_counter()
    for _ in range(count):
        SimulationLoop().run(nothing())
    return (time.perf_counter() - started) / count * 1e6


def main() -> None:
    def best(measure: Callable[[], float], choose: Callable[..., float]) -> float:
        return choose(measure() for _ in range(REPEATS))

    print(f"loop: create, run, close              {best(loops, min):>10.1f} us (aim 25)")
    print(f"explored, 3 workers, all faults       {best(lambda: explored(DEFAULT_FAULTS), max):>10,.0f} (aim 2,000)")
    print(f"explored, 3 workers, schedules only   {best(lambda: explored(()), max):>10,.0f} lifecycles/s")
    print(f"a year of hourly retries              {best(year, min):>10.2f} s (aim 1)")
    print(f"drained, concurrency 100, no faults   {best(drain, max):>10,.0f} lifecycles/s (aim 20,000)")


if __name__ == "__main__":
    main()
