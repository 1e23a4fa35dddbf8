"""How fast the simulation loop is, beside asyncio's own; run it as `python benchmarks/simulation_loop.py [--profile]`.

Times are CPU seconds of this process, the best of several rounds, so that a busy machine matters less.
"""

import asyncio
import cProfile
import pstats
import sys
import time
from collections.abc import Callable
from typing import Any

from asynctasq.testing.loop import SimulationLoop
from asynctasq.testing.tape import Tape

ROUNDS = 5
SEARCHES: dict[str, dict[str, Any]] = {
    "in order (seed 0)": {},
    "in order, traced": {"trace": True},
    "random": {"search": "random"},
    "by priority": {"search": "pct"},
}


async def nothing() -> None:
    pass


async def sleeper(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(1)


async def sleepers(tasks: int, times: int) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(sleeper(times))


async def yielder(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def yielders(tasks: int, times: int) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(yielder(times))


async def short_tasks(times: int) -> None:
    for _ in range(times):
        await asyncio.create_task(nothing())


async def handoffs(times: int) -> None:
    there: asyncio.Queue[int] = asyncio.Queue()
    back: asyncio.Queue[int] = asyncio.Queue()

    async def echo() -> None:
        for _ in range(times):
            await back.put(await there.get())

    async with asyncio.TaskGroup() as group:
        group.create_task(echo())
        for number in range(times):
            await there.put(number)
            await back.get()


async def timeouts(times: int) -> None:
    for _ in range(times):
        async with asyncio.timeout(30):
            await asyncio.sleep(0)


async def inline_calls(times: int) -> None:
    for _ in range(times):
        await asyncio.to_thread(int)


async def hourly_for_a_year() -> None:
    await sleeper(24 * 365)


PROGRAMS: dict[str, tuple[Callable[[], Any], int]] = {
    "timer wakes, 100 tasks": (lambda: sleepers(100, 300), 30_000),
    "steps by sleep(0), 100 tasks": (lambda: yielders(100, 300), 30_000),
    "tasks made and awaited": (lambda: short_tasks(10_000), 10_000),
    "queue round trips": (lambda: handoffs(10_000), 10_000),
    "timeouts set and left": (lambda: timeouts(10_000), 10_000),
    "inline to_thread calls": (lambda: inline_calls(10_000), 10_000),
}


def best_of(run: Callable[[], object]) -> float:
    times: list[float] = []
    for _ in range(ROUNDS):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return min(times)


def on_asyncio(program: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(program())


def throughput() -> None:
    columns = [*SEARCHES, "asyncio"]
    print(f"{'per second':32}" + "".join(f"{column:>20}" for column in columns))
    for name, (program, count) in PROGRAMS.items():
        cells: list[str] = []
        for options in SEARCHES.values():
            seed = 7 if "search" in options else 0
            spent = best_of(
                lambda program=program, seed=seed, options=options: SimulationLoop(Tape(seed), **options).run(program())
            )
            cells.append(f"{count / spent:>20,.0f}")
        if "timer" in name or "to_thread" in name:
            cells.append(f"{'-':>20}")
        else:
            cells.append(f"{count / best_of(lambda program=program: on_asyncio(program)):>20,.0f}")
        print(f"{name:32}" + "".join(cells))


def small_costs() -> None:
    print("\nmicroseconds each")
    tape, zero = Tape(7), Tape(0)
    rows: dict[str, tuple[Callable[[], object], int]] = {
        "create, run and close a loop": (lambda: SimulationLoop().run(nothing()), 2_000),
        "the same, asyncio.run": (lambda: asyncio.run(nothing()), 500),
        "tape.draw": (lambda: tape.draw("x", 10), 100_000),
        "tape.chance": (lambda: tape.chance("x", 0.05), 100_000),
        "tape.bytes16": (lambda: tape.bytes16("x"), 100_000),
        "seed 0: draw": (lambda: zero.draw("x", 10), 100_000),
        "an hourly timer for a year": (lambda: SimulationLoop().run(hourly_for_a_year()), 1),
    }
    for name, (use, count) in rows.items():
        spent = best_of(lambda use=use, count=count: [use() for _ in range(count)])
        print(f"{name:32}{spent / count * 1e6:>20,.2f}")


def profiled() -> None:
    profile = cProfile.Profile()
    profile.runcall(lambda: SimulationLoop().run(sleepers(100, 300)))
    pstats.Stats(profile).sort_stats("tottime").print_stats(14)


if __name__ == "__main__":
    print(f"Python {sys.version.split()[0]}")
    throughput()
    small_costs()
    if "--profile" in sys.argv:
        profiled()
