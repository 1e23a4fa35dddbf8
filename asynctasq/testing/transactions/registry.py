"""Every transaction that a FakeQueue's changes wait for, and what became of them."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from asynctasq.drivers.base import Driver
from asynctasq.drivers.sql.caller_connections import adapt, adapt_sync, by_alias, kind_of, refuse_autocommit
from asynctasq.errors import DriverError, DriverUnavailable, UnsupportedFeature
from asynctasq.testing.transactions.changes import Change
from asynctasq.testing.transactions.framework_watches import (
    DjangoWatch,
    SqlalchemySessionWatch,
    SqlalchemyWatch,
    in_users_block,
)
from asynctasq.testing.transactions.watches import AsyncmyWatch, AsyncpgWatch, PsycopgWatch, SqliteWatch, Watch

__all__ = ["Transactions"]

WATCHES: dict[str, Callable[[Any], Watch]] = {
    "asyncpg.Connection": AsyncpgWatch,
    "psycopg.AsyncConnection": PsycopgWatch,
    "psycopg.Connection": PsycopgWatch,
    "asyncmy.Connection": AsyncmyWatch,
    "sqlite3.Connection": SqliteWatch,
    "aiosqlite.Connection": SqliteWatch,
    "sqlalchemy.Session": SqlalchemySessionWatch,
    "sqlalchemy.Connection": SqlalchemyWatch,
    "django.BaseDatabaseWrapper": DjangoWatch,
}
DIALECTS = {"sqlite_driver": "sqlite", "postgres_driver": "postgresql", "mysql_driver": "mysql"}
SQLITE = {"sqlite3.Connection", "aiosqlite.Connection"}
"""Kinds on which the driver itself begins a transaction; watched before, so that no savepoint is missed."""
LISTENED = {"sqlalchemy.Session", "sqlalchemy.Connection"}
"""Kinds whose listeners stay while nothing waits: one must not be removed while others are being called."""
PROBE = "SELECT 1"
"""Begins a transaction where the driver's own statement would, and fails where that would."""


class Transactions:
    """The connections on which changes of the queue wait for a commit. Used from any thread."""

    def __init__(self) -> None:
        self._watches: dict[int, tuple[Any, Watch]] = {}
        self._idle: WeakKeyDictionary[Any, Watch] = WeakKeyDictionary()
        self.rolled_back: list[Change] = []

    # -- making changes --------------------------------------------------------------------------

    async def begin(self, connection: Any, driver: Driver | None) -> Watch:
        """Do with the connection what `driver` would, but store nothing; return what follows its transaction.

        Raises: UnsupportedFeature and DriverError, in the words of that driver.
        """
        with _hint():
            dialect = dialect_of(driver)
            callers = adapt(connection, dialect=dialect)
            connection = _innermost_connection(connection)
            _check_block(connection)
            if kind_of(connection) in SQLITE:
                watch = self._known(connection) or await _installed(connection)
                await _begin_sqlite_async(connection)
            else:
                await callers.fetch(PROBE, ())
                connection = _innermost_connection(connection)
                watch = self._known(connection) or await _installed(connection)
        return self._keep(connection, watch)

    def begin_sync(self, connection: Any, driver: Driver | None) -> Watch:
        """Do `begin` from synchronous code."""
        with _hint():
            callers = adapt_sync(connection, dialect=dialect_of(driver))
            connection = _innermost_connection(connection)
            _check_block(connection)
            if kind_of(connection) in SQLITE:
                watch = self._known(connection) or _installed_sync(connection)
                _begin_sqlite(connection)
            else:
                callers.fetch(PROBE, ())
                watch = self._known(connection) or _installed_sync(connection)
        return self._keep(connection, watch)

    def add(self, watch: Watch, change: Change) -> None:
        """Let a change wait for the end of the transaction that `watch` follows."""
        watch.refresh()  # what an earlier transaction did is over
        undo = change.undo

        def undone() -> None:
            undo()
            self.rolled_back.append(change)

        change.undo = undone
        watch.stack.add(change)

    def _known(self, connection: Any) -> Watch | None:
        found = self._watches.get(id(connection))
        if found is not None:
            return found[1]
        return self._idle.get(connection) if kind_of(connection) in LISTENED else None

    def _keep(self, connection: Any, watch: Watch) -> Watch:
        self._watches[id(connection)] = (connection, watch)
        return watch

    # -- looking at them -------------------------------------------------------------------------

    def refresh(self) -> None:
        """Apply what was committed, forget what was rolled back, let go of connections on which nothing waits."""
        if not self._watches:
            return
        for key, (connection, watch) in list(self._watches.items()):
            watch.refresh()
            if watch.stack.changes or self._watches.pop(key, None) is None:
                continue
            if kind_of(connection) in LISTENED:
                self._idle[connection] = watch
            else:
                watch.uninstall()

    @property
    def waiting(self) -> list[Change]:
        """What waits for a commit, by connection."""
        return [change for _, watch in list(self._watches.values()) for change in watch.stack.changes]

    def refuse_settling(self, message_ids: Iterable[str]) -> None:
        """Raise DriverUnavailable if one of these messages is settled in a transaction that is still open."""
        self.refresh()
        if self._watches and not frozenset().union(*(each.settles for each in self.waiting)).isdisjoint(message_ids):
            raise DriverUnavailable("the message is locked by a transaction that is still open")

    def commit(self) -> None:
        """Take every transaction for committed."""
        for _, watch in list(self._watches.values()):
            watch.stack.commit()
        self.refresh()

    def drop(self, owner: object) -> None:
        """Take what a worker did in transactions for rolled back: it has died, and its connections with it."""
        if self._watches:
            for change in self.waiting:
                if change.owner is owner:
                    change.roll_back()

    def close(self) -> None:
        """Leave every connection as it was."""
        watches, self._watches = self._watches, {}
        for watch in [*(watch for _, watch in watches.values()), *self._idle.values()]:
            watch.uninstall()
        self._idle.clear()


def dialect_of(driver: Driver | None) -> str | None:
    """Return the dialect of the database that a driver keeps its messages in; None where that is not known."""
    for base in type(driver).__mro__:
        module = base.__module__
        if module.startswith("asynctasq.drivers."):
            return DIALECTS.get(module.split(".")[2])
    return None


def _innermost_connection(connection: Any) -> Any:
    """Return what a pool's proxy, a scoped session, an asynchronous facade or Django's proxy stands for."""
    connection = by_alias(connection)
    match kind_of(connection):
        case "asyncpg.PoolConnectionProxy":
            return connection._con  # noqa: SLF001 - the proxy shows the methods only
        case "sqlalchemy.scoped_session":
            return connection()
        case "sqlalchemy.async_scoped_session":
            return connection().sync_session
        case "sqlalchemy.AsyncSession":
            return connection.sync_session
        case "sqlalchemy.AsyncConnection":
            return connection.sync_connection or connection  # not begun: the driver's statement says so
        case "django.ConnectionProxy":
            hidden: Any = connection.__dict__
            return hidden["_connections"][hidden["_alias"]]
        case _:
            return connection


def _check_block(connection: Any) -> None:
    """Refuse a Django connection that is in no transaction but the one a TestCase holds around the test."""
    if kind_of(connection) == "django.BaseDatabaseWrapper" and not in_users_block(connection):
        refuse_autocommit("Django connection", "use it inside `with transaction.atomic():`")


async def _installed(connection: Any) -> Watch:
    if kind_of(connection) == "aiosqlite.Connection" and not _is_open(connection):
        raise DriverError("the caller's connection is closed; pass an open one")
    watch = WATCHES[kind_of(connection)](connection)
    await watch.install()
    return watch


def _is_open(connection: Any) -> bool:
    try:
        return connection.in_transaction is not None
    except ValueError:
        return False


def _installed_sync(connection: Any) -> Watch:
    watch = WATCHES[kind_of(connection)](connection)
    watch.install_sync()
    return watch


def _begin_sqlite(connection: Any) -> None:
    from asynctasq.drivers.sqlite_driver.callers_transaction import BEGIN, refuse_autocommit_mode

    refuse_autocommit_mode(connection)
    if not connection.in_transaction:
        connection.execute(BEGIN)


async def _begin_sqlite_async(connection: Any) -> None:
    from asynctasq.drivers.sqlite_driver.callers_transaction import BEGIN

    if kind_of(connection) == "sqlite3.Connection":
        _begin_sqlite(connection)
    elif not connection.in_transaction:
        await (await connection.execute(BEGIN)).close()


@contextmanager
def _hint() -> Generator[None]:
    """Add to a refusal that is about the driver what a test can do."""
    try:
        yield
    except UnsupportedFeature as error:
        if "keeps its messages in" in str(error):
            error.add_note(
                "a FakeQueue refuses what the configured driver would; FakeQueue(like='sqlite') (or 'postgres', "
                "'mysql') tests with another driver's rules"
            )
        raise
