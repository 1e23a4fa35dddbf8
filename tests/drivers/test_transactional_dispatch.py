"""`dispatch(connection=...)` from end to end: every library on every database, seen by a worker that waits.

Visible with the commit of one's own transaction, never there after a rollback, the id at once.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiosqlite
import asyncmy
import django
import pytest
import sqlalchemy
from django.conf import settings
from django.db import connections, transaction
from django.db.utils import ConnectionHandler
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from asynctasq import init
from asynctasq.core import setup
from asynctasq.drivers.base import Driver, Inspectable
from asynctasq.drivers.mysql_driver import MySQLDriver
from asynctasq.drivers.postgres_driver import PostgresDriver
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.errors import UnserializableValue, UnsupportedFeature
from asynctasq.kernel.messages import Lease
from asynctasq.queue import Queue
from asynctasq.tasks import AsyncTask, dispatch_many, dispatch_many_sync
from asynctasq.tasks.dispatching import scoped_dispatcher
from asynctasq.testing.conformance.harnesses.mysql import MySQLHarness
from asynctasq.testing.conformance.harnesses.postgres import PostgresHarness
from asynctasq.testing.servers import Servers
from tests.drivers.sql.test_caller_connections import ASYNC as POSTGRES_ASYNC
from tests.drivers.sql.test_caller_connections import SYNC as POSTGRES_SYNC
from tests.patience import SOON_S

WAIT_S = 2 * SOON_S


class Rollback(Exception):
    pass


class Note(AsyncTask[None]):
    def __init__(self, text: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.text = text

    async def execute(self) -> None:
        pass


@dataclass
class AppDatabase:
    """A database with our tables and one of the application's: `make` gives drivers on it."""

    url: str
    make: Callable[[], Driver]

    @property
    def database(self) -> str:
        """The database's name; on SQLite the file's."""
        return urlsplit(self.url).path[1:]


# -- databases -------------------------------------------------------------------------------------


@asynccontextmanager
async def postgres_database(servers: Servers, folder: Path) -> AsyncIterator[AppDatabase]:
    harness = PostgresHarness(servers.postgres())
    await harness.prepare()
    # Polling would come too late: only the notification of the commit can wake in time.
    yield AppDatabase(harness.url, lambda: PostgresDriver(harness.url, poll_s_max=10 * WAIT_S))
    await harness.clean_up()


@asynccontextmanager
async def mysql_database(servers: Servers, folder: Path) -> AsyncIterator[AppDatabase]:
    harness = MySQLHarness(servers.mysql())
    await harness.prepare()
    yield AppDatabase(harness.url, lambda: MySQLDriver(harness.url))
    await harness.clean_up()


@asynccontextmanager
async def sqlite_database(servers: Servers, folder: Path) -> AsyncIterator[AppDatabase]:
    yield AppDatabase(f"sqlite:///{folder}/app.db", lambda: SQLiteDriver(folder / "app.db"))


DATABASES = {"postgres": postgres_database, "mysql": mysql_database, "sqlite": sqlite_database}


# -- libraries: each yields what the application holds inside a transaction ------------------------


@asynccontextmanager
async def by_asyncmy(app_database: AppDatabase) -> AsyncIterator[Any]:
    parts = urlsplit(app_database.url)
    address = {"host": parts.hostname, "port": parts.port, "user": "root", "database": app_database.database}
    connection: Any = await asyncmy.connect(**address)
    try:
        await connection.begin()
        yield connection
        await connection.commit()
    finally:
        await connection.ensure_closed()


@asynccontextmanager
async def by_aiosqlite(app_database: AppDatabase) -> AsyncIterator[Any]:
    async with aiosqlite.connect(app_database.database) as connection:
        yield connection
        await connection.commit()


def by_alchemy(library: str, kind: str) -> Callable[[AppDatabase], Any]:
    @asynccontextmanager
    async def by(app_database: AppDatabase) -> AsyncIterator[Any]:
        engine = create_async_engine(app_database.url.replace("://", f"+{library}://", 1))
        try:
            if kind == "connection":
                async with engine.begin() as connection:
                    yield connection
            else:
                async with AsyncSession(engine) as session, session.begin():
                    yield session
        finally:
            await engine.dispose()

    return by


ASYNC: dict[tuple[str, str], Callable[..., Any]] = {
    **{("postgres", library): begin for library, begin in POSTGRES_ASYNC.items()},
    ("mysql", "asyncmy"): by_asyncmy,
    ("mysql", "sqlalchemy-asyncmy-session"): by_alchemy("asyncmy", "session"),
    ("mysql", "sqlalchemy-asyncmy-connection"): by_alchemy("asyncmy", "connection"),
    ("sqlite", "aiosqlite"): by_aiosqlite,
    ("sqlite", "sqlalchemy-aiosqlite-session"): by_alchemy("aiosqlite", "session"),
    ("sqlite", "sqlalchemy-aiosqlite-connection"): by_alchemy("aiosqlite", "connection"),
}


@contextmanager
def by_sqlite3(app_database: AppDatabase) -> Iterator[Any]:
    connection = sqlite3.connect(app_database.database)
    try:
        with connection:
            yield connection
    finally:
        connection.close()


def by_alchemy_sync(kind: str) -> Callable[[AppDatabase], AbstractContextManager[Any]]:
    @contextmanager
    def by(app_database: AppDatabase) -> Iterator[Any]:
        engine = sqlalchemy.create_engine(app_database.url)
        try:
            if kind == "session":
                with Session(engine) as session, session.begin():
                    yield session
            else:
                with engine.begin() as connection:
                    if kind == "connection-that-has-written":
                        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS app (n INT)")
                        connection.exec_driver_sql("INSERT INTO app VALUES (1)")
                    yield connection
        finally:
            engine.dispose()

    return by


@contextmanager
def by_django(app_database: AppDatabase) -> Iterator[Any]:
    if not settings.configured:
        settings.configure()
    django.setup()
    alias = app_database.database
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": app_database.database}
    connections.databases[alias] = ConnectionHandler({"default": {}, alias: database}).databases[alias]
    try:
        with transaction.atomic(using=alias):
            yield connections[alias]
    finally:
        connections[alias].close()
        del connections[alias]
        del connections.databases[alias]


SYNC: dict[tuple[str, str], Callable[..., Any]] = {
    **{("postgres", library): begin for library, begin in POSTGRES_SYNC.items()},
    ("sqlite", "sqlite3"): by_sqlite3,
    ("sqlite", "sqlalchemy-session"): by_alchemy_sync("session"),
    ("sqlite", "sqlalchemy-connection"): by_alchemy_sync("connection"),
    ("sqlite", "sqlalchemy-connection-that-has-written"): by_alchemy_sync("connection-that-has-written"),
    ("sqlite", "django"): by_django,
}


# -- what every test needs -------------------------------------------------------------------------


@pytest.fixture
async def app_database(
    request: pytest.FixtureRequest, conformance_servers: Servers, tmp_path: Path
) -> AsyncIterator[AppDatabase]:
    async with DATABASES[request.param](conformance_servers, tmp_path) as app_database:
        yield app_database


@pytest.fixture
async def driver(app_database: AppDatabase) -> AsyncIterator[Driver]:
    driver = app_database.make()
    await driver.open()
    # Not reset with a token: the fixture is torn down in another context.
    scoped_dispatcher.set(Queue(driver))
    yield driver
    scoped_dispatcher.set(None)
    await driver.close()


@asynccontextmanager
async def waiting(app_database: AppDatabase, count: int = 1) -> AsyncIterator["asyncio.Task[list[Lease]]"]:
    """A worker's view: waits for messages while the block runs, on connections of its own."""
    other = app_database.make()
    await other.open()

    async def wait() -> list[Lease]:
        found: list[Lease] = []
        while len(found) < count:
            found += await other.reserve(["default"], limit=count, lease_s=60, wait_s=WAIT_S)
        return found

    task = asyncio.create_task(wait())
    try:
        async with asyncio.timeout(WAIT_S / 2):
            yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        await other.close()


async def is_stored(driver: Driver, task_id: str) -> bool:
    assert isinstance(driver, Inspectable)
    return await driver.find(task_id) is not None


def each(libraries: dict[tuple[str, str], Any]) -> Any:
    keys = list(libraries)
    return pytest.mark.parametrize(
        ("app_database", "library"), keys, indirect=["app_database"], ids=["-".join(key) for key in keys]
    )


def of(request: pytest.FixtureRequest, libraries: dict[tuple[str, str], Any]) -> Any:
    return libraries[request.node.callspec.params["app_database"], request.node.callspec.params["library"]]


# -- asynchronous code -----------------------------------------------------------------------------


@each(ASYNC)
async def test_the_commit_wakes_a_worker_and_the_id_is_known_before_anyone_sees_it(
    request: pytest.FixtureRequest, app_database: AppDatabase, driver: Driver, library: str
) -> None:
    transaction = of(request, ASYNC)
    async with waiting(app_database, 3) as leases:
        async with transaction(app_database) as connection:
            ids = [await Note("a").dispatch(connection=connection)]
            ids += await dispatch_many([Note("b"), Note("c")], connection=connection)
            seen_before = await is_stored(driver, ids[0])
        found = await leases

    assert not seen_before
    assert [lease.message_id for lease in found] == ids


@each(ASYNC)
async def test_a_rollback_leaves_no_trace(
    request: pytest.FixtureRequest, app_database: AppDatabase, driver: Driver, library: str
) -> None:
    transaction = of(request, ASYNC)
    task = Note("a").with_options(task_id="b1a1c1d1-0000-4000-8000-000000000001")

    with pytest.raises(Rollback):
        async with transaction(app_database) as connection:
            await task.dispatch(connection=connection)
            raise Rollback

    assert (await driver.depth("default")).ready == 0
    await task.dispatch()
    assert (await driver.depth("default")).ready == 1


@each(ASYNC)
async def test_what_can_not_be_encoded_leaves_the_transaction_usable(
    request: pytest.FixtureRequest, app_database: AppDatabase, driver: Driver, library: str
) -> None:
    async with of(request, ASYNC)(app_database) as connection:
        with pytest.raises(UnserializableValue):
            await dispatch_many([Note("a"), Note(object())], connection=connection)
        await Note("b").dispatch(connection=connection)

    assert (await driver.depth("default")).ready == 1


# -- synchronous code ------------------------------------------------------------------------------


@each(SYNC)
async def test_a_sync_commit_wakes_a_worker(
    request: pytest.FixtureRequest, app_database: AppDatabase, driver: Driver, library: str
) -> None:
    transaction = of(request, SYNC)

    def dispatch() -> list[str]:
        with transaction(app_database) as connection:
            return [
                Note("a").dispatch_sync(connection=connection),
                *dispatch_many_sync([Note("b"), Note("c")], connection=connection),
            ]

    async with waiting(app_database, 3) as leases:
        ids = await asyncio.to_thread(dispatch)
        found = await leases

    assert [lease.message_id for lease in found] == ids


@each(SYNC)
async def test_a_sync_rollback_leaves_no_trace(
    request: pytest.FixtureRequest, app_database: AppDatabase, driver: Driver, library: str
) -> None:
    transaction = of(request, SYNC)

    def dispatch() -> None:
        with pytest.raises(Rollback), transaction(app_database) as connection:
            Note("a").dispatch_sync(connection=connection)
            raise Rollback

    await asyncio.to_thread(dispatch)

    assert (await driver.depth("default")).ready == 0


@pytest.mark.parametrize("app_database", DATABASES, indirect=True)
async def test_run_sync_of_an_async_session_dispatches_with_it(
    request: pytest.FixtureRequest, app_database: AppDatabase, driver: Driver
) -> None:
    library = {"postgres": "asyncpg", "mysql": "asyncmy", "sqlite": "aiosqlite"}[
        request.node.callspec.params["app_database"]
    ]

    async with by_alchemy(library, "session")(app_database) as session:
        task_id = await session.run_sync(lambda sync: Note("a").dispatch_sync(connection=sync))

    [lease] = await driver.reserve(["default"], limit=5, lease_s=60)
    assert lease.message_id == task_id


# -- which queue -----------------------------------------------------------------------------------


@pytest.mark.parametrize("app_database", DATABASES, indirect=True)
async def test_it_goes_to_the_queue_that_init_names(request: pytest.FixtureRequest, app_database: AppDatabase) -> None:
    kind = request.node.callspec.params["app_database"]
    init(driver=app_database.url)
    driver = setup.default_queue().driver
    await driver.open()

    async with next(begin for (name, _), begin in ASYNC.items() if name == kind)(app_database) as connection:
        task_id = await Note("a").dispatch(connection=connection)

    assert await is_stored(driver, task_id)
    await driver.close()


async def test_a_driver_without_transactions_names_what_to_use_instead() -> None:
    init(driver="memory")

    with pytest.raises(UnsupportedFeature, match="on_commit"):
        await Note("a").dispatch(connection=object())
