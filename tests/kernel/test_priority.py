"""The levels of priority: which come first, how no level waits for ever, and what is no level."""

from collections import Counter

import pytest

from asynctasq.errors import DispatchError
from asynctasq.kernel.priority import PRIORITIES, check_priority, claim_order


def test_most_claims_go_from_high_to_low() -> None:
    assert claim_order(0) == ("high", "normal", "low")
    assert Counter(map(claim_order, range(20)))["high", "normal", "low"] == 18


def test_the_tenth_claim_begins_with_normal_and_the_twentieth_with_low() -> None:
    assert claim_order(9) == ("normal", "high", "low")
    assert claim_order(19) == ("low", "high", "normal")
    assert [claim_order(count) for count in range(20)] == [claim_order(count) for count in range(20, 40)]


def test_every_claim_takes_each_level_once() -> None:
    assert all(sorted(claim_order(count)) == sorted(PRIORITIES) for count in range(40))


@pytest.mark.parametrize("level", PRIORITIES)
def test_a_level_is_accepted(level: str) -> None:
    assert check_priority(level) == level


@pytest.mark.parametrize("value", ["urgent", "", "HIGH", 1, 0, None, True, ["high"], "x" * 10_000])
def test_what_is_no_level_is_refused_in_a_line(value: object) -> None:
    with pytest.raises(DispatchError, match="must be one of low, normal, high") as caught:
        check_priority(value)
    assert len(str(caught.value)) < 300
