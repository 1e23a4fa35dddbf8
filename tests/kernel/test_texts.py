"""Texts of unknown origin as they are shown: one line or several, escaped and bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynctasq.kernel.texts import printable, printable_lines

anything = st.text(st.characters(categories=None, exclude_categories=()))


@given(text=anything)
def test_a_printable_text_is_shown_as_it_is_and_no_other(text: str) -> None:
    shown = printable(text)

    assert shown.isprintable()
    assert (shown == text) == text.isprintable()
    shown.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Zoë ✓ 北京", "Zoë ✓ 北京"),
        ("a\x1b[2Kb\r\n", r"a\x1b[2Kb\r\n"),
        ("\u202e\u2028\ud800", r"\u202e\u2028\ud800"),
        ("", ""),
    ],
)
def test_what_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(text=anything, chars_max=st.integers(2, 20))
def test_of_a_long_text_beginning_and_end_are_kept(text: str, chars_max: int) -> None:
    bounded = printable(text, chars_max)

    if len(text) > chars_max:
        assert bounded.startswith(printable(text[: chars_max // 2]))
        assert bounded.endswith(printable(text[-(chars_max // 2) :]))
        assert "characters ...]" in bounded


def test_further_lines_are_indented() -> None:
    assert printable_lines("one\ntwo\x07\n") == "one\n    two\\x07\n    "
