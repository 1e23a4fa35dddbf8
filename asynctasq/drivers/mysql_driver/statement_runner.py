"""Run the statements of the MySQL/MariaDB driver on a pool per event loop, again after a conflict."""

import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from asynctasq.drivers.loops import PerLoop
from asynctasq.drivers.mysql_driver.address import Address
from asynctasq.drivers.mysql_driver.migrations import read_state
from asynctasq.drivers.mysql_driver.pool import Connection, Pool, connect, is_conflict
from asynctasq.drivers.mysql_driver.schema import migrations
from asynctasq.drivers.mysql_driver.statements import Statements
from asynctasq.drivers.mysql_driver.storing import Result, Steps
from asynctasq.drivers.silence import AnswerLimit
from asynctasq.drivers.sql.conflicts import retry_conflicts
from asynctasq.drivers.sql.migrations import check_schema_version
from asynctasq.drivers.sql.steps import run_steps_async

__all__ = ["StatementRunner"]

T = TypeVar("T")

PACKET_RESERVE_BYTES = 64 * 1024


class StatementRunner:
    """Runs statements on one set of tables, whose schema is checked before the first use in a loop."""

    def __init__(
        self, address: Address, sql: Statements, *, max_connections: int, body_bytes_max: int, rng: random.Random
    ) -> None:
        self.body_bytes_max = body_bytes_max
        """The largest body that we and the server accept, known once a connection was open."""
        self.store: str | None = None
        """The id that the tables were given when they were made, known once a connection was open."""
        self._address = address
        self._sql = sql
        self._max_connections = max_connections
        self._rng = rng
        self._answer_limit = AnswerLimit(address.command_timeout_s)
        self._pools = PerLoop(self._open, Pool.close, Pool.abandon)

    async def pool(self) -> Pool:
        """Return the running loop's pool, opening it if need be.

        Raises: DriverMisconfigured for tables that are missing or outdated.
        """
        return await self._pools.get()

    async def close(self) -> None:
        """Close the running loop's pool."""
        await self._pools.close()

    async def _open(self) -> Pool:
        pool = Pool(self._connect, size=self._max_connections)
        try:
            async with pool.connection(brief=True) as connection:
                version, self.store = await read_state(connection, self._sql)
                check_schema_version(version, migrations(self._sql), driver="mysql", where=str(self._address))
        except BaseException:
            await pool.close()
            raise
        return pool

    async def _connect(self) -> Connection:
        connection = await connect(self._address, self._answer_limit)
        packet_bytes = int(connection.variables.get("max_allowed_packet", 2**24))
        # A body travels as hexadecimal, two characters for a byte.
        self.body_bytes_max = min(self.body_bytes_max, (packet_bytes - PACKET_RESERVE_BYTES) // 2)
        return connection

    @asynccontextmanager
    async def _connection(self, *, brief: bool) -> AsyncGenerator[Connection, None]:
        pool = await self._pools.get()
        async with pool.connection(brief=brief) as connection:
            yield connection

    async def run(self, statement: str, *, brief: bool = False) -> Result:
        """Run one statement that is a transaction of its own; one that is `brief` is given up soon."""

        async def once() -> Result:
            async with self._connection(brief=brief) as connection:
                return (await connection.run(statement))[0]

        return await retry_conflicts(once, is_conflict=is_conflict, rng=self._rng)

    async def run_steps(self, steps: Callable[[], Steps[T]], *, brief: bool = True) -> T:
        """Run the steps as one transaction, again while the server rolls them back because of another one."""

        async def once() -> T:
            async with self._connection(brief=brief) as connection:
                return await run_steps_async(steps(), lambda statements: connection.run(*statements))

        return await retry_conflicts(once, is_conflict=is_conflict, rng=self._rng)
