"""`asynctasq migrate` on private PostgreSQL and MariaDB servers: checked, shown, applied, repeated, and raced."""

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from asynctasq.drivers.base import Driver, Migratable
from asynctasq.drivers.mysql_driver.address import parse_address
from asynctasq.drivers.mysql_driver.pool import connect
from asynctasq.drivers.postgres_driver.statements import Names
from asynctasq.drivers.urls import create_driver
from asynctasq.testing.conformance.harnesses.mysql import MySQLHarness
from asynctasq.testing.conformance.harnesses.postgres import PostgresHarness
from asynctasq.testing.servers import Servers
from tests.patience import SOON_S, until

DONE, FAILED, CONFIGURATION, BACKEND = 0, 1, 3, 4


@dataclass
class Ran:
    code: int
    out: str
    err: str


@dataclass
class Program:
    """The command, in an empty folder, with nothing set but what a test sets."""

    folder: Path

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ASYNCTASQ_")}
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "asynctasq", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=clean,
        )

    async def end(self, process: "subprocess.Popen[str]") -> Ran:
        try:
            out, err = await asyncio.to_thread(process.communicate, timeout=SOON_S)
        finally:
            process.kill()
        return Ran(process.returncode, out, err)

    async def run(self, *arguments: str) -> Ran:
        return await self.end(self.start(*arguments))


class PostgresDatabase:
    """An empty database."""

    def __init__(self, servers: Servers) -> None:
        self._harness = PostgresHarness(servers.postgres())
        self.url = self._harness.url

    async def create(self) -> None:
        async with self._harness.admin() as admin:
            await admin.execute(f'CREATE DATABASE "{self._harness.database}"')

    async def drop(self) -> None:
        await self._harness.clean_up()

    async def script(self, text: str) -> None:
        connection: Any = await asyncpg.connect(self.url)
        await connection.execute(text)
        await connection.close()

    async def tables(self) -> set[str]:
        connection: Any = await asyncpg.connect(self.url)
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        await connection.close()
        return {row[0] for row in rows}

    @asynccontextmanager
    async def locked(self, waiting: int) -> AsyncIterator[None]:
        """Hold what a migration waits for until so many wait."""
        connection: Any = await asyncpg.connect(self.url)
        key = Names("public", "asynctasq").lock_key
        await connection.execute(f"SELECT pg_advisory_lock({key})")
        yield
        count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

        async def all_wait() -> bool:
            return bool(await connection.fetchval(count) >= waiting)

        await until(all_wait, f"{waiting} wait")
        await connection.close()


class MySQLDatabase:
    """An empty database."""

    def __init__(self, servers: Servers) -> None:
        self._harness = MySQLHarness(servers.mysql())
        self.url = self._harness.url

    async def create(self) -> None:
        async with self._harness.admin() as admin:
            await admin.run(f"CREATE DATABASE {self._harness.database}")

    async def drop(self) -> None:
        await self._harness.clean_up()

    async def script(self, text: str) -> None:
        link = await self._connect()
        await link.run(*(part for part in text.split(";\n") if part.strip()))
        await link.close()

    async def tables(self) -> set[str]:
        link = await self._connect()
        (result,) = await link.run("SHOW TABLES")
        await link.close()
        return {row[0].decode() if isinstance(row[0], bytes) else row[0] for row in result.rows}

    @asynccontextmanager
    async def locked(self, waiting: int) -> AsyncIterator[None]:
        """Hold what a migration waits for until so many wait."""
        link = await self._connect()
        name = hashlib.sha256(f"{self._harness.database}/asynctasq".encode()).hexdigest()[:32]
        await link.run(f"SELECT GET_LOCK('asynctasq-{name}', 0)")
        yield
        count = "SELECT COUNT(*) FROM information_schema.processlist WHERE state = 'User lock' AND db = DATABASE()"

        async def all_wait() -> bool:
            return bool((await link.run(count))[0].rows[0][0] >= waiting)

        await until(all_wait, f"{waiting} wait")
        await link.close()

    async def _connect(self) -> Any:
        return await connect(parse_address(self.url, command_timeout_s=30))


Database = PostgresDatabase | MySQLDatabase
KINDS = {"postgres": PostgresDatabase, "mysql": MySQLDatabase}


@pytest.fixture(params=sorted(KINDS))
async def database(request: pytest.FixtureRequest, conformance_servers: Servers) -> AsyncIterator[Database]:
    database = KINDS[request.param](conformance_servers)
    await database.create()
    yield database
    await database.drop()


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def driver_of(database: Database) -> tuple[Driver, Migratable]:
    driver = create_driver(database.url)
    assert isinstance(driver, Migratable)
    return driver, driver


async def test_check_fails_until_everything_is_applied(program: Program, database: Database) -> None:
    before = await program.run("migrate", "--driver", database.url, "--check")
    untouched = await database.tables()
    applied = await program.run("migrate", "--driver", database.url)
    after = await program.run("migrate", "--driver", database.url, "--check")

    assert (before.code, "missing 1" in before.out, untouched) == (FAILED, True, set())
    assert (applied.code, "applied 1" in applied.out) == (DONE, True)
    assert (after.code, "up to date" in after.out) == (DONE, True)
    assert before.err == applied.err == after.err == ""


async def test_applying_again_changes_nothing(program: Program, database: Database) -> None:
    first = await program.run("migrate", "--driver", database.url)
    tables = await database.tables()
    again = await program.run("migrate", "--driver", database.url)

    assert (first.code, again.code) == (DONE, DONE)
    assert "up to date" in again.out
    assert tables == await database.tables()


async def test_a_dry_run_says_what_is_missing_and_applies_nothing(program: Program, database: Database) -> None:
    ran = await program.run("migrate", "--driver", database.url, "--dry-run")

    assert (ran.code, ran.err) == (DONE, "")
    assert "missing 1" in ran.out
    assert await database.tables() == set()


async def test_the_sql_shown_is_all_that_a_database_needs(program: Program, database: Database) -> None:
    shown = await program.run("migrate", "--driver", database.url, "--sql")
    untouched = await database.tables()
    await database.script(shown.out)
    check = await program.run("migrate", "--driver", database.url, "--check")
    driver, migratable = driver_of(database)

    assert (shown.code, untouched, check.code) == (DONE, set(), DONE)
    assert await migratable.schema_version() == migratable.migrations()[-1].version
    await driver.open()
    await driver.close()


async def test_the_sql_is_shown_without_a_server(program: Program) -> None:
    for kind in ("postgresql", "mysql"):
        ran = await program.run("migrate", "--driver", f"{kind}://nobody@127.0.0.1:1/nowhere", "--sql")

        assert (ran.code, "CREATE TABLE" in ran.out) == (DONE, True)


async def test_two_at_once_apply_it_once(program: Program, database: Database) -> None:
    async with database.locked(waiting=2):
        processes = [program.start("migrate", "--driver", database.url) for _ in range(2)]
    ran = [await program.end(process) for process in processes]

    assert [one.code for one in ran] == [DONE, DONE], ran
    assert sorted("applied 1" in one.out for one in ran) == [False, True]
    assert sum("another process was faster" in one.out for one in ran) == 1
    assert (await program.run("migrate", "--driver", database.url, "--check")).code == DONE


async def test_a_worker_on_an_unmigrated_database_says_what_to_run(program: Program, database: Database) -> None:
    ran = await program.run("worker", "--driver", database.url, "--burst")

    assert ran.code == CONFIGURATION
    assert "does not have our tables" in ran.err
    assert "run: asynctasq migrate --driver" in ran.err
    assert "Traceback" not in ran.err
    assert await database.tables() == set()


async def test_a_worker_runs_once_it_is_migrated(program: Program, database: Database) -> None:
    await program.run("migrate", "--driver", database.url)

    ran = await program.run("worker", "--driver", database.url, "--burst", "--quiet")

    assert ran.code == DONE, ran.err


async def test_a_driver_without_a_schema_says_so(program: Program) -> None:
    for name in ("sqlite", "redis"):
        ran = await program.run("migrate", "--driver", name)

        assert (ran.code, "no schema to migrate" in ran.err) == (CONFIGURATION, True)


async def test_a_server_that_is_away_is_told_without_the_password(program: Program) -> None:
    for kind in ("postgresql", "mysql"):
        ran = await program.run("migrate", "--driver", f"{kind}://me:s3cret@127.0.0.1:1/nowhere", "--check")

        assert ran.code == BACKEND
        assert "127.0.0.1:1" in ran.err
        assert "s3cret" not in ran.out + ran.err
