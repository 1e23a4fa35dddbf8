"""Every planted defect is found, and nothing is found where none is planted."""

import logging
import math
from collections.abc import Iterator

import pytest

from tests.mutants.hunt import clean, hunt
from tests.mutants.planting import planted
from tests.mutants.table import MUTANTS, SURVIVORS

FOUND = [name for name in MUTANTS if name not in SURVIVORS]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of planned mishaps are no news."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUND)
def test_a_planted_defect_is_found(name: str) -> None:
    assert hunt(name, seconds=math.inf, smallest=False) is not None, MUTANTS[name].breaks


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 120, 30))
def test_nothing_is_found_in_the_product_as_it_is(first: int) -> None:
    finding = clean(range(first, first + 30))
    assert finding is None, f"{finding.case} seed {finding.seed}: {finding.text}\n{finding.timeline}"


def test_a_defect_is_gone_when_its_block_ends() -> None:
    for mutant in MUTANTS.values():
        before = [vars(change.owner)[change.name] for change in mutant.changes]
        with planted(mutant):
            assert [vars(change.owner)[change.name] for change in mutant.changes] != before
        assert [vars(change.owner)[change.name] for change in mutant.changes] == before


def test_the_survivors_are_few_and_explained() -> None:
    assert set(SURVIVORS) <= set(MUTANTS)
    assert len(SURVIVORS) <= len(MUTANTS) * 0.05
    assert len(MUTANTS) >= 150
    assert sum(bool(mutant.recorded) for mutant in MUTANTS.values()) >= 10
