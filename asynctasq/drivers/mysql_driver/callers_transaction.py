"""Store and settle on MySQL and MariaDB connections that the caller owns; commits nothing."""

from collections.abc import Callable, Sequence
from typing import Any

from asynctasq.drivers.base import Settlements
from asynctasq.drivers.mysql_driver.address import Address
from asynctasq.drivers.mysql_driver.statements import Statements, server_now
from asynctasq.drivers.mysql_driver.steps import settle
from asynctasq.drivers.mysql_driver.storing import Result, Steps, store_in
from asynctasq.drivers.sql.caller_connections import adapt, adapt_sync
from asynctasq.drivers.sql.steps import run_steps, run_steps_async
from asynctasq.errors import UnsupportedFeature
from asynctasq.kernel.messages import Message

__all__ = ["InCallersTransaction"]

DIALECT = "mysql"


class InCallersTransaction:
    """Runs the driver's steps on callers' connections; `store` is the id of our own tables, None if not known.

    Values are part of the statements, and nothing is kept in the session's variables: it is not our session.
    """

    def __init__(self, sql: Statements, address: Address) -> None:
        self._sql = sql
        self._address = address

    async def enqueue(
        self, connection: Any, messages: Sequence[Message], *, offset_us: int, store: str | None
    ) -> list[str]:
        """Do `Transactional.enqueue_in`."""
        return await run_steps_async(self._store(messages, offset_us, store), _execute_on(connection))

    def enqueue_sync(
        self, connection: Any, messages: Sequence[Message], *, offset_us: int, store: str | None
    ) -> list[str]:
        """Do `Transactional.enqueue_in_sync`."""
        return run_steps(self._store(messages, offset_us, store), _execute_sync_on(connection))

    async def settle(self, connection: Any, settlements: Settlements, *, offset_us: int, store: str | None) -> set[str]:
        """Do `Transactional.settle_in`."""
        return await run_steps_async(self._settle(settlements, offset_us, store), _execute_on(connection))

    def settle_sync(self, connection: Any, settlements: Settlements, *, offset_us: int, store: str | None) -> set[str]:
        """Do `Transactional.settle_in_sync`."""
        return run_steps(self._settle(settlements, offset_us, store), _execute_sync_on(connection))

    def _store(self, messages: Sequence[Message], offset_us: int, store: str | None) -> Steps[list[str]]:
        now, claim = yield from self._checked(offset_us, store)
        return (yield from store_in(self._sql, messages, now=now, claim=claim))

    def _settle(self, settlements: Settlements, offset_us: int, store: str | None) -> Steps[set[str]]:
        now, claim = yield from self._checked(offset_us, store)
        return (yield from settle(self._sql, settlements, now=now, claim=claim))

    def _checked(self, offset_us: int, store: str | None) -> Steps[tuple[str, str]]:
        """Return now and a number for this transaction's rows, once the connection is known to lead to our tables."""
        (result,) = yield [self._sql.store_identity(now=server_now(offset_us))]
        now, claim, database, found = result.rows[0]
        if _text(database) != self._address.database or (store is not None and _text(found) != store):
            raise UnsupportedFeature(
                f"the connection given is to another database than {self._address}; nothing was changed. "
                "Give one to the same database, or dispatch after the commit"
            )
        return str(now), str(claim)


def _execute_on(connection: Any) -> Any:
    callers = adapt(connection, dialect=DIALECT)

    async def execute(statements: list[str]) -> list[Result]:
        return [_result(await callers.fetch(statement, ())) for statement in statements]

    return execute


def _execute_sync_on(connection: Any) -> Callable[[list[str]], list[Result]]:
    callers = adapt_sync(connection, dialect=DIALECT)

    def execute(statements: list[str]) -> list[Result]:
        return [_result(callers.fetch(statement, ())) for statement in statements]

    return execute


def _result(rows: Sequence[Any]) -> Result:
    # Libraries have row classes of their own, and count changed rows differently, so that count is not used.
    return Result([tuple(row) for row in rows], len(rows))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes | bytearray) else str(value)
