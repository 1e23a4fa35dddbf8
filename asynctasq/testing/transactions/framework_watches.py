"""How the transactions of SQLAlchemy and Django are followed, by their own events; imports neither until needed."""

from collections.abc import Callable, Mapping
from typing import Any
from weakref import ref

from asynctasq.testing.transactions.changes import Change, Fate, SavepointStack
from asynctasq.testing.transactions.control_statements import Control, ControlStatement, control_statements

__all__ = ["DjangoWatch", "SqlalchemySessionWatch", "SqlalchemyWatch", "in_users_block"]


class SqlalchemyWatch:
    """Listens to one `Connection`. It tells of a commit before it is done, so the transaction's end confirms it."""

    def __init__(self, connection: Any) -> None:
        self.stack = SavepointStack()
        self._connection: Any = ref(connection)
        self._committing: Any = None
        self._listeners: dict[str, Callable[..., None]] = {
            "commit": self._on_commit,
            "rollback": self._on_rollback,
            "after_cursor_execute": self._on_statement,  # the event "savepoint" comes before the name is chosen
            "commit_twophase": self._on_commit,
            "rollback_twophase": self._on_rollback,
        }

    async def install(self) -> None:
        self.install_sync()

    def install_sync(self) -> None:
        _listen(self._connection(), self._listeners)

    def uninstall(self) -> None:
        _remove(self._connection(), self._listeners)

    def refresh(self) -> None:
        """Apply the commit that was told of, once the connection has left that transaction."""
        connection = self._connection()
        if connection is None:
            return
        if self._committing is not None and connection.get_transaction() is not self._committing:
            self._committing = None
            self.stack.commit()
        elif self.stack.changes and (connection.closed or connection.invalidated):
            self.stack.roll_back()

    def _on_commit(self, connection: Any, *_: Any) -> None:
        self.refresh()
        self._committing = connection.get_transaction()

    def _on_rollback(self, _connection: Any, *_: Any) -> None:
        self.refresh()
        self._committing = None
        self.stack.roll_back()

    def _on_statement(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self.refresh()
        for control in control_statements(statement):
            self.stack.follow(control)


class SqlalchemySessionWatch:
    """Listens to one `Session`, whose own transaction counts: a test may have put it into an outer one."""

    def __init__(self, session: Any) -> None:
        self._session: Any = ref(session)
        self.stack = _SessionChanges(self._session)
        self._committed: Any = None
        self._listeners: dict[str, Callable[..., None]] = {
            "after_commit": self._after_commit,
            "after_transaction_end": self._after_transaction_end,
        }

    async def install(self) -> None:
        self.install_sync()

    def install_sync(self) -> None:
        _listen(self._session(), self._listeners)

    def uninstall(self) -> None:
        _remove(self._session(), self._listeners)

    def refresh(self) -> None:
        """Do nothing: every end is told."""

    def _after_commit(self, session: Any) -> None:
        self._committed = _innermost(session)

    def _after_transaction_end(self, _session: Any, ended: Any) -> None:
        was_committed = self._committed is ended
        if was_committed:
            self._committed = None
        self.stack.end(ended, committed=was_committed)


class _SessionChanges:
    """The changes of a session, each with the `SessionTransaction` that it was made in."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._owned: list[tuple[Change, Any]] = []

    def add(self, change: Change) -> None:
        self._owned.append((change, _innermost(self._session())))

    @property
    def changes(self) -> list[Change]:
        return [change for change, _ in self._owned if change.fate is Fate.WAITING]

    def commit(self) -> None:
        owned, self._owned = self._owned, []
        for change, _ in owned:
            change.commit()

    def end(self, ended: Any, *, committed: bool) -> None:
        """Commit, roll back, or hand to the transaction around what belongs to the one that has ended."""
        around = ended.parent
        if committed and around is not None:
            while not around.nested and around.parent is not None:  # what a flush opens in between
                around = around.parent
            self._owned = [(change, around if owner is ended else owner) for change, owner in self._owned]
            return
        taken = [change for change, owner in self._owned if owner is ended]
        self._owned = [(change, owner) for change, owner in self._owned if owner is not ended]
        for change in taken:
            if committed:
                change.commit()
            else:
                change.roll_back()


def _listen(target: Any, listeners: Mapping[str, Callable[..., None]]) -> None:
    from sqlalchemy import event

    for name, listener in listeners.items():
        event.listen(target, name, listener)


def _remove(target: Any, listeners: Mapping[str, Callable[..., None]]) -> None:
    from sqlalchemy import event

    for name, listener in listeners.items() if target is not None else ():
        event.remove(target, name, listener)


def _innermost(session: Any) -> Any:
    """Return the savepoint that is open, else the transaction."""
    return session.get_nested_transaction() or session.get_transaction()


class DjangoWatch:
    """Wraps what `atomic` calls on one connection. Inside a TestCase's own transaction, which never commits, the end
    of the outermost `atomic` of the application is the commit."""

    def __init__(self, connection: Any) -> None:
        self.stack = SavepointStack()
        self._connection = connection
        self._outermost: Any = None

    async def install(self) -> None:
        self.install_sync()

    def install_sync(self) -> None:
        connection, stack = self._connection, self.stack
        commit, rollback, close = connection.commit, connection.rollback, connection.close
        begin, release, undo = connection.savepoint, connection.savepoint_commit, connection.savepoint_rollback

        def watched_commit() -> None:
            commit()
            stack.commit()

        def watched_rollback() -> None:
            try:
                rollback()
            finally:
                stack.roll_back()

        def watched_close() -> None:
            self.refresh()
            try:
                close()
            finally:
                stack.roll_back()

        def watched_savepoint() -> Any:
            self.refresh()
            name = begin()
            if name:
                stack.follow(ControlStatement(Control.SAVEPOINT, str(name)))
            return name

        def watched_release(name: Any) -> None:
            release(name)
            self.refresh()
            stack.follow(ControlStatement(Control.RELEASE, str(name)))

        def watched_undo(name: Any) -> None:
            undo(name)
            stack.follow(ControlStatement(Control.ROLLBACK_TO, str(name)))

        connection.commit, connection.rollback, connection.close = watched_commit, watched_rollback, watched_close
        connection.savepoint, connection.savepoint_commit = watched_savepoint, watched_release
        connection.savepoint_rollback = watched_undo

    def uninstall(self) -> None:
        for name in ("commit", "rollback", "close", "savepoint", "savepoint_commit", "savepoint_rollback"):
            self._connection.__dict__.pop(name, None)

    def refresh(self) -> None:
        connection = self._connection
        if not self.stack.changes:
            self._outermost = _outermost_of_user(connection)
            return
        blocks = connection.atomic_blocks
        if self._outermost is None or any(block is self._outermost for block in blocks):
            return
        if not (blocks and getattr(blocks[0], "_from_testcase", False)):
            return  # its own commit or rollback says what became of it
        if connection.needs_rollback:
            self.stack.roll_back()
        else:
            self.stack.commit()


def in_users_block(connection: Any) -> bool:
    """Say whether something besides a TestCase has begun the transaction that a Django connection is in."""
    return _outermost_of_user(connection) is not None or not connection.in_atomic_block


def _outermost_of_user(connection: Any) -> Any:
    blocks = connection.atomic_blocks
    return next((block for block in blocks if not getattr(block, "_from_testcase", False)), None)
