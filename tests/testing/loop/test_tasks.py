"""Tasks of a simulation loop: numbered in order of creation, whoever makes them."""

import asyncio
from typing import Any

import pytest

from asynctasq.testing.loop import SimulationLoop
from asynctasq.testing.tape import Tape


@pytest.fixture(params=["in order", "random"])
def loop(request: pytest.FixtureRequest):
    loop = SimulationLoop() if request.param == "in order" else SimulationLoop(Tape(5), search="random")
    yield loop
    if not loop.is_closed():
        loop.close()


def test_default_names_count_from_one_in_every_loop(loop: SimulationLoop):
    async def main() -> list[str]:
        tasks = [asyncio.create_task(asyncio.sleep(0)), asyncio.create_task(asyncio.sleep(0), name="mine")]
        await asyncio.gather(*tasks)
        return [task.get_name() for task in tasks]

    assert loop.run(main()) == ["Task-2", "mine"]


def test_a_set_of_tasks_is_in_order_of_creation(loop: SimulationLoop):
    async def main() -> None:
        ballast = [bytearray(index * 37) for index in range(50)]
        tasks = []
        for index in range(7):
            ballast.append(bytearray(1_000 * index))
            tasks.append(asyncio.create_task(asyncio.sleep(index)))
        done, pending = await asyncio.wait(tasks, timeout=100)
        assert not pending
        assert [task for task in done if task] == tasks
        assert len(ballast) == 57

    loop.run(main())


def test_a_foreign_task_factory_is_honoured(loop: SimulationLoop):
    class Mine(asyncio.Task):
        pass

    async def main() -> None:
        loop.set_task_factory(lambda loop, coro, **options: Mine(coro, loop=loop, **options))
        task = asyncio.create_task(asyncio.sleep(1, "mine"))
        others = [asyncio.create_task(asyncio.sleep(0)) for _ in range(5)]
        assert isinstance(task, Mine)
        assert await task == "mine"
        await asyncio.gather(*others)

    loop.run(main())


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="eager tasks came with Python 3.12")
def test_eager_tasks_work(loop: SimulationLoop):
    async def main() -> None:
        loop.set_task_factory(asyncio.eager_task_factory)
        done = asyncio.create_task(_returns(5))
        assert done.done()
        assert await done == 5
        await asyncio.create_task(asyncio.sleep(1))

    loop.run(main())


async def _returns(value: int) -> int:
    return value


def test_asyncios_python_tasks_are_chosen_among_too():
    python_task: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]

    def order(tape: Tape) -> list[int]:
        loop = SimulationLoop(tape, search="random")
        seen: list[int] = []

        async def step(number: int) -> None:
            await asyncio.sleep(0)
            seen.append(number)

        async def main() -> None:
            loop.set_task_factory(lambda loop, coro, **options: python_task(coro, loop=loop, **options))
            await asyncio.gather(*(step(number) for number in range(6)))

        loop.run(main())
        return seen

    orders = [order(Tape(seed)) for seed in range(8)]

    assert orders[0] == list(range(6))
    assert len({tuple(found) for found in orders}) > 4
    assert orders == [order(Tape(seed)) for seed in range(8)]
