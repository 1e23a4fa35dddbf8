"""A simulation loop may run inside a test that runs in another loop, pytest-asyncio's for one, and leaves no mark."""

import asyncio
import sys
from datetime import timedelta

import pytest

from asynctasq.testing.errors import Deadlock
from asynctasq.testing.loop import SimulationLoop


async def nested() -> float:
    await asyncio.sleep(3_600)
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert isinstance(loop, SimulationLoop)
    assert task is not None
    assert task.get_loop() is loop
    return loop.time()


async def test_a_run_inside_a_running_loop():
    outer, outer_task = asyncio.get_running_loop(), asyncio.current_task()
    assert not isinstance(outer, SimulationLoop)

    loop = SimulationLoop()
    assert loop.run(nested()) == 3_600

    assert asyncio.get_running_loop() is outer
    assert asyncio.current_task() is outer_task
    async with asyncio.timeout(10):
        await asyncio.sleep(0.001)
        await asyncio.to_thread(int)


async def test_many_runs_of_one_loop_between_steps_of_the_outer_one():
    loop = SimulationLoop()
    seen: list[float] = []

    async def tick() -> None:
        while True:
            await asyncio.sleep(10)
            seen.append(loop.time())

    async def start() -> None:
        loop.ticker = asyncio.create_task(tick())  # type: ignore[attr-defined]

    loop.run_until_complete(start())
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(10.5))
        await asyncio.sleep(0)
    loop.run(asyncio.sleep(0))

    assert seen == [10, 20, 30]


async def test_a_failing_nested_run_restores_the_outer_loop():
    outer, outer_task = asyncio.get_running_loop(), asyncio.current_task()

    with pytest.raises(Deadlock):
        SimulationLoop().run(asyncio.Event().wait())

    assert asyncio.get_running_loop() is outer
    assert asyncio.current_task() is outer_task
    await asyncio.sleep(0)


async def test_the_hooks_for_generators_are_restored():
    before = sys.get_asyncgen_hooks()

    SimulationLoop().run(nested())

    assert sys.get_asyncgen_hooks() == before


def test_simulations_nest_in_each_other():
    outer, inner = SimulationLoop(), SimulationLoop()

    async def main() -> float:
        await asyncio.sleep(1)
        assert inner.run(nested()) == 3_600
        await asyncio.sleep(1)
        return outer.time()

    assert outer.run(main()) == 2
    assert inner.clock.elapsed == timedelta(hours=1)


def test_a_run_outside_of_any_loop_leaves_none():
    SimulationLoop().run(nested())

    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


async def test_the_outer_tasks_context_is_seen_inside_and_kept():
    async with asyncio.timeout(30) as deadline:
        SimulationLoop().run(nested())

    assert not deadline.expired()
