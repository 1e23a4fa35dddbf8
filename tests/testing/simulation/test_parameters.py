"""`@simulate` refuses, where it stands, what it can't run with."""

from typing import Any

import pytest

from asynctasq.testing import Faults, Simulation, simulate
from asynctasq.testing.simulation import explore


async def program(sim: Simulation) -> None:
    raise AssertionError("it must not run")


@pytest.mark.parametrize("name", ["runs", "workers", "concurrency"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "5", True, None])
def test_counts_are_whole_numbers_from_one(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a whole number, 1 or more"):
        simulate(**{name: value})


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "30", None])
def test_a_lease_takes_time(value: Any) -> None:
    with pytest.raises(ValueError, match=r"lease_s must be (a number of|more than 0) seconds"):
        simulate(lease_s=value)


def test_a_search_is_one_of_those_there_are() -> None:
    with pytest.raises(ValueError, match="search must be one of fifo, random, pct, mix, not 'all'"):
        simulate(search="all")  # type: ignore[call-overload]


@pytest.mark.parametrize("value", [None, 0.1, "crash", ["crash"]])
def test_faults_are_faults(value: Any) -> None:
    with pytest.raises(TypeError, match="faults= takes"):
        simulate(faults=value)


def test_one_plan_of_chance_is_enough() -> None:
    with pytest.raises(ValueError, match="one Faults"):
        simulate(faults=[Faults(crash=0.1), Faults(stop=0.1)])


def test_exploring_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="runs must be a whole number, 1 or more, not 0"):
        explore(program, runs=0)
