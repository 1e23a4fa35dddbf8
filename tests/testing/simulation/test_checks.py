"""What a simulated program promises: predicates are asked, and those that can't be asked are refused in words."""

import gc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asynctasq.testing import Simulation, SimulationFailed, simulate


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(program: Callable[..., Any], runs: int = 3) -> None:
    simulate(runs=runs, faults=())(program)()


async def never() -> bool:
    return False


def never_in_disguise() -> object:
    return never()


def fails_with_a_type_error(program: Callable[..., Any], match: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SimulationFailed, match=match) as caught:
            run(program)
        assert isinstance(caught.value.__cause__, TypeError)
        del caught
        gc.collect()  # a coroutine that nobody closed would be told of now


def test_sometimes_asks_a_predicate() -> None:
    async def program(sim: Simulation) -> None:
        sim.sometimes("never", lambda: False)

    with pytest.raises(AssertionError, match="sometimes 'never'"):
        run(program)


def test_sometimes_is_content_with_a_predicate_that_held_once() -> None:
    async def program(sim: Simulation) -> None:
        sim.sometimes("seed 2", lambda: sim.seed == 2)

    run(program)


@pytest.mark.parametrize("predicate", [never, never_in_disguise])
@pytest.mark.parametrize("promise", ["always", "eventually", "sometimes"])
def test_an_async_predicate_is_refused(promise: str, predicate: Callable[[], object]) -> None:
    async def program(sim: Simulation) -> None:
        getattr(sim, promise)("later", predicate)
        await sim.settle()

    fails_with_a_type_error(program, f"{promise} 'later'.*no `await`")


@pytest.mark.parametrize("promise", ["always", "eventually", "sometimes"])
def test_a_coroutine_in_place_of_a_predicate_is_refused(promise: str) -> None:
    async def program(sim: Simulation) -> None:
        getattr(sim, promise)("later", never())
        await sim.settle()

    fails_with_a_type_error(program, f"{promise} 'later'.*no `await`")


@pytest.mark.parametrize("promise", ["always", "eventually"])
def test_a_value_in_place_of_a_predicate_is_refused(promise: str) -> None:
    async def program(sim: Simulation) -> None:
        getattr(sim, promise)("five", 5)

    fails_with_a_type_error(program, f"{promise} 'five' takes a function.*not 5")


@pytest.mark.parametrize("within", [-5, float("nan"), float("inf"), "5"])
def test_eventually_takes_seconds(within: Any) -> None:
    async def program(sim: Simulation) -> None:
        sim.eventually("soon", lambda: True, within=within)

    with pytest.raises(SimulationFailed, match=r"within must be (a number of|0 or more) seconds"):
        run(program)


@pytest.mark.parametrize("name", ["trouble", "within"])
@pytest.mark.parametrize("value", [-1, float("nan"), "5"])
def test_settle_takes_seconds(name: str, value: Any) -> None:
    async def program(sim: Simulation) -> None:
        await sim.settle(**{name: value})

    with pytest.raises(SimulationFailed, match=f"{name} must be (a number of|0 or more) seconds"):
        run(program)
