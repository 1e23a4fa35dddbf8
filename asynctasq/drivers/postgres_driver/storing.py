"""Storing messages in PostgreSQL. Whether a row holds its unique key, or waits by rank, is what an index says."""

from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from asynctasq.drivers.base import Enqueued, Settlements
from asynctasq.drivers.batches import has_keys, unique_messages
from asynctasq.drivers.levels import is_by_rank, line_of
from asynctasq.drivers.postgres_driver.pool import Operation
from asynctasq.drivers.postgres_driver.rows import delay_us, message_batches, message_columns, settlement_columns
from asynctasq.drivers.postgres_driver.statements import Statements
from asynctasq.drivers.silence import is_brief
from asynctasq.drivers.sql.steps import run_steps_async
from asynctasq.drivers.sql.unique import (
    Execute,
    Insert,
    KeepWindow,
    Lock,
    Look,
    Remove,
    Request,
    executed,
    has_keyed_follow_ups,
    store_unique,
    window_id,
)
from asynctasq.kernel.messages import Message

__all__ = ["Fetch", "FetchSteps", "Run", "Storing", "settle_batch", "store_keyed"]

T = TypeVar("T")


class Run(Protocol):
    """Runs an operation on a connection, again if the server rolled it back because of another one."""

    async def __call__(self, run: Operation[T], *, brief: bool = True) -> T: ...


Fetch = tuple[str, Sequence[Any]]
"""A statement and its values."""
FetchSteps = Generator[Fetch, Sequence[Any], T]


class Storing:
    """Stores messages, and settles what has follow-ups, on connections of ours; `run` runs one operation on one."""

    def __init__(self, statements: Statements, offset_us: Callable[[], int], run: Run) -> None:
        self._sql = statements
        self._offset_us = offset_us
        self._run = run

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        """Do `Driver.enqueue` for messages that were checked."""
        if has_keys(messages):
            return await self._transact(lambda: store_keyed(self._sql, messages, offset_us=self._offset_us()))
        batches = message_batches(messages)

        async def store(connection: Any) -> set[str]:
            if len(batches) == 1:
                return await self._store(connection, batches[0])
            async with connection.transaction():
                return {new for batch in batches for new in await self._store(connection, batch)}

        new = await self._run(store, brief=is_brief(messages))
        return [message.id for message in unique_messages(messages) if message.id in new]

    async def _store(self, connection: Any, batch: Sequence[Message]) -> set[str]:
        rows = await connection.fetch(self._sql.storing.enqueue, self._offset_us(), *message_columns(batch), None)
        return {row[0] for row in rows[:-1]}

    async def settle(self, batch: Settlements) -> Sequence[Any]:
        """Settle a batch that one statement may apply; return the row of that statement."""

        def make() -> FetchSteps[Sequence[Any]]:
            return settle_batch(self._sql, batch, offset_us=self._offset_us())

        if has_keyed_follow_ups(batch):
            return await self._transact(make)
        return await self._run(lambda connection: run_steps_async(make(), _fetch_on(connection)))

    async def _transact(self, make: Callable[[], FetchSteps[T]]) -> T:
        """Run the steps as one transaction, again if the server rolled it back because of another one."""

        async def run(connection: Any) -> T:
            async with connection.transaction():
                return await run_steps_async(make(), _fetch_on(connection))

        return await self._run(run)


def _fetch_on(connection: Any) -> Callable[[Fetch], Awaitable[Sequence[Any]]]:
    return lambda step: connection.fetch(step[0], *step[1])


def store_keyed(
    sql: Statements, messages: Sequence[Message], *, offset_us: int, may_raise: bool = True
) -> FetchSteps[Enqueued]:
    """Store messages of which some have unique or fair keys, in a transaction that is open."""
    return executed(store_unique(messages, may_raise=may_raise), lambda request: _execute(sql, request, offset_us))


def settle_batch(sql: Statements, batch: Settlements, *, offset_us: int) -> FetchSteps[Sequence[Any]]:
    """Settle; return the rows of the statement that does.

    Follow-ups with unique or fair keys need a transaction that is open, and a batch of one entry: they are stored after
    it, if its lease was held.
    """
    if not has_keyed_follow_ups(batch):
        return (yield sql.settle_full, [offset_us, *settlement_columns(batch)])
    [(lease, settlement)] = batch
    alone = [(lease, replace(settlement, follow_ups=()))]
    rows = yield sql.settle_full, [offset_us, *settlement_columns(alone)]
    if rows[0][0]:
        yield from store_keyed(sql, settlement.follow_ups, offset_us=offset_us, may_raise=False)
    return rows


def _execute(sql: Statements, request: Request, offset_us: int) -> FetchSteps[Any]:
    match request:
        case Insert(messages):
            new: set[str] = set()
            for batch in message_batches(messages):
                columns = [offset_us, *message_columns(batch), None, *_key_columns(batch)]
                if any(message.fair_key for message in batch):
                    rows = yield sql.storing.enqueue_fair, [*columns, _fair_column(batch)]
                else:
                    rows = yield sql.storing.enqueue_keyed, columns
                new.update(row[0] for row in rows[:-1])
            return new
        case Look(message):
            return (yield from _look(sql, message, offset_us))
        case Remove(holder, message):
            removed = yield sql.cancel, [offset_us, [holder]]
            if removed and message.unique is not None and message.unique.window_s is not None:
                yield sql.storing.forget_window, [window_id(message.unique)]
            return bool(removed)
        case KeepWindow(message):
            assert message.unique is not None, "it has a window"
            window_us = delay_us(message.unique.window_s or 0.0)
            yield sql.storing.keep_window, [offset_us, window_id(message.unique), message.id, window_us]
        case Lock(ids):
            yield sql.storing.lock_keys, [list(ids)]
        case Execute(statement):
            yield statement, []
    return None


def _key_columns(messages: Sequence[Message]) -> tuple[list[str | None], list[bool]]:
    keys = [message.unique for message in messages]
    return (
        [None if unique is None or unique.window_s is not None else unique.key for unique in keys],
        [unique is not None and unique.until == "started" for unique in keys],
    )


def _fair_column(messages: Sequence[Message]) -> list[str | None]:
    return [message.fair_key if is_by_rank(line_of(message)) else None for message in messages]


def _look(sql: Statements, message: Message, offset_us: int) -> FetchSteps[tuple[bool, str | None]]:
    unique = message.unique
    assert unique is not None, "only messages with keys are looked after"
    if unique.window_s is None:
        [(lives, holder)] = yield sql.storing.look_for_holder, [message.id, unique.key]
    else:
        [(lives, holder)] = yield sql.storing.look_for_window, [offset_us, message.id, window_id(unique)]
    return bool(lives), holder
