"""Ranks of messages that have a fair key: start-time fair queueing, decided when a message is stored; pure."""

from typing import Final

from asynctasq.errors import DispatchError

__all__ = ["FAIR_KEY_CHARS_MAX", "check_fair_key", "next_rank"]

FAIR_KEY_CHARS_MAX: Final = 200
"""The longest fair key that drivers store, in printable characters."""


def check_fair_key(key: object) -> str:
    """Return a fair key; raise DispatchError if it is no text, empty, too long or not printable."""
    if not isinstance(key, str):
        raise DispatchError(f"a fair key must be a text, not {key!r:.200}")
    if not 0 < len(key) <= FAIR_KEY_CHARS_MAX:
        raise DispatchError(
            f"a fair key must have 1 to {FAIR_KEY_CHARS_MAX} characters, and {key!r:.60} has {len(key)}"
        )
    if not key.isprintable():
        raise DispatchError(f"a fair key must be printable, and {key!r:.200} is not")
    return key


def next_rank(first: int, last: int) -> int:
    """Return the rank of a new message, which waits behind those of a lower rank, or of the same and stored before.

    `first` is the rank of the message that is first in its line, `last` the largest of those of its key which wait
    there; 0 where there is no such message. So the messages of a key have ranks that follow each other, and a key of
    which none waits begins in the next round. In the present one it could come again and again, and the others never:
    nobody remembers that it was served.
    """
    return 1 + max(first, last)
