"""Connections that belong to the caller, of whichever library; ends no transaction and opens nothing."""

import os
import sqlite3
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from asynctasq.drivers.sql.steps import run_steps, run_steps_async
from asynctasq.drivers.sqlite_driver.schema import Row, SQLiteFile, Step, Steps, ensure_schema, run_on
from asynctasq.errors import DriverError, UnsupportedFeature

__all__ = ["BEGIN", "in_transaction", "refuse_autocommit_mode", "run_in", "run_in_async"]

T = TypeVar("T")

BEGIN = "BEGIN IMMEDIATE"


def in_transaction(steps: Steps[T], file: SQLiteFile, *, begun: bool) -> Steps[T]:
    """Return the operation for a connection of the caller: refuses another file, begins if need be, makes our tables.

    `begun` says whether the connection is inside a transaction. If not, one is begun which the caller's commit ends.

    Raises: UnsupportedFeature if the connection's main database is another file.
    """
    rows = yield Step("PRAGMA database_list")
    path = next((row[2] for row in rows if row[1] == "main"), "")
    if not _is_same_file(path, file.path):
        raise UnsupportedFeature(
            f"this connection is to {path or 'a database in memory'}, and the queue is in {file.path}: they can "
            "share a transaction only in one file; name the application's own file as the path of the queue"
        )
    if not begun:
        # A deferred BEGIN fails at once when it must turn from reading to writing while another writes.
        yield Step(BEGIN)
    yield from ensure_schema(str(file))
    return (yield from steps)


def _is_same_file(path: str, ours: str) -> bool:
    if not path:
        return False
    try:
        return os.path.samefile(path, ours)
    except OSError:
        return os.path.realpath(path) == os.path.realpath(ours)


def run_in(connection: Any, steps: Steps[T], file: SQLiteFile) -> T:
    """Run an operation on a `sqlite3.Connection`. Raises the errors of sqlite3 unmapped."""
    if not isinstance(connection, sqlite3.Connection):
        return _run_adapted_sync(connection, steps, file)
    refuse_autocommit_mode(connection)
    cursor = connection.cursor()
    cursor.row_factory = None
    text_factory, connection.text_factory = connection.text_factory, str
    try:
        return run_on(in_transaction(steps, file, begun=connection.in_transaction), cursor)
    finally:
        connection.text_factory = text_factory
        cursor.close()


def refuse_autocommit_mode(connection: sqlite3.Connection) -> None:
    """Raise UnsupportedFeature for a connection whose `commit()` would not end a transaction that we begin."""
    if getattr(connection, "autocommit", None) is True and not connection.in_transaction:
        raise UnsupportedFeature(
            "this connection was opened with autocommit=True, so its commit() would not end a transaction that we "
            'begin; execute "BEGIN IMMEDIATE" first'
        )


async def run_in_async(connection: Any, steps: Steps[T], file: SQLiteFile) -> T:
    """Run an operation on the caller's connection. Raises sqlite3's errors unmapped, other libraries' mapped."""
    aiosqlite: Any = sys.modules.get("aiosqlite")  # whoever has such a connection has imported the library
    if aiosqlite is None or not isinstance(connection, aiosqlite.Connection):
        if isinstance(connection, sqlite3.Connection):
            return run_in(connection, steps, file)
        return await _run_adapted(connection, steps, file)
    try:
        begun = connection.in_transaction
    except ValueError as error:
        raise DriverError(f"the caller's connection to {file} is closed; pass an open one") from error
    whole = in_transaction(steps, file, begun=begun)
    cursor = await connection.cursor()
    cursor.row_factory = None
    text_factory, connection.text_factory = connection.text_factory, str
    try:
        return await run_steps_async(whole, lambda step: _execute(cursor, step))
    finally:
        connection.text_factory = text_factory
        await cursor.close()


async def _execute(cursor: Any, step: Step) -> list[Row]:
    if step.many:
        await cursor.executemany(step.sql, step.params)
        return []
    await cursor.execute(step.sql, step.params)
    return list(await cursor.fetchall())


async def _run_adapted(connection: Any, steps: Steps[T], file: SQLiteFile) -> T:
    from asynctasq.drivers.sql.caller_connections import adapt  # rarely needed, and slow to import

    callers = adapt(connection, dialect="sqlite")

    async def execute(step: Step) -> list[Row]:
        rows: list[Row] = []
        for params in _parameter_sets(step):
            with _open_transaction_allowed(step):
                rows = list(await callers.fetch(step.sql, params))
        return rows

    return await run_steps_async(in_transaction(steps, file, begun=False), execute)


def _run_adapted_sync(connection: Any, steps: Steps[T], file: SQLiteFile) -> T:
    from asynctasq.drivers.sql.caller_connections import adapt_sync  # as above

    callers = adapt_sync(connection, dialect="sqlite")

    def execute(step: Step) -> list[Row]:
        rows: list[Row] = []
        for params in _parameter_sets(step):
            with _open_transaction_allowed(step):
                rows = list(callers.fetch(step.sql, params))
        return rows

    return run_steps(in_transaction(steps, file, begun=False), execute)


def _parameter_sets(step: Step) -> list[Sequence[Any]]:
    return list(cast("Iterable[Sequence[Any]]", step.params)) if step.many else [cast("Sequence[Any]", step.params)]


@contextmanager
def _open_transaction_allowed(step: Step) -> Generator[None]:
    """Ignore the error of a BEGIN inside a transaction: only SQLite knows whether the library has begun one."""
    try:
        yield
    except DriverError as error:
        if step.sql != BEGIN or "within a transaction" not in str(error):
            raise
