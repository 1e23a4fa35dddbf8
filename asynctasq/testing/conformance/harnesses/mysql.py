"""The harness of the MySQL/MariaDB driver: one database per store, on the server of the run."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import asyncmy

from asynctasq.drivers.mysql_driver import MySQLDriver
from asynctasq.drivers.mysql_driver.address import parse_address
from asynctasq.drivers.mysql_driver.pool import Connection, connect
from asynctasq.errors import DriverError
from asynctasq.testing.conformance.harness import CallersTransaction, DriverHarness
from asynctasq.testing.servers import Server, Servers

__all__ = ["MySQLHarness", "make_harness"]


class _Transaction(CallersTransaction):
    """A transaction on an asyncmy connection."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def commit(self) -> None:
        await self.connection.commit()
        await self.connection.ensure_closed()

    async def rollback(self) -> None:
        await self.connection.rollback()
        await self.connection.ensure_closed()


class MySQLHarness(DriverHarness):
    """One database on a server; drivers made here share its tables and a clock that can be moved."""

    name = "mysql"

    def __init__(self, server: Server) -> None:
        self.server = server
        self.database = f"asynctasq_test_{uuid.uuid4().hex[:12]}"
        self.url = urlunsplit(urlsplit(server.url)._replace(path=f"/{self.database}"))
        self._admin = parse_address(server.url, command_timeout_s=30)
        self.drivers: list[MySQLDriver] = []
        self._offset = 0.0

    async def prepare(self) -> None:
        async with self.admin() as connection:
            await connection.run(f"CREATE DATABASE {self.database}")
        await MySQLDriver(self.url).migrate()

    @contextlib.asynccontextmanager
    async def admin(self) -> AsyncGenerator[Connection, None]:
        """Lend a connection of the operator's, to another database."""
        connection = await connect(self._admin)
        try:
            yield connection
        finally:
            await connection.close()

    def create(self) -> MySQLDriver:
        driver = MySQLDriver(self.url, clock_offset=self._offset)
        self.drivers.append(driver)
        return driver

    def advance(self, seconds: float) -> None:
        self._offset += seconds
        for driver in self.drivers:
            driver.clock_offset = self._offset

    def address(self) -> str:
        return f"{self.url}?{urlencode({'clock_offset': self._offset})}"

    async def break_connections(self) -> None:
        async with self.admin() as connection:
            found = f"SELECT id FROM information_schema.processlist WHERE db = '{self.database}'"
            cut = {thread for (thread,) in (await connection.run(found))[0].rows}
            for thread in cut:
                # It may have ended by itself, which is an error 1094.
                with contextlib.suppress(DriverError):
                    await connection.run(f"KILL {thread}")
            # KILL only asks; the connection is cut when its thread looks. Others may be opened meanwhile.
            while cut & {thread for (thread,) in (await connection.run(found))[0].rows}:
                await connection.run("DO SLEEP(0.01)")

    async def restart_server(self) -> None:
        await asyncio.to_thread(self.server.restart)

    async def begin(self, isolation: str = "REPEATABLE READ") -> CallersTransaction:
        address = parse_address(self.url, command_timeout_s=30)
        connection: Any = await asyncmy.connect(  # pyright: ignore[reportUnknownMemberType] - untyped there
            host=address.host,
            port=address.port,
            user=address.user,
            password=address.password,
            database=address.database,
        )
        async with connection.cursor() as cursor:
            await cursor.execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {isolation}")
        await connection.begin()
        return _Transaction(connection)

    async def clean_up(self) -> None:
        async with self.admin() as connection:
            await connection.run(f"DROP DATABASE IF EXISTS {self.database}")


def make_harness(servers: Servers) -> DriverHarness:
    """Return an empty store on the run's MySQL or MariaDB server."""
    return MySQLHarness(servers.mysql())
