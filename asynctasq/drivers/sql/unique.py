"""What a SQL driver does to store messages of which some have unique keys; knows no dialect and runs nothing.

The constraint of the store decides: an insert that breaks it stores nothing, and only then is looked for who holds the
key. A window is kept where results are, since it outlives its message and expires as they do.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from asynctasq.drivers.base import Enqueued, Settlements
from asynctasq.drivers.batches import UniqueOutcome, has_keys
from asynctasq.errors import DriverUnavailable, UniqueConflictError
from asynctasq.kernel.messages import Message, UniqueKey

__all__ = [
    "Execute", "Insert", "KeepWindow", "Lock", "Look", "Remove", "Request", "UniqueSteps",
    "executed", "has_keyed_follow_ups", "store_unique", "window_id",
]  # fmt: skip

T = TypeVar("T")
X = TypeVar("X")
Y = TypeVar("Y")

TRIES_MAX = 100
"""How often a key is tried that was held at each insert and free at each look: each time it was freed in between."""
WINDOW, LOCK = "\x01", "\x02"
"""How the ids of windows, and of rows that are only there to be locked, begin in the table of results."""


class Lock(NamedTuple):
    """Let no other transaction go on with one of these keys, which are sorted, until this one ends."""

    ids: Sequence[str]


class Insert(NamedTuple):
    """Store what breaks no constraint; the reply is the set of the ids that are new."""

    messages: Sequence[Message]


class Look(NamedTuple):
    """Reply whether a message with its id lives, and the id of who holds its key, None if nobody does."""

    message: Message


class Remove(NamedTuple):
    """Remove a holder that is scheduled or ready, and the window of the message's key; reply whether it was."""

    holder: str
    message: Message


class KeepWindow(NamedTuple):
    """Let the message hold its key for its window."""

    message: Message


class Execute(NamedTuple):
    """Execute a statement that all databases have."""

    sql: str


Request = Lock | Insert | Look | Remove | KeepWindow | Execute
UniqueSteps = Generator[Request, Any, T]


def window_id(unique: UniqueKey) -> str:
    """Return the id, among those of results, under which the window of a key is kept."""
    return WINDOW + unique.key


def executed(steps: UniqueSteps[T], execute: Callable[[Request], Generator[X, Y, Any]]) -> Generator[X, Y, T]:
    """Return the same steps as a driver's own: `execute` says what each request comes to."""
    try:
        request = next(steps)
        while True:
            request = steps.send((yield from execute(request)))
    except StopIteration as end:
        value: T = end.value
        return value


def has_keyed_follow_ups(settlements: Settlements) -> bool:
    """Say whether a follow-up has a unique or a fair key."""
    return any(settlement.follow_ups and has_keys(settlement.follow_ups) for _, settlement in settlements)


def store_unique(messages: Sequence[Message], *, may_raise: bool) -> UniqueSteps[Enqueued]:
    """Store the messages, one after the other as it were, in a transaction that is open.

    Raises: UniqueConflictError, if it `may_raise`: then it has stored nothing.
    """
    keys = {message.unique.key: message.unique for message in messages if message.unique is not None}
    if len(keys) > 1 or any(unique.window_s is not None for unique in keys.values()):
        # In one order, so that two batches do not wait for each other.
        yield Lock([LOCK + key for key in sorted(keys)])
    raises = any(unique.on_conflict == "raise" for unique in keys.values())
    undoes = may_raise and len(messages) > 1 and raises
    if undoes:
        yield Execute("SAVEPOINT asynctasq_batch")
    batch = _Batch(may_raise)
    try:
        for group in _groups(messages):
            yield from batch.store(group)
    except UniqueConflictError:
        if undoes:
            yield Execute("ROLLBACK TO SAVEPOINT asynctasq_batch")
        raise
    if undoes:
        yield Execute("RELEASE SAVEPOINT asynctasq_batch")
    return batch.enqueued(messages)


def _groups(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Part messages, in order, into those that one insert may decide at once, and those that must be looked after."""
    group: list[Message] = []
    ids: set[str] = set()
    keys: set[str] = set()
    for message in messages:
        key = None if message.unique is None else message.unique.key
        if not _is_plain(message) or message.id in ids or key in keys:
            if group:
                yield group
            group = []
            ids.clear()
            keys.clear()
        if not _is_plain(message):
            yield [message]
            continue
        group.append(message)
        ids.add(message.id)
        if key is not None:
            keys.add(key)
    if group:
        yield group


def _is_plain(message: Message) -> bool:
    unique = message.unique
    return unique is None or (unique.window_s is None and unique.on_conflict != "replace")


class _Batch:
    """What has become of the messages of one call so far."""

    def __init__(self, may_raise: bool) -> None:
        self._may_raise = may_raise
        self._new: dict[str, None] = {}
        self._outcome = UniqueOutcome()

    def store(self, group: Sequence[Message]) -> UniqueSteps[None]:
        stored: set[str] = (yield Insert(group)) if _is_plain(group[0]) else set()
        self._new.update(dict.fromkeys(stored))
        for message in group:
            if message.unique is not None and message.id not in stored:
                yield from self._store_one(message, message.unique)

    def _store_one(self, message: Message, unique: UniqueKey) -> UniqueSteps[None]:
        for _ in range(TRIES_MAX):
            lives, holder = yield Look(message)
            if lives or holder == message.id:  # the latter within the window of an earlier message of this id
                return
            if holder is not None and not (unique.on_conflict == "replace" and (yield Remove(holder, message))):
                self._outcome.refuse(message, holder, may_raise=self._may_raise)
                return
            if message.id in (yield Insert([message])):
                if unique.window_s is not None:
                    yield KeepWindow(message)
                if holder is not None:
                    self._new.pop(holder, None)
                    self._outcome.replaced(holder, message.id)
                self._new[message.id] = None
                return
        raise DriverUnavailable(
            f"the unique key of message {message.id} was taken and freed {TRIES_MAX} times meanwhile"
        )

    def enqueued(self, messages: Sequence[Message]) -> Enqueued:
        return self._outcome.enqueued(self._new, messages)
