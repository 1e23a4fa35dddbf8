"""Dispatching inside a transaction of one's own: visible with its commit, never there after a rollback, id at once."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast
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

from asynctasq import AsyncTask, init
from asynctasq.core import setup
from asynctasq.drivers.base import Driver, Inspectable
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.errors import UnsupportedFeature
from asynctasq.testing.conformance.harnesses.mysql import MySQLHarness
from asynctasq.testing.conformance.harnesses.postgres import PostgresHarness
from asynctasq.testing.servers import Servers
from tests.drivers.test_foreign_connections import ASYNC as POSTGRES_ASYNC
from tests.drivers.test_foreign_connections import SYNC as POSTGRES_SYNC


class Welcome(AsyncTask[None]):
    user: int

    async def execute(self) -> None: ...


class Rollback(Exception):
    pass


class SQLitePlace:
    """A file with the queue's tables, in the shape of the servers' harnesses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"


# -- transactions on SQLite and MySQL: each yields what the user holds inside one -----------------


@asynccontextmanager
async def aiosqlite_connection(place: SQLitePlace) -> AsyncIterator[Any]:
    async with aiosqlite.connect(place.path) as connection:
        yield connection
        await connection.commit()


@asynccontextmanager
async def alchemy_async_session(place: SQLitePlace) -> AsyncIterator[Any]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{place.path}")
    try:
        async with AsyncSession(engine) as session, session.begin():
            yield session
    finally:
        await engine.dispose()


@asynccontextmanager
async def asyncmy_connection(place: MySQLHarness) -> AsyncIterator[Any]:
    parts = urlsplit(place.url)
    connection = await asyncmy.connect(
        host=parts.hostname, port=parts.port, user=parts.username, password="", db=place.database
    )
    try:
        await connection.begin()
        yield connection
        await connection.commit()
    finally:
        await connection.ensure_closed()


@contextmanager
def sqlite3_connection(place: SQLitePlace) -> Iterator[Any]:
    connection = sqlite3.connect(place.path)
    try:
        with connection:
            yield connection
    finally:
        connection.close()


@contextmanager
def alchemy_session(place: SQLitePlace) -> Iterator[Any]:
    engine = sqlalchemy.create_engine(f"sqlite:///{place.path}")
    try:
        with Session(engine) as session, session.begin():
            yield session
    finally:
        engine.dispose()


@contextmanager
def alchemy_connection_that_has_written(place: SQLitePlace) -> Iterator[Any]:
    engine = sqlalchemy.create_engine(f"sqlite:///{place.path}")
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS app (n INT)")
            connection.exec_driver_sql("INSERT INTO app VALUES (1)")
            yield connection
    finally:
        engine.dispose()


@contextmanager
def django_connection(place: SQLitePlace) -> Iterator[Any]:
    if not settings.configured:
        settings.configure()
    django.setup()
    alias = f"transactional_{place.path.parent.name}"
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(place.path)}
    connections.databases[alias] = ConnectionHandler({"default": {}, alias: database}).databases[alias]
    try:
        with ExitStack() as stack:
            stack.callback(connections[alias].close)
            stack.enter_context(transaction.atomic(using=alias))
            yield connections[alias]
    finally:
        del connections[alias]
        del connections.databases[alias]


ASYNC: dict[str, tuple[str, Callable[..., Any]]] = {
    **{f"postgres {name}": ("postgres", make) for name, make in POSTGRES_ASYNC.items()},
    "mysql asyncmy": ("mysql", asyncmy_connection),
    "sqlite aiosqlite": ("sqlite", aiosqlite_connection),
    "sqlite sqlalchemy-session": ("sqlite", alchemy_async_session),
}
SYNC: dict[str, tuple[str, Callable[..., Any]]] = {
    **{f"postgres {name}": ("postgres", make) for name, make in POSTGRES_SYNC.items()},
    "sqlite sqlite3": ("sqlite", sqlite3_connection),
    "sqlite sqlalchemy-session": ("sqlite", alchemy_session),
    "sqlite sqlalchemy-connection": ("sqlite", alchemy_connection_that_has_written),
    "sqlite django": ("sqlite", django_connection),
}


# -- the application ------------------------------------------------------------------------------


@pytest.fixture
def fresh_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "_current", None)


@pytest.fixture
async def open_place(
    conformance_servers: Servers, tmp_path: Path, fresh_setup: None
) -> AsyncIterator[Callable[[str], Any]]:
    """Make a queue in a database of the kind asked for, and configure the application to use it."""
    harnesses: list[Any] = []

    async def make(kind: str) -> Any:
        if kind == "sqlite":
            place: Any = SQLitePlace(tmp_path / "app.db")
            driver = SQLiteDriver(place.path)
            await driver.open()
            await driver.close()
        else:
            harness: Any = PostgresHarness if kind == "postgres" else MySQLHarness
            place = harness(conformance_servers.get(kind))
            await place.prepare()
            harnesses.append(place)
        init(driver=place.url)
        await default_driver().open()
        return place

    yield make
    await default_driver().close()
    for harness in harnesses:
        await harness.clean_up()


def default_driver() -> Driver:
    return setup.default_queue().driver


async def is_stored(task_id: str) -> bool:
    driver = default_driver()
    assert isinstance(driver, Inspectable)
    return await cast("Inspectable", driver).find(task_id) is not None


# -- the stories ----------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ASYNC)
async def test_a_commit_makes_the_task_visible(open_place: Callable[[str], Any], library: str) -> None:
    kind, begin = ASYNC[library]
    place = await open_place(kind)

    async with begin(place) as connection:
        task_id = await Welcome(user=1).dispatch(connection=connection)
        seen_before = await is_stored(task_id)

    assert not seen_before
    assert await is_stored(task_id)


@pytest.mark.parametrize("library", ASYNC)
async def test_a_rollback_makes_the_task_never_have_been(open_place: Callable[[str], Any], library: str) -> None:
    kind, begin = ASYNC[library]
    place = await open_place(kind)

    with pytest.raises(Rollback):
        async with begin(place) as connection:
            task_id = await Welcome(user=1).dispatch(connection=connection)
            raise Rollback

    assert not await is_stored(task_id)


@pytest.mark.parametrize("library", SYNC)
async def test_a_synchronous_commit_makes_the_task_visible(open_place: Callable[[str], Any], library: str) -> None:
    kind, begin = SYNC[library]
    place = await open_place(kind)

    def sign_up() -> str:
        with begin(place) as connection:
            return Welcome(user=1).dispatch_sync(connection=connection)

    assert await is_stored(await asyncio.to_thread(sign_up))


@pytest.mark.parametrize("library", SYNC)
async def test_a_synchronous_rollback_makes_the_task_never_have_been(
    open_place: Callable[[str], Any], library: str
) -> None:
    kind, begin = SYNC[library]
    place = await open_place(kind)
    ids: list[str] = []

    def sign_up() -> None:
        with begin(place) as connection:
            ids.append(Welcome(user=1).dispatch_sync(connection=connection))
            raise Rollback

    with pytest.raises(Rollback):
        await asyncio.to_thread(sign_up)

    assert not await is_stored(ids[0])


async def test_a_driver_without_transactions_names_what_to_use_instead(fresh_setup: None) -> None:
    init(driver="memory")

    with pytest.raises(UnsupportedFeature, match="on_commit"):
        await Welcome(user=1).dispatch(connection=object())
