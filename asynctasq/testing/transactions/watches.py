"""How one connection's transaction is followed to its end, for the libraries that run statements; imports none."""

from collections.abc import Callable, Generator
from contextlib import suppress
from functools import wraps
from typing import Any, Protocol, cast

from asynctasq.testing.transactions.changes import Change, SavepointStack
from asynctasq.testing.transactions.control_statements import Control, ControlStatement, control_statements

__all__ = ["AsyncmyWatch", "AsyncpgWatch", "Holder", "PsycopgWatch", "SqliteWatch", "Watch"]

DEADLOCK = 1213
"""MySQL's error after which the whole transaction is rolled back."""
DIVIDING = {Control.SAVEPOINT, Control.RELEASE, Control.ROLLBACK_TO}


class Holder(Protocol):
    """The changes that wait on one connection."""

    @property
    def changes(self) -> list[Change]:
        """All that wait, in the order in which they were made."""
        ...

    def add(self, change: Change) -> None:
        """Let a change belong to the innermost savepoint."""
        ...

    def commit(self) -> None:
        """Apply everything: the transaction was committed."""
        ...


class Watch(Protocol):
    """Follows one connection from the first change made on it."""

    @property
    def stack(self) -> Holder:
        """What waits on it."""
        ...

    async def install(self) -> None:
        """Begin to watch, from asynchronous code."""
        ...

    def install_sync(self) -> None:
        """Begin to watch, from synchronous code."""
        ...

    def uninstall(self) -> None:
        """Leave the connection as it was."""
        ...

    def refresh(self) -> None:
        """Find out what only the connection's state tells. Called before anyone looks at the queue."""
        ...


class AsyncpgWatch:
    """Overrides `execute` in the connection's class: all of asyncpg's own transaction commands go through it.

    Its query loggers are told later, in another step of the loop, when a test may have looked already.
    """

    def __init__(self, connection: Any) -> None:
        self.stack = SavepointStack()
        self._connection = connection
        self._class: Any = type(connection)

    async def install(self) -> None:
        self.install_sync()

    def install_sync(self) -> None:
        original: Any = self._class.execute
        stack = self.stack

        @wraps(original)
        async def execute(connection: Any, query: str, *args: Any, timeout: float | None = None) -> Any:
            statements = control_statements(query)
            try:
                status: Any = await original(connection, query, *args, timeout=timeout)
            except BaseException:
                _ended_badly(statements, stack)
                raise
            for statement in statements:
                # A COMMIT of a failed transaction is a ROLLBACK, and the status says so.
                failed = statement.kind is Control.COMMIT and len(statements) == 1 and status == "ROLLBACK"
                stack.follow(ControlStatement(Control.ROLLBACK) if failed else statement)
            return status

        namespace: dict[str, Any] = {"__slots__": (), "execute": execute, "__module__": self._class.__module__}
        metaclass: Any = cast("Any", type)(self._class)
        self._connection.__class__ = metaclass(self._class.__name__, (self._class,), namespace)

    def uninstall(self) -> None:
        self._connection.__class__ = self._class

    def refresh(self) -> None:
        if self.stack.changes and self._connection.is_closed():
            self.stack.roll_back()


class PsycopgWatch:
    """Wraps what runs psycopg's own transaction commands, and the cursors, for statements written by hand."""

    def __init__(self, connection: Any) -> None:
        self.stack = SavepointStack()
        self._connection = connection
        self._cursor_classes: dict[type[Any], type[Any]] = {}

    async def install(self) -> None:
        self.install_sync()

    def install_sync(self) -> None:
        connection = self._connection
        run_command, make_cursor = connection._exec_command, connection.cursor  # noqa: SLF001 - no public hook

        @wraps(run_command)
        def run(command: Any, *args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            done = self._about_to_run(command)
            result = yield from done(run_command(command, *args, **kwargs))
            return result

        @wraps(make_cursor)
        def cursor(*args: Any, **kwargs: Any) -> Any:
            made: Any = make_cursor(*args, **kwargs)
            made.__class__ = self._watched(made.__class__)
            return made

        connection._exec_command, connection.cursor = run, cursor  # noqa: SLF001

    def uninstall(self) -> None:
        for name in ("_exec_command", "cursor"):
            self._connection.__dict__.pop(name, None)

    def refresh(self) -> None:
        if self.stack.changes and self._connection.closed:
            self.stack.roll_back()

    def _about_to_run(self, command: Any) -> "Callable[[Generator[Any, Any, Any]], Generator[Any, Any, Any]]":
        """Note the state before a command; return what runs it and follows what it did."""
        statements, failed = self.read(command)

        def run(running: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
            try:
                result = yield from running
            except BaseException:
                _ended_badly(statements, self.stack)
                raise
            self.follow(statements, failed=failed)
            return result

        return run

    def read(self, command: Any) -> tuple[list[ControlStatement], bool]:
        """Return what a command is about to do, and whether the transaction that it meets has failed."""
        return control_statements(self._text(command)), self._connection.info.transaction_status.name == "INERROR"

    def follow(self, statements: list[ControlStatement], *, failed: bool) -> None:
        """Do what a command did."""
        for statement in statements:
            rolled_back = failed and statement.kind is Control.COMMIT  # PostgreSQL takes it for a ROLLBACK
            self.stack.follow(ControlStatement(Control.ROLLBACK) if rolled_back else statement)

    def _text(self, command: Any) -> str:
        if isinstance(command, bytes):
            return command.decode("utf-8", "replace")
        return command if isinstance(command, str) else str(command.as_string(self._connection))

    def _watched(self, cls: type[Any]) -> type[Any]:
        """Return a cursor class that tells us of the transaction statements that are written by hand."""
        if cls not in self._cursor_classes:
            execute = _execute_in_async(cls, self) if hasattr(cls, "__aenter__") else _execute_in_sync(cls, self)
            namespace = {"__slots__": (), "execute": execute, "__module__": cls.__module__}
            self._cursor_classes[cls] = type(cls.__name__, (cls,), namespace)
        return self._cursor_classes[cls]


def _execute_in_async(cls: type[Any], watch: PsycopgWatch) -> Any:
    original = cls.execute

    @wraps(original)
    async def execute(cursor: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        statements, failed = watch.read(query)
        result = await original(cursor, query, *args, **kwargs)
        watch.follow(statements, failed=failed)
        return result

    return execute


def _execute_in_sync(cls: type[Any], watch: PsycopgWatch) -> Any:
    original = cls.execute

    @wraps(original)
    def execute(cursor: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        statements, failed = watch.read(query)
        result = original(cursor, query, *args, **kwargs)
        watch.follow(statements, failed=failed)
        return result

    return execute


class AsyncmyWatch:
    """Wraps the connection's `commit`, `rollback` and `query`, which every statement goes through."""

    def __init__(self, connection: Any) -> None:
        self.stack = SavepointStack()
        self._connection = connection

    async def install(self) -> None:
        self.install_sync()

    def install_sync(self) -> None:
        connection = self._connection
        commit, rollback, query = connection.commit, connection.rollback, connection.query

        async def watched_commit() -> None:
            try:
                await commit()
            except BaseException:
                self.stack.roll_back()
                raise
            self.stack.commit()

        async def watched_rollback() -> None:
            try:
                await rollback()
            finally:
                self.stack.roll_back()

        async def watched_query(sql: Any, *args: Any, **kwargs: Any) -> Any:
            statements = control_statements(sql if isinstance(sql, str) else bytes(sql).decode("utf-8", "replace"))
            was_open = connection.get_transaction_status()
            try:
                result = await query(sql, *args, **kwargs)
            except BaseException as error:
                if error.args[:1] == (DEADLOCK,):
                    self.stack.roll_back()
                _ended_badly(statements, self.stack)
                raise
            for statement in statements:
                # A second BEGIN commits, as every statement does that changes a table's definition.
                begins = statement.kind is Control.BEGIN
                self.stack.follow(ControlStatement(Control.COMMIT) if begins else statement)
            if not statements and was_open and not connection.get_transaction_status():
                self.stack.commit()
            return result

        connection.commit, connection.rollback, connection.query = watched_commit, watched_rollback, watched_query

    def uninstall(self) -> None:
        for name in ("commit", "rollback", "query"):
            self._connection.__dict__.pop(name, None)

    def refresh(self) -> None:
        if self.stack.changes and not self._connection.connected:
            self.stack.roll_back()


class SqliteWatch:
    """SQLite tells each statement as it begins; whether it took effect is seen in the state that it leaves."""

    def __init__(self, connection: Any) -> None:
        self.stack = SavepointStack()
        self._connection = connection
        self._begun: ControlStatement | None = None
        self._followed = False
        self._watching = False

    async def install(self) -> None:
        self._watching, self.stack.complete = True, not self._in_transaction()
        answer = self._connection.set_trace_callback(self._trace)
        if answer is not None:  # aiosqlite's
            await answer

    def install_sync(self) -> None:
        self._watching, self.stack.complete = True, not self._in_transaction()
        self._connection.set_trace_callback(self._trace)

    def uninstall(self) -> None:
        self._watching = False
        with suppress(Exception):  # closed, or of another thread; then the callback does nothing any more
            answer = self._connection.set_trace_callback(None)
            if hasattr(answer, "close"):  # aiosqlite's coroutine, for which there is no loop here
                answer.close()

    def refresh(self) -> None:
        """Follow the statement that began last; it may still be running, in another thread."""
        if not self._in_transaction():
            self._end()
        elif self._begun is not None and self._begun.kind in DIVIDING and not self._followed:
            self._followed = True
            self.stack.follow(self._begun)

    def _trace(self, sql: str) -> None:
        if not self._watching:
            return
        self.refresh()  # the statement before this one has ended; a COMMIT that leaves a transaction open has failed
        self._begun = next(iter(control_statements(sql)), None)
        self._followed = False
        self.stack.complete = self.stack.complete or not self._in_transaction()

    def _end(self) -> None:
        """Do what the end of the transaction did: one that SQLite made itself is a rollback, as closing is."""
        begun, self._begun = self._begun, None
        # The release of the outermost savepoint commits, if no BEGIN came before it.
        if begun is not None and begun.kind in {Control.COMMIT, Control.RELEASE}:
            self.stack.commit()
        else:
            self.stack.roll_back()

    def _in_transaction(self) -> bool:
        try:
            return bool(self._connection.in_transaction)
        except Exception:  # noqa: BLE001 - closed; sqlite3 and aiosqlite raise errors of their own
            return False


def _ended_badly(statements: list[ControlStatement], stack: SavepointStack) -> None:
    """After a COMMIT or ROLLBACK that failed, take all for rolled back: the server has done so, or is gone."""
    if any(statement.kind in {Control.COMMIT, Control.ROLLBACK} for statement in statements):
        stack.roll_back()
