"""Other people's connections: every library we say we take, its transactions, and what is refused."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import aiosqlite
import asyncmy
import asyncpg
import django
import psycopg
import pytest
import sqlalchemy
from django.conf import settings
from django.db import connections, transaction
from django.db.utils import ConnectionHandler
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from asynctasq.drivers.postgres_driver import PostgresDriver
from asynctasq.drivers.sql import caller_connections
from asynctasq.errors import DriverError, UnsupportedFeature
from asynctasq.kernel.messages import Bury, Complete, DeadReason, ErrorRecord, Message, Release
from asynctasq.testing.conformance.harnesses.postgres import PostgresHarness
from asynctasq.testing.servers import Servers

BODY = b"\x00\xff%s ? $1 :x"


class Rollback(Exception):
    pass


@pytest.fixture
async def store(conformance_servers: Servers) -> AsyncIterator[PostgresHarness]:
    harness = PostgresHarness(conformance_servers.postgres())
    await harness.prepare()
    yield harness
    for driver in harness.drivers:
        await driver.close()
    await harness.clean_up()


@pytest.fixture
async def driver(store: PostgresHarness) -> PostgresDriver:
    driver = store.create()
    assert isinstance(driver, PostgresDriver)
    await driver.open()
    return driver


def message(message_id: str = "m", **options: Any) -> Message:
    return Message(id=message_id, queue="q", body=BODY, **options)


def alchemy_url(store: PostgresHarness, library: str) -> str:
    return store.url.replace("postgresql://", f"postgresql+{library}://")


# -- transactions of asynchronous libraries: each yields what the user holds inside one ------------


@asynccontextmanager
async def asyncpg_connection(store: PostgresHarness) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(store.url)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def asyncpg_pool_proxy(store: PostgresHarness) -> AsyncIterator[Any]:
    pool = await asyncpg.create_pool(store.url, min_size=1, max_size=1)
    async with pool, pool.acquire() as connection, connection.transaction():
        yield connection


@asynccontextmanager
async def psycopg_async(store: PostgresHarness) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(store.url, row_factory=psycopg.rows.dict_row) as connection:
        yield connection


@asynccontextmanager
async def psycopg_async_autocommit(store: PostgresHarness) -> AsyncIterator[Any]:
    connecting = psycopg.AsyncConnection.connect(store.url, autocommit=True)
    async with await connecting as connection, connection.transaction():
        yield connection


@asynccontextmanager
async def alchemy_async(store: PostgresHarness, library: str, kind: str) -> AsyncIterator[Any]:
    engine = create_async_engine(alchemy_url(store, library))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.dispose)
        if kind == "connection":
            yield await stack.enter_async_context(engine.begin())
        elif kind == "session":
            session = await stack.enter_async_context(AsyncSession(engine))
            await stack.enter_async_context(session.begin())
            yield session
        else:
            scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: 1)
            stack.push_async_callback(scoped.remove)
            await stack.enter_async_context(scoped.begin())
            yield scoped


def alchemy(library: str, kind: str) -> Callable[[PostgresHarness], Any]:
    return lambda store: alchemy_async(store, library, kind)


ASYNC = {
    "asyncpg": asyncpg_connection,
    "asyncpg-pool": asyncpg_pool_proxy,
    "psycopg": psycopg_async,
    "psycopg-autocommit": psycopg_async_autocommit,
    "sqlalchemy-asyncpg-connection": alchemy("asyncpg", "connection"),
    "sqlalchemy-asyncpg-session": alchemy("asyncpg", "session"),
    "sqlalchemy-asyncpg-scoped": alchemy("asyncpg", "scoped"),
    "sqlalchemy-psycopg-connection": alchemy("psycopg", "connection"),
    "sqlalchemy-psycopg-session": alchemy("psycopg", "session"),
}


# -- of synchronous ones ---------------------------------------------------------------------------


@contextmanager
def psycopg_sync(store: PostgresHarness) -> Iterator[Any]:
    with psycopg.connect(store.url) as connection:
        yield connection


@contextmanager
def alchemy_sync(store: PostgresHarness, kind: str) -> Iterator[Any]:
    engine = sqlalchemy.create_engine(alchemy_url(store, "psycopg"))
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        if kind == "connection":
            yield stack.enter_context(engine.begin())
        elif kind == "session":
            session = stack.enter_context(Session(engine))
            stack.enter_context(session.begin())
            yield session
        else:
            scoped = scoped_session(sessionmaker(engine))
            stack.callback(scoped.remove)
            stack.enter_context(scoped.begin())
            yield scoped


@contextmanager
def django_connection(store: PostgresHarness, *, atomic: bool = True) -> Iterator[Any]:
    if not settings.configured:
        settings.configure()
    django.setup()
    parts = urlsplit(store.url)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": store.database,
        "USER": parts.username,
        "HOST": parts.hostname,
        "PORT": parts.port,
    }
    alias = store.database
    connections.databases[alias] = ConnectionHandler({"default": {}, alias: database}).databases[alias]
    connection = connections[alias]
    try:
        with transaction.atomic(using=alias) if atomic else ExitStack():
            yield connection
    finally:
        connection.close()
        del connections[alias]
        del connections.databases[alias]


SYNC = {
    "psycopg": psycopg_sync,
    "sqlalchemy-connection": lambda store: alchemy_sync(store, "connection"),
    "sqlalchemy-session": lambda store: alchemy_sync(store, "session"),
    "sqlalchemy-scoped": lambda store: alchemy_sync(store, "scoped"),
    "django": django_connection,
}


def in_thread(action: Callable[[], Any]) -> Awaitable[Any]:
    """Run synchronous code where Django allows it: in a thread without an event loop."""
    return asyncio.to_thread(action)


# -- commit and rollback ---------------------------------------------------------------------------


@pytest.mark.parametrize("library", ASYNC)
async def test_commit_makes_the_message_visible(store: PostgresHarness, driver: PostgresDriver, library: str) -> None:
    async with ASYNC[library](store) as connection:
        new = await driver.enqueue_in(connection, [message("a"), message("b"), message("a")])
        unseen = await driver.find("a")

    leases = await driver.reserve(["q"], limit=5, lease_s=60)

    assert new == ["a", "b"]
    assert unseen is None
    assert [(lease.message_id, lease.body) for lease in leases] == [("a", BODY), ("b", BODY)]


@pytest.mark.parametrize("library", ASYNC)
async def test_rollback_makes_it_never_have_been(store: PostgresHarness, driver: PostgresDriver, library: str) -> None:
    with pytest.raises(Rollback):
        async with ASYNC[library](store) as connection:
            await driver.enqueue_in(connection, [message()])
            raise Rollback

    assert await driver.find("m") is None
    assert await driver.enqueue([message()]) == ["m"]


@pytest.mark.parametrize("library", ASYNC)
async def test_settle_in_commits_and_rolls_back_with_the_caller(
    store: PostgresHarness, driver: PostgresDriver, library: str
) -> None:
    await driver.enqueue([message("a"), message("b"), message("c")])
    a, b, c = await driver.reserve(["q"], limit=3, lease_s=60)
    error = ErrorRecord(type="ValueError", message="%s", traceback="?")
    ends = [
        (a, Complete(result=b"\x00r", result_ttl_s=60, follow_ups=(message("d", delay_s=60),))),
        (b, Release(counted=True, delay_s=60, error=error)),
        (c, Bury(reason=DeadReason.FAILED, counted=True, error=error)),
    ]

    with pytest.raises(Rollback):
        async with ASYNC[library](store) as connection:
            assert await driver.settle_in(connection, ends) == set()
            raise Rollback
    before = await driver.depth("q")
    async with ASYNC[library](store) as connection:
        lost = await driver.settle_in(connection, ends)
    after = await driver.depth("q")

    assert lost == set()
    assert (before.reserved, before.dead, before.scheduled) == (3, 0, 0)
    assert (after.reserved, after.dead, after.scheduled) == (0, 1, 2)
    assert await driver.fetch_result("a") == b"\x00r"
    found = await driver.find("b")
    assert found is not None
    assert (found.attempts, found.error) == (1, error)


@pytest.mark.parametrize("library", SYNC)
async def test_settle_in_sync_commits_and_rolls_back_with_the_caller(
    store: PostgresHarness, driver: PostgresDriver, library: str
) -> None:
    await driver.enqueue([message()])
    [lease] = await driver.reserve(["q"], limit=1, lease_s=60)

    def settle() -> tuple[object, object]:
        with pytest.raises(Rollback), SYNC[library](store) as connection:
            driver.settle_in_sync(connection, [(lease, Complete())])
            raise Rollback
        with SYNC[library](store) as connection:
            won = driver.settle_in_sync(connection, [(lease, Complete())])
        with SYNC[library](store) as connection:
            return won, driver.settle_in_sync(connection, [(lease, Complete())])

    assert await in_thread(settle) == (set(), {"m"})
    assert await driver.find("m") is None


@pytest.mark.parametrize("library", SYNC)
async def test_sync_commit_and_rollback(store: PostgresHarness, driver: PostgresDriver, library: str) -> None:
    def dispatch() -> list[str]:
        with pytest.raises(Rollback), SYNC[library](store) as connection:
            driver.enqueue_in_sync(connection, [message("gone")])
            raise Rollback
        with SYNC[library](store) as connection:
            return driver.enqueue_in_sync(connection, [message("kept", delay_s=1), message("more")])

    new = await in_thread(dispatch)

    assert new == ["kept", "more"]
    assert await driver.find("gone") is None
    assert await driver.find("kept") is not None


@pytest.mark.parametrize("library", ["psycopg", "sqlalchemy-session"])
async def test_a_sync_connection_works_in_async_code(
    store: PostgresHarness, driver: PostgresDriver, library: str
) -> None:
    with SYNC[library](store) as connection:
        new = await driver.enqueue_in(connection, [message()])

    assert new == ["m"]
    assert await driver.find("m") is not None


async def test_a_large_batch_is_one_transaction(store: PostgresHarness, driver: PostgresDriver) -> None:
    many = [message(f"m{n}") for n in range(12_000)]

    async with psycopg_async(store) as connection:
        new = await driver.enqueue_in(connection, many)

    assert len(new) == 12_000
    assert (await driver.depth("q")).ready == 12_000


# -- refusals --------------------------------------------------------------------------------------


async def test_asyncpg_outside_a_transaction_is_refused(store: PostgresHarness, driver: PostgresDriver) -> None:
    connection = await asyncpg.connect(store.url)

    with pytest.raises(UnsupportedFeature, match=r"in no transaction.*connection\.transaction\(\)"):
        await driver.enqueue_in(connection, [message()])

    assert await driver.find("m") is None
    await connection.close()


async def test_psycopg_autocommit_is_refused(store: PostgresHarness, driver: PostgresDriver) -> None:
    async with await psycopg.AsyncConnection.connect(store.url, autocommit=True) as connection:
        with pytest.raises(UnsupportedFeature, match="in no transaction"):
            await driver.enqueue_in(connection, [message()])
    sync = psycopg.connect(store.url, autocommit=True)
    with sync, pytest.raises(UnsupportedFeature, match="in no transaction"):
        driver.enqueue_in_sync(sync, [message()])

    assert await driver.find("m") is None


@pytest.mark.parametrize("library", ["asyncpg", "psycopg"])
async def test_sqlalchemy_autocommit_is_refused(store: PostgresHarness, driver: PostgresDriver, library: str) -> None:
    whole = create_async_engine(alchemy_url(store, library), isolation_level="AUTOCOMMIT")
    one = create_async_engine(alchemy_url(store, library))

    async with whole.connect() as connection:
        with pytest.raises(UnsupportedFeature, match="AUTOCOMMIT"):
            await driver.enqueue_in(connection, [message()])
    async with one.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(UnsupportedFeature, match="AUTOCOMMIT"):
            await driver.enqueue_in(connection, [message()])

    assert await driver.find("m") is None
    await whole.dispose()
    await one.dispose()


async def test_django_outside_atomic_is_refused(store: PostgresHarness, driver: PostgresDriver) -> None:
    def dispatch() -> None:
        with django_connection(store, atomic=False) as connection:
            driver.enqueue_in_sync(connection, [message()])

    with pytest.raises(UnsupportedFeature, match=r"transaction\.atomic"):
        await in_thread(dispatch)

    assert await driver.find("m") is None


async def test_a_connection_to_another_store_is_refused(
    store: PostgresHarness, driver: PostgresDriver, conformance_servers: Servers
) -> None:
    other = PostgresHarness(conformance_servers.postgres())
    await other.prepare()
    await driver.enqueue([message("held")])
    leases = await driver.reserve(["q"], limit=1, lease_s=60)

    async with asyncpg_connection(other) as connection:
        with pytest.raises(UnsupportedFeature, match="another database"):
            await driver.enqueue_in(connection, [message()])
        with pytest.raises(UnsupportedFeature, match="another database"):
            await driver.settle_in(connection, [(leases[0], Complete())])
        assert await connection.fetchval("SELECT count(*) FROM asynctasq_messages") == 0

    await other.clean_up()


async def test_a_database_without_our_tables_is_refused(store: PostgresHarness, driver: PostgresDriver) -> None:
    bare = PostgresHarness(store.server)
    async with store.admin() as admin:
        await admin.execute(f'CREATE DATABASE "{bare.database}"')

    with pytest.raises(UnsupportedFeature, match="without our tables"):
        async with asyncpg_connection(bare) as connection:
            await driver.enqueue_in(connection, [message()])
    for library in ("asyncpg", "psycopg"):
        with pytest.raises(UnsupportedFeature, match="without our tables"):
            async with alchemy_async(bare, library, "connection") as connection:
                await driver.enqueue_in(connection, [message()])

    await bare.clean_up()


async def test_another_dialect_is_refused(driver: PostgresDriver) -> None:
    memory = sqlite3.connect(":memory:")
    with pytest.raises(UnsupportedFeature, match="sqlite database"):
        await driver.enqueue_in(memory, [message()])
    memory.close()
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as connection, pytest.raises(UnsupportedFeature, match="sqlite database"):
        driver.enqueue_in_sync(connection, [message()])
    engine.dispose()


async def test_what_is_no_connection_is_refused(driver: PostgresDriver) -> None:
    with pytest.raises(UnsupportedFeature, match=r"builtins\.object is not a connection"):
        await driver.enqueue_in(object(), [message()])
    with pytest.raises(UnsupportedFeature, match=r"builtins\.str is not a connection"):
        driver.enqueue_in_sync("postgres://", [message()])


async def test_an_async_connection_is_refused_in_sync_code(store: PostgresHarness, driver: PostgresDriver) -> None:
    async with asyncpg_connection(store) as connection:
        with pytest.raises(UnsupportedFeature, match="is used with await"):
            driver.enqueue_in_sync(connection, [message()])


async def test_errors_of_a_library_are_mapped(store: PostgresHarness, driver: PostgresDriver) -> None:
    async with AsyncExitStack() as stack:
        stack.push(lambda *_: True)
        connection = await stack.enter_async_context(psycopg_async(store))
        await connection.close()
        with pytest.raises(DriverError, match="caller's transaction") as caught:
            await driver.enqueue_in(connection, [message()])

    assert isinstance(caught.value.__cause__, psycopg.OperationalError)


# -- the other dialects ----------------------------------------------------------------------------


async def test_sqlite_begins_what_the_library_would_not() -> None:
    statement = "WITH v(a) AS (SELECT ?) INSERT INTO t SELECT a FROM v RETURNING a"
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (a)")
    connection.row_factory = sqlite3.Row
    callers = caller_connections.adapt_sync(connection, dialect="sqlite")

    rows = callers.fetch(statement, [b"%s?"])
    connection.rollback()

    assert [tuple(row) for row in rows] == [(b"%s?",)]
    assert connection.execute("SELECT count(*) FROM t").fetchone()[0] == 0
    connection.close()


async def test_sqlite_autocommit_is_refused() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    with pytest.raises(UnsupportedFeature, match="autocommit"):
        caller_connections.adapt_sync(connection, dialect="sqlite").fetch("SELECT ?", [1])
    connection.execute("BEGIN")

    assert caller_connections.adapt_sync(connection, dialect="sqlite").fetch("SELECT ?", [1]) == [(1,)]

    connection.close()


async def test_aiosqlite_commits_and_rolls_back_with_the_caller() -> None:
    async with aiosqlite.connect(":memory:") as connection:
        await connection.execute("CREATE TABLE t (a)")
        callers = caller_connections.adapt(connection, dialect="sqlite")

        assert await callers.fetch("INSERT INTO t VALUES (?) RETURNING a", ["%s?"]) == [("%s?",)]
        await connection.rollback()

        assert await callers.fetch("SELECT count(*) FROM t", []) == [(0,)]
        await connection.rollback()


async def test_sqlalchemy_runs_sqlite_statements() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        rows = await caller_connections.adapt(connection, dialect="sqlite").fetch("SELECT ?, '%'", ["a"])

    assert [tuple(row) for row in rows] == [("a", "%")]
    await engine.dispose()


async def test_asyncmy_and_sqlalchemy_run_mysql_statements(conformance_servers: Servers) -> None:
    parts = urlsplit(conformance_servers.mysql().url)
    connection: Any = await asyncmy.connect(host=parts.hostname, port=parts.port, user="root", autocommit=True)
    callers = caller_connections.adapt(connection, dialect="mysql")
    with pytest.raises(UnsupportedFeature, match="autocommit"):
        await callers.fetch("SELECT %s", [1])
    await connection.begin()
    engine = create_async_engine(f"mysql+asyncmy://root@{parts.hostname}:{parts.port}/mysql")

    rows = await callers.fetch("SELECT %s, '%%'", ["a"])
    async with engine.begin() as alchemy_connection:
        same = await caller_connections.adapt(alchemy_connection, dialect="mysql").fetch("SELECT %s, '%%'", ["a"])

    assert [tuple(row) for row in rows] == [tuple(row) for row in same] == [("a", "%")]
    await connection.ensure_closed()
    await engine.dispose()
