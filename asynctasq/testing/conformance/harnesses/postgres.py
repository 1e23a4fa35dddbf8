"""The harness of the PostgreSQL driver: one database per store, on the server of the run."""

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import asyncpg

from asynctasq.drivers.base import Driver
from asynctasq.drivers.postgres_driver import PostgresDriver
from asynctasq.testing.conformance.harness import CallersTransaction, DriverHarness
from asynctasq.testing.servers import Server, Servers

__all__ = ["PostgresHarness", "make_harness"]


class _Transaction(CallersTransaction):
    """A transaction on an asyncpg connection."""

    def __init__(self, connection: Any, transaction: Any) -> None:
        self.connection = connection
        self._transaction = transaction

    async def commit(self) -> None:
        await self._transaction.commit()
        await self.connection.close(timeout=5)

    async def rollback(self) -> None:
        await self._transaction.rollback()
        await self.connection.close(timeout=5)


class PostgresHarness(DriverHarness):
    """One database on a server; drivers made here share its tables and a clock that can be moved."""

    name = "postgres"

    def __init__(self, server: Server, **options: Any) -> None:
        self.server = server
        self.database = f"asynctasq_test_{uuid.uuid4().hex[:12]}"
        self.url = urlunsplit(urlsplit(server.url)._replace(path=f"/{self.database}"))
        # Small enough that the suite can go beyond it.
        self._options: dict[str, Any] = {"body_bytes_max": 1024 * 1024, **options}
        self.drivers: list[PostgresDriver] = []
        self._offset = 0.0

    async def prepare(self) -> None:
        async with self.admin() as connection:
            await connection.execute(f'CREATE DATABASE "{self.database}"')
        await PostgresDriver(self.url, **self._options).migrate()

    @asynccontextmanager
    async def admin(self) -> AsyncGenerator[Any, None]:
        """Lend a connection of the operator's, to another database."""
        connection = await _connect(self.server.url)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

    def create(self) -> Driver:
        driver = PostgresDriver(self.url, clock_offset=self._offset, **self._options)
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
            # The second argument waits until the server process is gone.
            found = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1"
            await connection.fetch(found, self.database)

    async def restart_server(self) -> None:
        await asyncio.to_thread(self.server.restart)

    async def begin(self) -> CallersTransaction:
        connection = await _connect(self.url)
        transaction = connection.transaction()
        await transaction.start()
        return _Transaction(connection, transaction)

    async def clean_up(self) -> None:
        async with self.admin() as connection:
            await connection.execute(f'DROP DATABASE IF EXISTS "{self.database}" WITH (FORCE)')


async def _connect(url: str) -> Any:
    connect: Any = asyncpg.connect  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType] - untyped there
    return await connect(url)


def make_harness(servers: Servers) -> DriverHarness:
    """Return an empty store on the run's PostgreSQL server."""
    return PostgresHarness(servers.postgres())
