"""What a running attempt may say of its progress."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynctasq.kernel.messages import PROGRESS_CHARS_MAX, Progress, checked_progress

NUMBERS = st.integers(0, 10**17) | st.floats(0, 1e17)


@given(NUMBERS, NUMBERS, st.text(max_size=PROGRESS_CHARS_MAX))
def test_a_progress_comes_back_from_its_text(one: float, other: float, text: str) -> None:
    progress = checked_progress(min(one, other), max(one, other), text)

    assert Progress.from_json(progress.to_json()) == progress


def test_any_text_of_python_comes_back_from_ascii() -> None:
    stored = Progress(1, 2, "\ud800 \0 ä").to_json()

    assert stored.isascii()
    assert Progress.from_json(stored).text == "\ud800 \0 ä"


@pytest.mark.parametrize("number", [-1, math.nan, math.inf, 1e18, True, "1", None])
def test_a_number_that_is_none_is_refused(number: object) -> None:
    with pytest.raises(ValueError, match=r"the progress has done=.*; it must be a number, 0 or more, and finite"):
        checked_progress(number, 2, "")
    with pytest.raises(ValueError, match="the progress has total="):
        checked_progress(0, number, "")


def test_more_than_all_is_refused() -> None:
    with pytest.raises(ValueError, match="the progress is 3 of 2; it can't be more than all"):
        checked_progress(3, 2, "")


@pytest.mark.parametrize("text", ["x" * (PROGRESS_CHARS_MAX + 1), None, b"x"])
def test_a_text_that_is_none_or_too_long_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must be a str of at most 200 characters"):
        checked_progress(1, 2, text)


@pytest.mark.parametrize("damaged", ["", "[1]", "{}", "[1, 2, 3]", "[3, 2, '']", '[3, 2, ""]', "null", "7"])
def test_what_is_no_progress_is_not_read_as_one(damaged: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        Progress.from_json(damaged)


def test_a_progress_is_shown_in_words() -> None:
    assert (str(Progress(1, 2)), str(Progress(2.5, 10, "rows"))) == ("1 of 2", "2.5 of 10 rows")
