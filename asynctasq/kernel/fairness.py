"""Ranks of messages that have a fair key: start-time fair queueing, decided when a message is stored; pure."""

from collections.abc import Iterable, Mapping
from typing import Final

from asynctasq.errors import DispatchError

__all__ = ["FAIR_KEY_CHARS_MAX", "RANK_DIGITS", "check_fair_key", "ranks_of"]

FAIR_KEY_CHARS_MAX: Final = 200
RANK_DIGITS: Final = 12
"""Ranks are written with so many digits where texts sort them."""


def check_fair_key(key: object) -> str:
    """Return a fair key; raise DispatchError if it is no text, empty, too long or not printable."""
    if not isinstance(key, str):
        raise DispatchError(f"a fair key must be a text, not {key!r:.200}")
    if not key or len(key) > FAIR_KEY_CHARS_MAX or not key.isprintable():
        raise DispatchError(
            f"a fair key must have 1 to {FAIR_KEY_CHARS_MAX} printable characters, and {key!r:.60} has {len(key)}"
        )
    return key


def ranks_of(keys: Iterable[str], *, first: int, last: Mapping[str, int]) -> tuple[list[int], dict[str, int]]:
    """Return the ranks of new messages with these keys, and the last rank of each key.

    `first` is the rank that is first in line, 1 if none waits; `last` has the ranks that were given last. A key's
    messages have ranks that follow each other, and a key that had none waiting begins with what is first in line.
    """
    ranks: list[int] = []
    given = dict[str, int]()
    for key in keys:
        rank = max(first, given.get(key, last.get(key, 0)) + 1)
        given[key] = rank
        ranks.append(rank)
    return ranks, given
