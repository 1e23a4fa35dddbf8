"""Run our statements on a connection the caller owns, whatever library made it; imports none of them.

A statement is written in its dialect's own style: `$1` for PostgreSQL, `%s` for MySQL, `?` for SQLite. It is
translated to what the library at hand expects. Nothing here commits, rolls back or closes.
"""

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn, Protocol

from asynctasq.drivers.sql.paramstyles import translate
from asynctasq.errors import AsyncTasqError, DriverError, UnsupportedFeature

__all__ = [
    "CallerConnection",
    "SyncCallerConnection",
    "adapt",
    "adapt_sync",
    "by_alias",
    "kind_of",
    "refuse_autocommit",
]

MISSING_TABLE_SQLSTATES = frozenset({"42P01", "3F000"})
SUPPORTED_CONNECTIONS = (
    "an asyncpg or psycopg connection, an asyncmy connection, a sqlite3 or aiosqlite connection, "
    "a SQLAlchemy session or connection, or Django's connection or its alias"
)


class CallerConnection(Protocol):
    """A connection used from asynchronous code."""

    dialect: str
    """`postgresql`, `mysql` (MariaDB too) or `sqlite`."""

    async def fetch(self, statement: str, values: Sequence[Any]) -> Sequence[Any]:
        """Run one statement and return its rows, each a sequence; empty if it returns none."""
        ...


class SyncCallerConnection(Protocol):
    """A connection used from synchronous code."""

    dialect: str

    def fetch(self, statement: str, values: Sequence[Any]) -> Sequence[Any]:
        """Do what `CallerConnection.fetch` does."""
        ...


def adapt(connection: Any, *, dialect: str | None) -> CallerConnection:
    """Return `connection` as one that runs statements of `dialect`; None takes any.

    A synchronous one (sqlite3, psycopg's, SQLAlchemy's, Django's) is used directly, in the thread that calls.

    Raises: UnsupportedFeature for a kind that is not known, of another database, or without a transaction.
    """
    connection = by_alias(connection)
    kind = kind_of(connection)
    if (make := ASYNC_KINDS.get(kind)) is not None:
        callers = make(connection)
    elif (make_sync := SYNC_KINDS.get(kind)) is not None:
        callers = _SyncInAsync(make_sync(connection))
    else:
        _refuse_kind(connection)
    _check_dialect(callers.dialect, dialect)
    return callers


def adapt_sync(connection: Any, *, dialect: str | None) -> SyncCallerConnection:
    """Do `adapt` for synchronous code, where an asynchronous connection can't be used."""
    connection = by_alias(connection)
    kind = kind_of(connection)
    make = SYNC_KINDS.get(kind)
    if make is None:
        if kind in ASYNC_KINDS:
            raise UnsupportedFeature(
                f"{_type_name(connection)} is used with await; dispatch from asynchronous code, "
                "or give the connection of a synchronous transaction"
            )
        _refuse_kind(connection)
    callers = make(connection)
    _check_dialect(callers.dialect, dialect)
    return callers


def by_alias(connection: Any) -> Any:
    """Return Django's connection if `connection` is the alias of one, else `connection` itself."""
    if not isinstance(connection, str):
        return connection
    # Whoever names a database of Django's has imported and configured it.
    conf: Any = sys.modules.get("django.conf")
    database: Any = sys.modules.get("django.db")
    if conf is None or database is None or not conf.settings.configured:
        return connection
    known = database.connections  # Django's handler, which is no mapping
    return known[connection] if connection in known else connection  # noqa: SIM401


def _type_name(connection: Any) -> str:
    return f"{type(connection).__module__}.{type(connection).__qualname__}"


def _refuse_kind(connection: Any) -> NoReturn:
    raise UnsupportedFeature(f"{_type_name(connection)} is not a connection we can use; give {SUPPORTED_CONNECTIONS}")


def refuse_autocommit(what: str, begin: str) -> NoReturn:
    """Raise UnsupportedFeature for a connection without a transaction; `begin` says how to begin one."""
    raise UnsupportedFeature(
        f"the {what} given is in no transaction, so the message would be stored at once and a rollback could not "
        f"take it back; {begin}, or dispatch without a connection"
    )


def _check_dialect(found: str, wanted: str | None) -> None:
    if wanted not in {None, found}:
        raise UnsupportedFeature(
            f"the connection given is to a {found} database, the driver keeps its messages in {wanted}; "
            "a transaction can't span both: dispatch after the commit"
        )


def kind_of(connection: Any) -> str:
    """Return "package.Class" of the first base class that is known, so that subclasses and proxies work; else ""."""
    for base in type(connection).__mro__:
        kind = f"{base.__module__.split('.')[0]}.{base.__name__}"
        if kind in ASYNC_KINDS or kind in SYNC_KINDS:
            return kind
    return ""


@contextmanager
def _mapped_errors() -> Generator[None, None, None]:
    """Turn what any library raises into a `DriverError`; the original is its cause."""
    try:
        yield
    except AsyncTasqError:
        raise
    except Exception as error:
        # The libraries have no common base class, and are not imported here.
        if _lacks_our_tables(error):
            raise UnsupportedFeature(
                f"the connection given is to a database without our tables ({_first_line(error)}): it is another "
                "one than the driver's, or `asynctasq migrate` was not run; roll back your transaction"
            ) from error
        raise DriverError(
            f"storing in the caller's transaction failed: {_first_line(error)}; roll back the transaction"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _lacks_our_tables(error: BaseException) -> bool:
    # SQLAlchemy keeps the library's error in `orig`, Django as the cause.
    origin = getattr(error, "orig", None) or error
    for known in (origin, origin.__cause__):
        if getattr(known, "sqlstate", getattr(known, "pgcode", None)) in MISSING_TABLE_SQLSTATES:
            return True
        if known is not None and (known.args[:1] == (1146,) or "no such table" in str(known)):
            return True
    return False


# -- asynchronous --------------------------------------------------------------------------------


class _SyncInAsync:
    """A synchronous connection in asynchronous code: the statement blocks the loop, as all its others do."""

    def __init__(self, callers: SyncCallerConnection) -> None:
        self.dialect = callers.dialect
        self._callers = callers

    async def fetch(self, statement: str, values: Sequence[Any]) -> Sequence[Any]:
        return self._callers.fetch(statement, values)


class _Asyncpg:
    dialect = "postgresql"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, statement: str, values: Sequence[Any]) -> Sequence[Any]:
        with _mapped_errors():
            if not self._connection.is_in_transaction():
                refuse_autocommit("asyncpg connection", "use it inside `async with connection.transaction():`")
            rows: Sequence[Any] = await self._connection.fetch(statement, *values)
            return rows


def _check_psycopg(connection: Any) -> None:
    # Without autocommit the first statement begins a transaction.
    if connection.autocommit and connection.info.transaction_status.name == "IDLE":
        refuse_autocommit("psycopg connection (autocommit)", "use it inside `with connection.transaction():`")


def _tuple_rows(_cursor: Any) -> Callable[[Sequence[Any]], Any]:
    return tuple


class _PsycopgAsync:
    dialect = "postgresql"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, statement: str, values: Sequence[Any]) -> Sequence[Any]:
        with _mapped_errors():
            _check_psycopg(self._connection)
            async with self._connection.cursor(row_factory=_tuple_rows) as cursor:
                await cursor.execute(*translate(statement, values, "pyformat"))
                return await cursor.fetchall() if cursor.description else []


class _SqlalchemyAsync:
    """An `AsyncConnection`, or that of an `AsyncSession`'s transaction; statements run through the synchronous core."""

    def __init__(self, given: Any, *, session: bool = False) -> None:
        self._given = given
        self._session = session
        self.dialect = _dialect_of(given.get_bind() if session else given)

    async def fetch(self, statement: str, values: Sequence[Any]) -> Sequence[Any]:
        with _mapped_errors():
            connection = await self._given.connection() if self._session else self._given
            rows: Sequence[Any] = await connection.run_sync(_run_sqlalchemy, statement, values)
            return rows


class _Asyncmy:
    dialect = "mysql"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, statement: str, values: Sequence[Any]) -> Sequence[Any]:
        from asyncmy.cursors import Cursor  # The caller's default may return dicts.

        with _mapped_errors():
            if self._connection.get_autocommit() and not self._connection.get_transaction_status():
                refuse_autocommit("asyncmy connection (autocommit)", "call `await connection.begin()` before")
            async with self._connection.cursor(Cursor) as cursor:
                await cursor.execute(statement, tuple(values))
                rows: Sequence[Any] = await cursor.fetchall() if cursor.description else []
                return rows


class _Aiosqlite:
    dialect = "sqlite"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, statement: str, values: Sequence[Any]) -> Sequence[Any]:
        with _mapped_errors():
            if _needs_begin(self._connection):
                await self._connection.execute("BEGIN")
            cursor = await self._connection.execute(statement, tuple(values))
            cursor.row_factory = None
            rows: Sequence[Any] = await cursor.fetchall()
            await cursor.close()
            return rows


# -- synchronous ---------------------------------------------------------------------------------


class _Psycopg:
    dialect = "postgresql"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def fetch(self, statement: str, values: Sequence[Any]) -> Sequence[Any]:
        with _mapped_errors():
            _check_psycopg(self._connection)
            with self._connection.cursor(row_factory=_tuple_rows) as cursor:
                cursor.execute(*translate(statement, values, "pyformat"))
                return cursor.fetchall() if cursor.description else []


class _Sqlalchemy:
    """A `Connection`, or that of a `Session`'s transaction."""

    def __init__(self, given: Any, *, session: bool = False) -> None:
        self._given = given
        self._session = session
        self.dialect = _dialect_of(given.get_bind() if session else given)

    def fetch(self, statement: str, values: Sequence[Any]) -> Sequence[Any]:
        with _mapped_errors():
            connection = self._given.connection() if self._session else self._given
            return _run_sqlalchemy(connection, statement, values)


def _dialect_of(bound: Any) -> str:
    name = str(bound.dialect.name)
    return "mysql" if name == "mariadb" else name


def _run_sqlalchemy(connection: Any, statement: str, values: Sequence[Any]) -> Sequence[Any]:
    if _is_autocommit(connection):
        refuse_autocommit("SQLAlchemy connection (AUTOCOMMIT)", "use another isolation level")
    text, parameters = translate(statement, values, connection.dialect.paramstyle)
    result = connection.exec_driver_sql(text, parameters)
    rows: Sequence[Any] = result.fetchall() if result.returns_rows else []
    return rows


def _is_autocommit(connection: Any) -> bool:
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        return True
    # Older versions of SQLAlchemy can't tell when the engine was made with AUTOCOMMIT.
    detect = getattr(connection.dialect, "detect_autocommit_setting", None)
    if detect is None or connection.dialect.name == "sqlite":
        return False
    try:
        return bool(detect(connection.connection.dbapi_connection))
    except NotImplementedError:
        return False


class _Django:
    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.dialect = str(connection.vendor)

    def fetch(self, statement: str, values: Sequence[Any]) -> Sequence[Any]:
        with _mapped_errors():
            if not self._connection.in_atomic_block and self._connection.get_autocommit():
                refuse_autocommit("Django connection", "use it inside `with transaction.atomic():`")
            with self._connection.cursor() as cursor:
                cursor.execute(*translate(statement, values, "pyformat"))
                return cursor.fetchall() if cursor.description else []


class _Sqlite:
    dialect = "sqlite"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def fetch(self, statement: str, values: Sequence[Any]) -> Sequence[Any]:
        with _mapped_errors():
            if _needs_begin(self._connection):
                self._connection.execute("BEGIN")
            cursor = self._connection.cursor()
            cursor.row_factory = None
            rows: Sequence[Any] = cursor.execute(statement, tuple(values)).fetchall()
            cursor.close()
            return rows


def _needs_begin(connection: Any) -> bool:
    """Say whether a transaction is to be begun: sqlite3 does so itself only for statements that start with INSERT."""
    if connection.in_transaction:
        return False
    if connection.isolation_level is None or getattr(connection, "autocommit", None) is True:
        refuse_autocommit("SQLite connection (autocommit)", "execute BEGIN before")
    return True


ASYNC_KINDS: dict[str, Callable[[Any], CallerConnection]] = {
    "asyncpg.Connection": _Asyncpg,
    "asyncpg.PoolConnectionProxy": _Asyncpg,
    "psycopg.AsyncConnection": _PsycopgAsync,
    "sqlalchemy.AsyncSession": partial(_SqlalchemyAsync, session=True),
    "sqlalchemy.async_scoped_session": partial(_SqlalchemyAsync, session=True),
    "sqlalchemy.AsyncConnection": _SqlalchemyAsync,
    "asyncmy.Connection": _Asyncmy,
    "aiosqlite.Connection": _Aiosqlite,
}
SYNC_KINDS: dict[str, Callable[[Any], SyncCallerConnection]] = {
    "psycopg.Connection": _Psycopg,
    "sqlalchemy.Session": partial(_Sqlalchemy, session=True),
    "sqlalchemy.scoped_session": partial(_Sqlalchemy, session=True),
    "sqlalchemy.Connection": _Sqlalchemy,
    "django.BaseDatabaseWrapper": _Django,
    "django.ConnectionProxy": _Django,
    "sqlite3.Connection": _Sqlite,
}
