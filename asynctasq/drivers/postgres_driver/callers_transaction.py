"""Store and settle on PostgreSQL connections that the caller owns; commits nothing."""

from collections.abc import Callable, Sequence
from typing import Any

from asynctasq.drivers.base import Settlements
from asynctasq.drivers.batches import has_keys, unique_messages
from asynctasq.drivers.postgres_driver.rows import lost_ids, message_batches, message_columns
from asynctasq.drivers.postgres_driver.statements import Statements
from asynctasq.drivers.postgres_driver.storing import settle_batch, store_keyed
from asynctasq.drivers.sql.caller_connections import adapt, adapt_sync
from asynctasq.drivers.sql.settlements import independent_batches
from asynctasq.drivers.sql.steps import run_steps, run_steps_async
from asynctasq.errors import UnsupportedFeature
from asynctasq.kernel.messages import Message

__all__ = ["InCallersTransaction"]

DIALECT = "postgresql"


class InCallersTransaction:
    """Runs the driver's statements on callers' connections; `store` is the id of our own store, None if not known.

    Each statement says in which store it ran, so a connection to another database is detected in the same
    round trip, and an enqueue in the wrong one stores nothing.
    """

    def __init__(self, statements: Statements, offset_us: Callable[[], int], where: str) -> None:
        self._sql = statements
        self._offset_us = offset_us
        self._where = where

    async def enqueue(self, connection: Any, messages: Sequence[Message], store: str | None) -> list[str]:
        """Do `Transactional.enqueue_in`."""
        callers = adapt(connection, dialect=DIALECT)
        if has_keys(messages):
            self._check_store((await callers.fetch(self._sql.store, []))[0][0], store)
            keyed = store_keyed(self._sql, messages, offset_us=self._offset_us())
            return await run_steps_async(keyed, lambda step: callers.fetch(*step))
        new: set[str] = set()
        for batch in message_batches(messages):
            rows = await callers.fetch(self._sql.storing.enqueue, self._enqueue_values(batch, store))
            new |= self._stored(rows, store)
        return _in_order(messages, new)

    def enqueue_sync(self, connection: Any, messages: Sequence[Message], store: str | None) -> list[str]:
        """Do `Transactional.enqueue_in_sync`."""
        callers = adapt_sync(connection, dialect=DIALECT)
        if has_keys(messages):
            self._check_store(callers.fetch(self._sql.store, [])[0][0], store)
            keyed = store_keyed(self._sql, messages, offset_us=self._offset_us())
            return run_steps(keyed, lambda step: callers.fetch(*step))
        new: set[str] = set()
        for batch in message_batches(messages):
            rows = callers.fetch(self._sql.storing.enqueue, self._enqueue_values(batch, store))
            new |= self._stored(rows, store)
        return _in_order(messages, new)

    async def settle(self, connection: Any, settlements: Settlements, store: str | None) -> set[str]:
        """Do `Transactional.settle_in`."""
        callers = adapt(connection, dialect=DIALECT)
        batches, lost = independent_batches(settlements)
        for batch in batches:
            steps = settle_batch(self._sql, batch, offset_us=self._offset_us())
            rows = await run_steps_async(steps, lambda step: callers.fetch(*step))
            lost |= self._lost(batch, rows, store)
        return lost

    def settle_sync(self, connection: Any, settlements: Settlements, store: str | None) -> set[str]:
        """Do `Transactional.settle_in_sync`."""
        callers = adapt_sync(connection, dialect=DIALECT)
        batches, lost = independent_batches(settlements)
        for batch in batches:
            steps = settle_batch(self._sql, batch, offset_us=self._offset_us())
            lost |= self._lost(batch, run_steps(steps, lambda step: callers.fetch(*step)), store)
        return lost

    def _lost(self, batch: Settlements, rows: Sequence[Any], store: str | None) -> set[str]:
        won, _, found = rows[0]
        self._check_store(found, store)
        return lost_ids(batch, won)

    def _enqueue_values(self, batch: Sequence[Message], store: str | None) -> list[Any]:
        return [self._offset_us(), *message_columns(batch), store]

    def _stored(self, rows: Sequence[Any], store: str | None) -> set[str]:
        self._check_store(rows[-1][0], store)
        return {row[0] for row in rows[:-1]}

    def _check_store(self, found: str | None, store: str | None) -> None:
        if store is not None and found != store:
            raise UnsupportedFeature(
                f"the connection given is to another database than {self._where}; nothing was changed. "
                "Give one to the same database, or dispatch after the commit"
            )


def _in_order(messages: Sequence[Message], new: set[str]) -> list[str]:
    return [message.id for message in unique_messages(messages) if message.id in new]
