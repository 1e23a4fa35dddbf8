"""One way to open, divide and end a transaction in each library that FakeQueue knows; servers are given by URL."""

import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from asynctasq.testing.servers import Servers

__all__ = ["LIBRARIES", "SERVERLESS", "Library", "Undo"]

Block = Callable[[Any], AbstractAsyncContextManager[Any]]


NUMBERS = count()


class Undo(Exception):
    """Raised in a block to roll it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """`opened` yields a connection; `transaction` and `nested` commit or release at their end, or undo if it raises."""

    like: str
    opened: Callable[[Servers | None, Path], AbstractAsyncContextManager[Any]]
    transaction: Block
    nested: Block
    is_sync: bool = False


def of_statements(run: Callable[[Any, str], Any], begin: str = "BEGIN") -> tuple[Block, Block]:
    """Return blocks of plain SQL, for libraries that have none of their own."""

    @asynccontextmanager
    async def transaction(connection: Any) -> AsyncGenerator[Any]:
        await run(connection, begin)
        try:
            yield connection
        except BaseException:
            await run(connection, "ROLLBACK")
            raise
        await run(connection, "COMMIT")

    @asynccontextmanager
    async def nested(connection: Any) -> AsyncGenerator[Any]:
        name = f"inner_{next(NUMBERS)}"  # MySQL deletes an older savepoint of the same name
        await run(connection, f"SAVEPOINT {name}")
        try:
            yield connection
        except BaseException:
            await run(connection, f"ROLLBACK TO SAVEPOINT {name}")
            raise
        await run(connection, f"RELEASE SAVEPOINT {name}")

    return transaction, nested


def by_method(begin: Callable[[Any], Any]) -> Block:
    """Return a block that ends with the connection's own `commit` or `rollback`, which may be asynchronous."""

    async def done(answer: Any) -> None:
        if hasattr(answer, "__await__"):
            await answer

    @asynccontextmanager
    async def transaction(connection: Any) -> AsyncGenerator[Any]:
        await done(begin(connection))
        try:
            yield connection
        except BaseException:
            await done(connection.rollback())
            raise
        await done(connection.commit())

    return transaction


def in_sync(make: Callable[[Any], Any]) -> Block:
    """Return a block of a synchronous library as an asynchronous one."""

    @asynccontextmanager
    async def block(connection: Any) -> AsyncGenerator[Any]:
        with make(connection):
            yield connection

    return block


def execute_begin(connection: Any) -> Any:
    return connection.execute("BEGIN")


def execute_select(connection: Any) -> Any:
    return connection.execute("SELECT 1")


# -- opening -------------------------------------------------------------------------------------


def postgres(servers: Servers | None) -> str:
    assert servers is not None, "libraries with a server are given servers"
    return servers.postgres().url


@asynccontextmanager
async def asyncpg_connection(servers: Servers | None, _folder: Path) -> AsyncIterator[Any]:
    import asyncpg

    connection = await asyncpg.connect(postgres(servers))
    yield connection
    await connection.close()


@asynccontextmanager
async def asyncpg_pooled(servers: Servers | None, _folder: Path) -> AsyncIterator[Any]:
    import asyncpg

    async with asyncpg.create_pool(postgres(servers), min_size=1, max_size=1) as pool, pool.acquire() as connection:
        yield connection


@asynccontextmanager
async def psycopg_async(servers: Servers | None, _folder: Path) -> AsyncIterator[Any]:
    import psycopg

    connection = await psycopg.AsyncConnection.connect(postgres(servers))
    yield connection
    await connection.close()


@asynccontextmanager
async def psycopg_sync(servers: Servers | None, _folder: Path) -> AsyncIterator[Any]:
    import psycopg

    connection = psycopg.connect(postgres(servers))
    yield connection
    connection.close()


@asynccontextmanager
async def asyncmy_connection(servers: Servers | None, _folder: Path) -> AsyncIterator[Any]:
    import asyncmy

    assert servers is not None, "libraries with a server are given servers"
    url = urlsplit(servers.mysql().url)
    connection = await asyncmy.connect(host=url.hostname, port=url.port, user=url.username, db=url.path[1:])
    yield connection
    await connection.ensure_closed()


async def run_asyncmy(connection: Any, statement: str) -> None:
    async with connection.cursor() as cursor:
        await cursor.execute(statement)


@asynccontextmanager
async def sqlite_connection(_servers: Servers | None, folder: Path) -> AsyncIterator[Any]:
    connection = sqlite3.connect(folder / "app.db", isolation_level=None)
    yield connection
    connection.close()


async def run_sqlite(connection: Any, statement: str) -> None:
    connection.execute(statement)


@asynccontextmanager
async def aiosqlite_connection(_servers: Servers | None, folder: Path) -> AsyncIterator[Any]:
    import aiosqlite

    async with aiosqlite.connect(folder / "app.db") as connection:
        yield connection


async def run_aiosqlite(connection: Any, statement: str) -> None:
    await (await connection.execute(statement)).close()


def sqlalchemy_async(made: Callable[[Any], Any], *, scheme: str) -> Any:
    @asynccontextmanager
    async def opened(servers: Servers | None, folder: Path) -> AsyncIterator[Any]:
        from sqlalchemy.ext.asyncio import create_async_engine

        engine = create_async_engine(address(scheme, servers, folder))
        async with made(engine) as connection:
            yield connection
        await engine.dispose()

    return opened


def sqlalchemy_sync(made: Callable[[Any], Any], *, scheme: str) -> Any:
    @asynccontextmanager
    async def opened(servers: Servers | None, folder: Path) -> AsyncIterator[Any]:
        from sqlalchemy import create_engine

        engine = create_engine(address(scheme, servers, folder))
        with made(engine) as connection:
            yield connection
        engine.dispose()

    return opened


def address(scheme: str, servers: Servers | None, folder: Path) -> str:
    if scheme.startswith("sqlite"):
        return f"{scheme}:///{folder / 'app.db'}"
    return postgres(servers).replace("postgresql://", f"{scheme}://")


def async_session(engine: Any) -> Any:
    from sqlalchemy.ext.asyncio import AsyncSession

    return AsyncSession(engine)


def session(engine: Any) -> Any:
    from sqlalchemy.orm import Session

    return Session(engine)


def connect(engine: Any) -> Any:
    return engine.connect()


def begin(connection: Any) -> Any:
    return connection.begin()


def begin_nested(connection: Any) -> Any:
    return connection.begin_nested()


def own_transaction(connection: Any) -> Any:
    return connection.transaction()


ASYNCMY = of_statements(run_asyncmy)
SQLITE = of_statements(run_sqlite)
AIOSQLITE = of_statements(run_aiosqlite)

SERVERLESS: dict[str, Library] = {
    "sqlite3": Library(like="sqlite", opened=sqlite_connection, transaction=SQLITE[0], nested=SQLITE[1], is_sync=True),
    "sqlite3, commit()": Library(
        like="sqlite", opened=sqlite_connection, transaction=by_method(execute_begin), nested=SQLITE[1], is_sync=True
    ),
    "aiosqlite": Library(like="sqlite", opened=aiosqlite_connection, transaction=AIOSQLITE[0], nested=AIOSQLITE[1]),
    "aiosqlite, commit()": Library(
        like="sqlite", opened=aiosqlite_connection, transaction=by_method(execute_begin), nested=AIOSQLITE[1]
    ),
    "SQLAlchemy AsyncSession, aiosqlite": Library(
        like="sqlite",
        opened=sqlalchemy_async(async_session, scheme="sqlite+aiosqlite"),
        transaction=begin,
        nested=begin_nested,
    ),
    "SQLAlchemy Session, sqlite3": Library(
        like="sqlite",
        opened=sqlalchemy_sync(session, scheme="sqlite"),
        transaction=in_sync(begin),
        nested=in_sync(begin_nested),
        is_sync=True,
    ),
    "SQLAlchemy Connection, sqlite3": Library(
        like="sqlite",
        opened=sqlalchemy_sync(connect, scheme="sqlite"),
        transaction=in_sync(begin),
        nested=in_sync(begin_nested),
        is_sync=True,
    ),
}
LIBRARIES: dict[str, Library] = {
    **SERVERLESS,
    "asyncpg": Library(like="postgres", opened=asyncpg_connection, transaction=own_transaction, nested=own_transaction),
    "asyncpg, pool": Library(
        like="postgres", opened=asyncpg_pooled, transaction=own_transaction, nested=own_transaction
    ),
    "psycopg AsyncConnection": Library(
        like="postgres", opened=psycopg_async, transaction=own_transaction, nested=own_transaction
    ),
    "psycopg AsyncConnection, commit()": Library(
        like="postgres", opened=psycopg_async, transaction=by_method(execute_select), nested=own_transaction
    ),
    "psycopg Connection": Library(
        like="postgres",
        opened=psycopg_sync,
        transaction=in_sync(own_transaction),
        nested=in_sync(own_transaction),
        is_sync=True,
    ),
    "psycopg Connection, commit()": Library(
        like="postgres",
        opened=psycopg_sync,
        transaction=by_method(execute_select),
        nested=in_sync(own_transaction),
        is_sync=True,
    ),
    "asyncmy": Library(like="mysql", opened=asyncmy_connection, transaction=ASYNCMY[0], nested=ASYNCMY[1]),
    "asyncmy, commit()": Library(
        like="mysql", opened=asyncmy_connection, transaction=by_method(begin), nested=ASYNCMY[1]
    ),
    "SQLAlchemy AsyncSession, asyncpg": Library(
        like="postgres",
        opened=sqlalchemy_async(async_session, scheme="postgresql+asyncpg"),
        transaction=begin,
        nested=begin_nested,
    ),
    "SQLAlchemy AsyncConnection, asyncpg": Library(
        like="postgres",
        opened=sqlalchemy_async(connect, scheme="postgresql+asyncpg"),
        transaction=begin,
        nested=begin_nested,
    ),
    "SQLAlchemy Session, psycopg": Library(
        like="postgres",
        opened=sqlalchemy_sync(session, scheme="postgresql+psycopg"),
        transaction=in_sync(begin),
        nested=in_sync(begin_nested),
        is_sync=True,
    ),
    "SQLAlchemy Connection, psycopg": Library(
        like="postgres",
        opened=sqlalchemy_sync(connect, scheme="postgresql+psycopg"),
        transaction=in_sync(begin),
        nested=in_sync(begin_nested),
        is_sync=True,
    ),
}
