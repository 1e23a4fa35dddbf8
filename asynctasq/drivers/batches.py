"""Split what a caller gives in one batch into the pieces that one command of a backend takes; pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from asynctasq.drivers.base import Enqueued
from asynctasq.errors import UniqueConflictError
from asynctasq.kernel.messages import Message

__all__ = ["UniqueOutcome", "batches_by_size", "chunks", "conflict", "has_keys", "unique_messages"]

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


def has_keys(messages: Iterable[Message]) -> bool:
    """Say whether some of the messages have a unique or a fair key, so that each is stored after those before it."""
    return any(message.unique is not None or message.fair_key for message in messages)


class UniqueOutcome:
    """Who holds the keys of the messages of a batch that are not stored because of them."""

    def __init__(self) -> None:
        self._refused: dict[str, str] = {}
        self._replaced: dict[str, str] = {}

    def refuse(self, message: Message, holder: str, *, may_raise: bool) -> None:
        """Note that a message is not stored.

        Raises: UniqueConflictError if that is what it asks for, and the call `may_raise`.
        """
        if may_raise and message.unique is not None and message.unique.on_conflict == "raise":
            raise conflict(message.id, holder)
        self.refused(message.id, holder)

    def refused(self, message_id: str, holder: str) -> None:
        """Note that a message is not stored, of which the store has decided so."""
        self._refused[message_id] = holder

    def replaced(self, message_id: str, by: str) -> None:
        """Note that a message, of the batch or older, was replaced by a later one."""
        self._replaced[message_id] = by

    def enqueued(self, new: Iterable[str], messages: Iterable[Message]) -> Enqueued:
        """Return what `enqueue` returns, where `new` of the messages are stored; who replaced a holder is one.

        An id that comes again has its first place.
        """
        stored, replaced = set(new), self._replaced
        holders: dict[str, str] = {}
        ids = dict[str, None]()
        for message in messages:
            ids[message.id] = None
            holder = self._refused.get(message.id) or replaced.get(message.id)
            if holder is not None and message.id not in stored:
                while holder in replaced and holder not in stored:
                    holder = replaced[holder]
                holders[message.id] = holder
        return Enqueued((message_id for message_id in ids if message_id in stored), holders)


def conflict(message_id: str, holder: str) -> UniqueConflictError:
    """Return the error of a message that asks for it where its key is held."""
    return UniqueConflictError(
        f"message {holder} holds the unique key of message {message_id}; nothing of this dispatch was stored",
        task_id=holder,
    )
