"""Dispatch after a Django transaction has committed, for queues that are not in Django's own database."""

from typing import Any

from asynctasq.errors import MissingExtra
from asynctasq.integrations._after_commit import prepare_dispatch, refuse_blocking_commit, send_sync
from asynctasq.tasks.base import BaseTask

try:
    from django.db import transaction as untyped_transaction  # type: ignore[import-untyped]  # no stubs
except ImportError as error:
    raise MissingExtra(
        "asynctasq.integrations.django needs Django; install it with: pip install 'asynctasq[django]'"
    ) from error

__all__ = ["on_commit"]

transaction: Any = untyped_transaction


def on_commit(task: BaseTask[Any], using: str | None = None, *, robust: bool = False) -> str:
    """Dispatch `task` once the transaction of the database `using` has committed; return its id now.

    A rollback, also of the savepoint this is called in, drops it. Outside of a transaction it is dispatched at once.
    If the process dies between commit and dispatch, or the dispatch fails, the task is lost: the failure is logged
    with the id, and raised from the end of the `atomic` block unless `robust`. Where the queue is in the same
    database, `task.dispatch_sync(connection=...)` has no such gap.

    Raises: what can't be encoded is refused now, before the commit.
    """
    refuse_blocking_commit("run the transaction in a thread, as Django's sync_to_async does")
    pending_dispatch = prepare_dispatch(task)
    transaction.on_commit(lambda: send_sync([pending_dispatch]), using=using, robust=robust)
    return pending_dispatch.task_id
