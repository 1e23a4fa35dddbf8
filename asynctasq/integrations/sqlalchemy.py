"""Dispatch after a SQLAlchemy session has committed, for queues that are not in the session's own database."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from asynctasq.errors import MissingExtra
from asynctasq.integrations._after_commit import (
    PendingDispatch,
    prepare_dispatch,
    refuse_blocking_commit,
    send,
    send_sync,
)
from asynctasq.tasks.base import BaseTask

try:
    from sqlalchemy import event
    from sqlalchemy.orm import Session, SessionTransaction, scoped_session
    from sqlalchemy.util import await_only
    from sqlalchemy.util.concurrency import in_greenlet
except ImportError as error:
    raise MissingExtra(
        "asynctasq.integrations.sqlalchemy needs SQLAlchemy 2; install it with: pip install 'asynctasq[sqlalchemy]'"
    ) from error

__all__ = ["on_commit"]

KEY = "asynctasq.pending"


def on_commit(task: BaseTask[Any], session: Any) -> str:
    """Dispatch `task` once the session's transaction has committed; return its id now.

    `session` is a `Session`, an `AsyncSession`, or a scoped one of either. A rollback, also of the savepoint this is
    called in, drops it, and so does closing the session. If the process dies between commit and dispatch, or the
    dispatch fails, the task is lost: the failure is logged with the id, and raised from `commit`. Where the queue is
    in the same database, `task.dispatch(connection=session)` has no such gap.

    Raises: what can't be encoded is refused now, before the commit.
    """
    sync, is_async = _sync_session(session)
    if not is_async and not in_greenlet():
        refuse_blocking_commit("use an AsyncSession, or dispatch with await after the commit")
    pending_dispatch = prepare_dispatch(task)
    if not sync.in_transaction():
        sync.begin()
    _pending(sync).entries.append((pending_dispatch, _innermost(sync)))
    return pending_dispatch.task_id


def _sync_session(session: Any) -> tuple[Session, bool]:
    """Return the synchronous session inside, and whether the given one is used with `await`."""
    # An application with an asynchronous session has imported this module, which may need libraries that others lack.
    asynchronous: Any = sys.modules.get("sqlalchemy.ext.asyncio")
    scoped: tuple[type, ...] = (scoped_session,)
    if asynchronous is not None:
        scoped = (scoped_session, asynchronous.async_scoped_session)
    found: Any = cast("Callable[[], Any]", session)() if isinstance(session, scoped) else session
    if asynchronous is not None and isinstance(found, asynchronous.AsyncSession):
        return found.sync_session, True
    if isinstance(found, Session):
        return found, False
    kind = f"{type(session).__module__}.{type(session).__qualname__}"
    raise TypeError(f"on_commit takes a SQLAlchemy Session or AsyncSession, not a {kind}")


@dataclass(slots=True)
class _Pending:
    """What a session's commit is to dispatch, with the transaction or savepoint each belongs to."""

    entries: list[tuple[PendingDispatch, SessionTransaction]] = field(
        default_factory=list[tuple[PendingDispatch, SessionTransaction]]
    )
    committed: SessionTransaction | None = None

    def take(self, owner: SessionTransaction) -> list[PendingDispatch]:
        taken = [pending_dispatch for pending_dispatch, own in self.entries if own is owner]
        self.entries = [(pending_dispatch, own) for pending_dispatch, own in self.entries if own is not owner]
        return taken


def _pending(session: Session) -> _Pending:
    pending = session.info.get(KEY)
    if pending is None:
        pending = session.info[KEY] = _Pending()
        event.listen(session, "after_commit", _after_commit)
        event.listen(session, "after_transaction_end", _after_transaction_end)
    return cast("_Pending", pending)


def _innermost(session: Session) -> SessionTransaction:
    """Return the savepoint that is open, else the transaction."""
    innermost = session.get_nested_transaction() or session.get_transaction()
    assert innermost is not None, "on_commit has begun one"
    return innermost


def _after_commit(session: Session) -> None:
    _pending(session).committed = _innermost(session)


def _after_transaction_end(session: Session, ended: SessionTransaction) -> None:
    """Dispatch, or assign to the transaction around the savepoint, or drop; `ended` is closed by now."""
    pending = _pending(session)
    was_committed, around = pending.committed is ended, ended.parent
    taken = pending.take(ended)
    if not was_committed or not taken:
        return
    pending.committed = None
    if around is None:
        _dispatch(taken)
        return
    while not around.nested and around.parent is not None:  # what a flush opens in between
        around = around.parent
    pending.entries += [(pending_dispatch, around) for pending_dispatch in taken]


def _dispatch(taken: list[PendingDispatch]) -> None:
    if in_greenlet():  # an asynchronous session, whose commit runs in the event loop
        await_only(send(taken))
    else:
        send_sync(taken)
