"""What waits for the end of one transaction, savepoint by savepoint; pure but for the calls that apply it."""

import threading
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum

from asynctasq.drivers.base import Settlements
from asynctasq.testing.transactions.control_statements import Control, ControlStatement

__all__ = ["Change", "Fate", "SavepointStack"]


class Fate(Enum):
    """What has become of a change."""

    WAITING = "waiting"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"


def _nothing() -> None:
    pass


@dataclass(slots=True, eq=False, kw_only=True)
class Change:
    """Something done to the queue in a transaction: `apply` does it at the commit, `undo` is told of a rollback.

    dispatched: what it dispatches, as failures show it. settles: the messages whose attempts it ends.
    owner: the worker in which it was made, None outside of workers. on_settled: is told what was settled, by `apply`.
    """

    apply: Callable[[], object]
    undo: Callable[[], None] = _nothing
    dispatched: Sequence[object] = ()
    settles: frozenset[str] = frozenset()
    owner: object = None
    on_settled: Callable[[Settlements, AbstractSet[str]], None] | None = None
    fate: Fate = field(default=Fate.WAITING, init=False)

    def commit(self) -> None:
        """Apply it, once."""
        if self.fate is Fate.WAITING:
            self.fate = Fate.COMMITTED
            self.apply()

    def roll_back(self) -> None:
        """Forget it, once."""
        if self.fate is Fate.WAITING:
            self.fate = Fate.ROLLED_BACK
            self.undo()


class SavepointStack:
    """The changes of one connection's transaction, by the savepoint that each was made in.

    It may be begun in the midst of a transaction: a savepoint whose name is not known here is older than every change,
    unless `complete` says that all are known; then there is no such savepoint, and the statement has failed.
    """

    def __init__(self) -> None:
        self.complete = False
        self._lock = threading.RLock()
        self._levels: list[tuple[str, list[Change]]] = [("", [])]

    def add(self, change: Change) -> None:
        """Let a change belong to the innermost savepoint."""
        with self._lock:
            self._levels[-1][1].append(change)

    @property
    def changes(self) -> list[Change]:
        """All that wait, in the order in which they were made."""
        with self._lock:
            return [change for _, changes in self._levels for change in changes if change.fate is Fate.WAITING]

    def follow(self, statement: ControlStatement) -> None:
        """Do what a statement did that the database has run."""
        match statement.kind:
            case Control.BEGIN:
                pass
            case Control.COMMIT:
                self.commit()
            case Control.ROLLBACK:
                self.roll_back()
            case Control.SAVEPOINT:
                with self._lock:
                    self._levels.append((statement.name, []))
            case Control.RELEASE:
                self._release(statement.name)
            case Control.ROLLBACK_TO:
                self._roll_back_to(statement.name)

    def commit(self) -> None:
        """Apply everything: the transaction was committed."""
        for change in self._take(0):
            change.commit()

    def roll_back(self) -> None:
        """Forget everything: the transaction was rolled back."""
        for change in self._take(0):
            change.roll_back()

    def _release(self, name: str) -> None:
        with self._lock:
            at = self._position(name)
            if at is not None:
                self._levels[max(1, at) - 1][1].extend(self._take(max(1, at)))

    def _roll_back_to(self, name: str) -> None:
        with self._lock:
            at = self._position(name)
            if at is None:
                return
            taken = self._take(at)
            if at:  # the savepoint stays
                self._levels.append((name, []))
        for change in taken:
            change.roll_back()

    def _position(self, name: str) -> int | None:
        """Return the level of the innermost savepoint of this name; 0, the whole, for one that is older than all."""
        known = [at for at, (level, _) in enumerate(self._levels) if at and level == name]
        if known:
            return known[-1]
        return None if self.complete else 0

    def _take(self, at: int) -> list[Change]:
        """Remove this level and those inside it; return their changes."""
        with self._lock:
            taken = [change for _, changes in self._levels[at:] for change in changes]
            del self._levels[at:]
            if not self._levels:
                self._levels.append(("", []))
            return taken
