"""What measures the machines: what no example reaches is named."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition

from property_tests.reached import MeasuredMachine, explore, goes_red, step


class Counter(MeasuredMachine):
    branches = frozenset({"large", "beyond all"})

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    @step(number=st.integers(0, 9))
    def add(self, number: int) -> None:
        self.total += number
        self.reach("large", self.total > 9)
        self.reach("beyond all", self.total > 10**6)

    @step()
    @precondition(lambda self: self.total < 0)
    def never_possible(self) -> None: ...


class Broken(MeasuredMachine):
    @step(number=st.integers(0, 9))
    def fail_at_seven(self, number: int) -> None:
        assert number != 7


class Misspelt(MeasuredMachine):
    branches = frozenset({"right"})

    @step()
    def go(self) -> None:
        self.reach("rihgt", False)


def test_rules_and_branches_that_no_example_reached_are_named() -> None:
    with pytest.raises(AssertionError, match=r"never reached.*: beyond all, never_possible;"):
        explore(Counter, examples=20, steps=10)

    assert Counter.seen["add"] >= 20
    assert Counter.seen["large"] >= 1


def test_the_same_is_reached_every_time() -> None:
    def seen() -> dict[str, int]:
        with pytest.raises(AssertionError):
            explore(Counter, examples=20, steps=10)
        return dict(Counter.seen)

    assert seen() == seen()


def test_a_branch_that_was_not_declared_is_an_error() -> None:
    assert "'rihgt' is not among the branches of Misspelt" in str(goes_red(Misspelt, examples=1, steps=1))


def test_a_machine_that_finds_something_is_red() -> None:
    assert isinstance(goes_red(Broken, examples=50, steps=10), AssertionError)
    assert goes_red(Counter, examples=5, steps=5) is None
