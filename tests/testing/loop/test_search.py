"""What each search finds, and that it chooses only what may be chosen."""

import asyncio
from collections.abc import Callable

import pytest

from asynctasq.testing.loop import Search, SimulationLoop
from asynctasq.testing.loop.search import PriorityBased, RandomOrder, make_scheduler
from asynctasq.testing.tape import Tape


def order_of_steps(tape: Tape, search: Search, *, tasks: int = 4) -> tuple[int, ...]:
    seen: list[int] = []

    async def step(number: int) -> None:
        seen.append(number)

    async def main() -> None:
        await asyncio.gather(*(step(number) for number in range(tasks)))

    SimulationLoop(tape, search=search).run(main())
    return tuple(seen)


@pytest.mark.parametrize("search", ["random", "pct", "mix"])
def test_every_order_of_four_tasks_is_found(search: Search):
    orders = {order_of_steps(Tape(seed), search) for seed in range(1, 900)}

    assert len(orders) == 24


def test_first_in_line_has_one_order_whatever_the_seed():
    assert {order_of_steps(Tape(seed), "fifo") for seed in range(20)} == {(0, 1, 2, 3)}


def test_mix_takes_each_search_for_some_seeds():
    kinds = [type(make_scheduler("mix", Tape(seed))) for seed in range(1, 200)]

    assert 20 < kinds.count(type(None)) < 70
    assert kinds.count(RandomOrder) > 50
    assert kinds.count(PriorityBased) > 50


def test_an_unknown_search_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="fifo, random, pct, mix"):
        SimulationLoop(search="exhaustive")  # type: ignore[arg-type]


async def check_then_act() -> bool:
    """One preemption at the right place breaks it."""
    stock, sold = 1, 0

    async def buy() -> None:
        nonlocal stock, sold
        await asyncio.sleep(0)
        if stock > 0:
            await asyncio.sleep(0)
            stock -= 1
            sold += 1

    async def pause_and_buy() -> None:
        for _ in range(6):
            await asyncio.sleep(0)
        await buy()

    await asyncio.gather(buy(), pause_and_buy())
    return sold <= 1


async def starved_writer() -> bool:
    """Breaks when one task waits while the other runs through many steps."""
    log: list[str] = []

    async def reader() -> None:
        log.append("start")
        for _ in range(12):
            await asyncio.sleep(0)
        log.append("read")

    async def writer() -> None:
        for _ in range(2):
            await asyncio.sleep(0)
        log.append("write")

    await asyncio.gather(reader(), writer())
    return log.index("write") < log.index("read")


def first_seed(program: Callable, search: Search, limit: int = 1_000) -> int | None:
    for seed in range(1, limit):
        if not SimulationLoop(Tape(seed), search=search).run(program()):
            return seed
    return None


@pytest.mark.parametrize("program", [check_then_act, starved_writer])
def test_first_in_line_never_finds_what_needs_another_order(program: Callable):
    assert first_seed(program, "fifo", 20) is None


@pytest.mark.parametrize(
    ("program", "search", "within"),
    [
        (check_then_act, "random", 100),
        (check_then_act, "pct", 100),
        (check_then_act, "mix", 100),
        (starved_writer, "pct", 50),
        (starved_writer, "mix", 100),
    ],
)
def test_races_are_found_within_a_hundred_seeds(program: Callable, search: Search, within: int):
    found = first_seed(program, search)

    assert found is not None
    assert found <= within


def test_callbacks_are_never_overtaken_by_a_younger_step_and_never_reordered():
    for seed in range(60):
        seen: list[str] = []

        async def step(number: int, seen: list[str] = seen) -> None:
            loop = asyncio.get_running_loop()
            loop.call_soon(seen.append, f"callback {len(seen)}")
            seen.append(f"step {number}")
            await asyncio.sleep(0)

        async def main() -> None:
            await asyncio.gather(*(step(number) for number in range(5)))

        SimulationLoop(Tape(seed), search="random").run(main())
        callbacks = [int(entry.split()[1]) for entry in seen if entry.startswith("callback")]
        assert callbacks == sorted(callbacks)
        assert len(seen) == 10


def test_priorities_are_drawn_once_per_task_and_zero_is_urgent():
    tape = Tape.replay([("pct.rank", 16, 5)], strict=False)
    scheduler = PriorityBased(tape)

    assert scheduler.choose([1, 2, 3]) == 1
    assert scheduler.choose([1, 3]) == 1
    assert scheduler.choose([1, 2]) == 1


def test_a_change_point_makes_the_running_task_least_urgent():
    tape = Tape.replay([("pct.change", 2, 1)], strict=False)
    scheduler = PriorityBased(tape)

    assert scheduler.choose([1, 2]) == 1
    assert scheduler.choose([1, 2]) == 1
    assert scheduler.choose([2, 1]) == 0
