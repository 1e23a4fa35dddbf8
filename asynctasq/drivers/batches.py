"""Split what a caller gives in one batch into the pieces that one command of a backend takes; pure."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["chunks"]

T = TypeVar("T")


def chunks(items: Sequence[T], length: int) -> Iterator[Sequence[T]]:
    """Split a sequence into pieces of at most `length`."""
    for start in range(0, len(items), length):
        yield items[start : start + length]
