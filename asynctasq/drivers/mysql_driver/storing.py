"""Storing messages in MySQL/MariaDB inside a transaction, as generators that yield statements; does no I/O.

A unique key stays in its row when nobody holds it any more: who wants it looks whether the row that the constraint has
shown still holds the key, and takes it out otherwise. So neither a claim nor a settlement frees keys.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from asynctasq.drivers.base import Enqueued
from asynctasq.drivers.batches import batches_by_size, chunks, has_keys, unique_messages
from asynctasq.drivers.mysql_driver import keyed_statements
from asynctasq.drivers.mysql_driver.statements import CLAIM, NOW, Statements, server_now
from asynctasq.drivers.sql.unique import (
    Execute,
    Insert,
    KeepWindow,
    Lock,
    Look,
    Remove,
    Request,
    executed,
    store_unique,
    window_id,
)  # fmt: skip
from asynctasq.errors import UniqueConflictError
from asynctasq.kernel.messages import Message, UniqueKey, microseconds

__all__ = ["ROWS_MAX", "Result", "Steps", "set_now", "store", "store_in"]

T = TypeVar("T")

ROWS_MAX = 500
"""Rows of one statement: more make its range analysis outgrow the server's memory limit for it."""
INSERT_BYTES = 512 * 1024


class Result(NamedTuple):
    """What one statement gave."""

    rows: Sequence[tuple[Any, ...]]
    affected: int


Steps = Generator[list[str], list[Result], T]


def set_now(offset_us: int) -> list[str]:
    return [f"SET {NOW} = {server_now(offset_us)}, {CLAIM} = UUID_SHORT()"]


# -- storing -------------------------------------------------------------------------------------


def store(sql: Statements, messages: Sequence[Message], *, offset_us: int, again: bool = False) -> Steps[list[str]]:
    """Store messages in a transaction of our own; return the new ids.

    An insert locks the rows that have its ids already, in the order of its messages, and may deadlock over
    them. So when it is run `again`, the ids that are stored are left out first, found by a select that locks nothing.
    """
    if has_keys(messages):
        return (yield from _store_keyed_alone(sql, messages, offset_us=offset_us))
    unique = unique_messages(messages)
    if again:
        unique = yield from _without_stored(sql, unique)
        if not unique:
            return []
    if len(unique) == 1:
        (result,) = yield [sql.insert(unique, now=server_now(offset_us), claim="0")]
        return [unique[0].id] if result.affected else []
    new: list[str] = []
    before = ["START TRANSACTION", *set_now(offset_us)]
    for group in _insertable(unique):
        results = yield [*before, sql.insert(group, now=NOW, claim=CLAIM)]
        before = []
        ids = [message.id for message in group]
        affected = results[-1].affected
        new += ids if affected == len(ids) else (yield from _newly_inserted(sql, ids, CLAIM))
    yield ["COMMIT"]
    return new


def store_in(
    sql: Statements, messages: Sequence[Message], *, now: str, claim: str, may_raise: bool = True
) -> Steps[list[str]]:
    """Store messages in a transaction that is open already; return the new ids.

    The count of affected rows is not used: many libraries make the server count rows that stayed as they were.
    """
    if has_keys(messages):
        return (yield from _store_keyed(sql, messages, now=now, claim=claim, may_raise=may_raise))
    new: list[str] = []
    for group in _insertable(unique_messages(messages)):
        yield [sql.insert(group, now=now, claim=claim)]
        new += yield from _newly_inserted(sql, [message.id for message in group], claim)
    return new


def _newly_inserted(sql: Statements, ids: Sequence[str], claim: str) -> Steps[list[str]]:
    (result,) = yield [sql.inserted(ids, claim=claim)]
    stored = {bytes(row[0]).decode() for row in result.rows}
    return [message_id for message_id in ids if message_id in stored]


def _without_stored(sql: Statements, messages: Sequence[Message]) -> Steps[list[Message]]:
    stored: set[str] = set()
    for group in chunks(messages, ROWS_MAX):
        (result,) = yield [sql.select_stored(message.id for message in group)]
        stored |= {bytes(row[0]).decode() for row in result.rows}
    return [message for message in messages if message.id not in stored]


def _insertable(messages: Iterable[Message]) -> Iterator[list[Message]]:
    """Split messages into groups for one statement each."""
    return batches_by_size(
        messages, size_of=lambda message: len(message.body), size_max=INSERT_BYTES, count_max=ROWS_MAX
    )


# -- with unique keys ------------------------------------------------------------------------------


def _store_keyed_alone(sql: Statements, messages: Sequence[Message], *, offset_us: int) -> Steps[Enqueued]:
    """Store messages of which some have unique keys, in a transaction of our own."""
    yield ["START TRANSACTION", *set_now(offset_us)]
    try:
        enqueued = yield from _store_keyed(sql, messages, now=NOW, claim=CLAIM, may_raise=True)
    except UniqueConflictError:
        yield ["ROLLBACK"]
        raise
    yield ["COMMIT"]
    return enqueued


def _store_keyed(
    sql: Statements, messages: Sequence[Message], *, now: str, claim: str, may_raise: bool
) -> Steps[Enqueued]:
    def execute(request: Request) -> Steps[Any]:
        return _execute(sql, request, now=now, claim=claim)

    return (yield from executed(store_unique(messages, may_raise=may_raise), execute))


def _execute(sql: Statements, request: Request, *, now: str, claim: str) -> Steps[Any]:
    match request:
        case Insert(messages):
            new: list[str] = []
            for group in _insertable(messages):
                yield [keyed_statements.insert_keyed(sql, group, now=now, claim=claim)]
                new += yield from _newly_inserted(sql, [message.id for message in group], claim)
            return set(new)
        case Look(message):
            assert message.unique is not None, "only messages with keys are looked after"
            (found,) = yield [sql.select_stored([message.id])]
            return bool(found.rows), (yield from _holder(sql, message.unique, now=now))
        case Remove(holder, message):
            return (yield from _remove(sql, holder, message.unique, now=now))
        case KeepWindow(message):
            assert message.unique is not None, "it has a window"
            ttl_us = microseconds(message.unique.window_s or 0.0)
            yield [keyed_statements.keep_window(sql, window_id(message.unique), message.id, ttl_us=ttl_us, now=now)]
        case Lock(ids):
            for some in chunks(ids, ROWS_MAX):
                yield [keyed_statements.lock_keys(sql, some)]
        case Execute(statement):
            yield [statement]
    return None


def _holder(sql: Statements, unique: UniqueKey, *, now: str) -> Steps[str | None]:
    if unique.window_s is not None:
        (kept,) = yield [keyed_statements.window(sql, window_id(unique), now=now)]
        return bytes(kept.rows[0][0]).decode() if kept.rows else None
    (found,) = yield [keyed_statements.key_of(sql, unique.key)]
    for seq, message_id, is_held in found.rows:
        if is_held:
            return bytes(message_id).decode()
        yield [keyed_statements.free_key(sql, seq)]
    return None


def _remove(sql: Statements, holder: str, unique: UniqueKey | None, *, now: str) -> Steps[bool]:
    (known,) = yield [sql.seqs([holder], lock=True)]
    if not known.rows:
        return False
    (found,) = yield [sql.removable((row[0] for row in known.rows), dead=False, now=now)]
    if not found.rows:
        return False
    yield [sql.remove(seq for seq, _, _ in found.rows)]
    if unique is not None and unique.window_s is not None:
        yield [keyed_statements.forget_window(sql, window_id(unique))]
    return True
