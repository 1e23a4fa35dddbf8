"""Split what a caller gives in one batch into the pieces that one command of a backend takes; pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from asynctasq.kernel.messages import Message

__all__ = ["batches_by_size", "chunks", "unique_messages"]

T = TypeVar("T")


def chunks(items: Sequence[T], length: int) -> Iterator[Sequence[T]]:
    """Split a sequence into pieces of at most `length`."""
    for start in range(0, len(items), length):
        yield items[start : start + length]


def batches_by_size(
    items: Iterable[T], *, size_of: Callable[[T], int], size_max: int, count_max: int | None = None
) -> Iterator[list[T]]:
    """Split items, in order, into batches of at most `size_max` together; a larger item is a batch of its own."""
    batch: list[T] = []
    batch_size = 0
    for item in items:
        size = size_of(item)
        if batch and (len(batch) == count_max or batch_size + size > size_max):
            yield batch
            batch, batch_size = [], 0
        batch.append(item)
        batch_size += size
    if batch:
        yield batch


def unique_messages(messages: Iterable[Message]) -> list[Message]:
    """Return the messages without those whose id an earlier one has: within a batch the first of equal ids counts."""
    unique: dict[str, Message] = {}
    for message in messages:
        unique.setdefault(message.id, message)
    return list(unique.values())
