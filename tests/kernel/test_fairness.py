"""Ranks: keys take turns, none keeps another back, and what is a key."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asynctasq.errors import DispatchError
from asynctasq.kernel.fairness import FAIR_KEY_CHARS_MAX, check_fair_key, next_rank

Waiting = tuple[int, int, str]
"""Rank, arrival and key: in this order they are reserved."""
steps = st.lists(st.sampled_from("abc") | st.none(), max_size=60)
"""A key is a message that is stored, None a reserve."""


class Line:
    """A line by rank as drivers keep it: nothing but the messages that wait."""

    def __init__(self) -> None:
        self.waiting: list[Waiting] = []
        self._arrivals = 0

    def store(self, key: str) -> Waiting:
        first = min(self.waiting)[0] if self.waiting else 0
        last = max((rank for rank, _, of in self.waiting if of == key), default=0)
        self._arrivals += 1
        self.waiting.append((next_rank(first, last), self._arrivals, key))
        return self.waiting[-1]

    def reserve(self) -> Waiting:
        self.waiting.sort()
        return self.waiting.pop(0)


def run(program: Iterable[str | None]) -> Line:
    line = Line()
    for key in program:
        if key is not None:
            line.store(key)
        elif line.waiting:
            line.reserve()
    return line


def test_the_first_message_has_rank_one() -> None:
    assert next_rank(0, 0) == 1


@given(st.integers(1, 10**9), st.integers(0, 10**9))
def test_a_rank_is_behind_who_is_first_and_behind_its_own_key(first: int, last: int) -> None:
    assert next_rank(first, last) > max(first, last)


@given(steps)
@example("aaab")
def test_messages_of_one_key_stay_in_order(program: list[str | None]) -> None:
    ranks = defaultdict[str, list[int]](list)
    for rank, _, key in sorted(run(program).waiting, key=lambda one: one[1]):
        ranks[key].append(rank)

    assert all(later > sooner for one in ranks.values() for sooner, later in pairwise(one))


@given(steps)
@example("aaabbbccc")
def test_between_two_messages_of_a_key_no_other_has_more_than_one_and_a_tie(program: list[str | None]) -> None:
    line = run(program)
    taken = [line.reserve()[2] for _ in range(len(line.waiting))]

    for key in set(taken):
        places = [place for place, of in enumerate(taken) if of == key]
        for start, end in pairwise(places):
            between = taken[start + 1 : end]
            # Two at most, whose ranks are those of the two messages; more of a key that came late have gone before.
            assert all(between.count(other) <= 2 for other in set(between)), "".join(taken)


@given(steps, st.sampled_from("abc"), st.lists(st.sampled_from("abcd"), max_size=40))
def test_who_waits_is_reserved_after_two_messages_of_each_key_for_each_of_its_own(
    program: list[str | None], key: str, coming: list[str]
) -> None:
    line = run(program)
    mine = line.store(key)
    first = min(line.waiting)[0]
    rounds = mine[0] - first + 1
    before = defaultdict[str, int](int)
    while (taken := line.reserve()) != mine:
        before[taken[2]] += 1
        if coming:  # others store whenever one was reserved
            line.store(coming.pop())

    assert all(count <= rounds for count in before.values()), dict(before)


@pytest.mark.parametrize("key", ["a", "a b", "é", "k" * FAIR_KEY_CHARS_MAX])
def test_a_printable_text_is_a_key(key: str) -> None:
    assert check_fair_key(key) == key


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("", "has 0"),
        ("k" * (FAIR_KEY_CHARS_MAX + 1), "has 201"),
        ("a\n", "printable"),
        ("\0", "printable"),
        ("\ud800", "printable"),
        (7, "a text, not 7"),
        (b"k", "a text, not b'k'"),
        (None, "a text, not None"),
    ],
)
def test_what_is_no_key_is_refused_in_words(key: object, says: str) -> None:
    with pytest.raises(DispatchError, match="fair key must") as caught:
        check_fair_key(key)

    assert says in str(caught.value)
