"""The harness of the SQLite driver: a file in a folder of its own; there is no server to disturb."""

import shutil
import sqlite3
import tempfile
from pathlib import Path
from urllib.parse import urlencode

from asynctasq.drivers.base import Driver
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.drivers.urls import sqlite_url
from asynctasq.testing.conformance.harness import CallersTransaction, DriverHarness
from asynctasq.testing.servers import Servers

__all__ = ["SQLiteHarness", "make_harness"]


class SQLiteHarness(DriverHarness):
    """Every driver has the same file, as the processes of one machine do."""

    name = "sqlite"

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="asynctasq-sqlite-"))
        self._path = self._folder / "queue.db"
        self._clock_offset = 0.0
        self._drivers: list[SQLiteDriver] = []

    def create(self) -> Driver:
        driver = SQLiteDriver(self._path, clock_offset=self._clock_offset)
        self._drivers.append(driver)
        return driver

    def advance(self, seconds: float) -> None:
        self._clock_offset += seconds
        for driver in self._drivers:
            driver.clock_offset += seconds

    def address(self) -> str:
        return f"{sqlite_url(self._path)}?{urlencode({'clock_offset': self._clock_offset})}"

    async def break_connections(self) -> None:
        """Do nothing: there is no connection that could be cut."""

    async def restart_server(self) -> None:
        """Do nothing: there is no server."""

    async def begin(self) -> CallersTransaction:
        return _Transaction(self._path)

    async def clean_up(self) -> None:
        shutil.rmtree(self._folder)


class _Transaction:
    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("BEGIN IMMEDIATE")

    async def commit(self) -> None:
        self.connection.commit()
        self.connection.close()

    async def rollback(self) -> None:
        self.connection.rollback()
        self.connection.close()


def make_harness(servers: Servers) -> DriverHarness:  # noqa: ARG001 - needs no server
    """Return an empty store in a new temporary folder."""
    return SQLiteHarness()
