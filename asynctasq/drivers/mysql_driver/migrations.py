"""Bring the tables of the MySQL/MariaDB driver up to date, one process at a time."""

import hashlib
from dataclasses import replace

from asynctasq.drivers.base import Migration
from asynctasq.drivers.mysql_driver.address import Address
from asynctasq.drivers.mysql_driver.pool import Connection, NoSuchTable, connect
from asynctasq.drivers.mysql_driver.schema import migrations
from asynctasq.drivers.mysql_driver.statements import Statements, literal
from asynctasq.drivers.sql.migrations import apply_pending
from asynctasq.errors import DriverUnavailable

__all__ = ["migrate", "read_state", "read_version"]

LOCK_WAIT_S = 60
STATEMENT_TIMEOUT_S = 3600.0
"""A later migration may rebuild a large table."""


class _MigrationStore:
    """The migration store on one connection that holds the lock.

    DDL commits by itself, so a crash may leave a step half done; its statements can be repeated, and the last
    of them records the version.
    """

    def __init__(self, connection: Connection, sql: Statements) -> None:
        self._connection = connection
        self._sql = sql

    async def version(self) -> int:
        return (await read_state(self._connection, self._sql))[0]

    async def apply(self, migration: Migration) -> None:
        for statement in migration.statements:
            await self._connection.run(statement)


async def read_state(connection: Connection, sql: Statements) -> tuple[int, str | None]:
    """Return the version of the tables and the id they were given when made; 0 and None if there are none."""
    try:
        (result,) = await connection.run(sql.state())
    except NoSuchTable:
        return 0, None
    version, store = result.rows[0]
    return version or 0, store.decode() if store else None


async def read_version(address: Address, sql: Statements) -> int:
    """Return the version of the tables, 0 if there are none, by a connection of its own."""
    connection = await connect(address)
    try:
        return (await read_state(connection, sql))[0]
    finally:
        await connection.close()


async def migrate(address: Address, sql: Statements, prefix: str) -> list[int]:
    """Apply what is missing and return those versions; a second process waits and finds nothing to do.

    Raises: DriverUnavailable if another migration takes longer than a minute.
    """
    connection = await connect(replace(address, command_timeout_s=STATEMENT_TIMEOUT_S))
    # A name of up to 64 characters, the same for every process that means these tables.
    name = literal("asynctasq-" + hashlib.sha256(f"{address.database}/{prefix}".encode()).hexdigest()[:32])
    try:
        (result,) = await connection.run(f"SELECT GET_LOCK({name}, {LOCK_WAIT_S})")
        if result.rows[0][0] != 1:
            raise DriverUnavailable(
                f"another migration of {address} has been running for {LOCK_WAIT_S} s; try again when it has ended"
            )
        applied = await apply_pending(_MigrationStore(connection, sql), migrations(sql))
        await connection.run(f"SELECT RELEASE_LOCK({name})")
        return applied
    finally:
        await connection.close()
