"""A dispatch that waits for a commit: the task as it is now, with an id that is known now. Imports no framework."""

import copy
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from asynctasq.logs import get_logger
from asynctasq.queue import MessageFactory, Queue, refuse_running_loop
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.definition import definition_of, options_of, set_dispatched
from asynctasq.tasks.dispatching import Dispatcher, current_dispatcher

__all__ = ["PendingDispatch", "prepare_dispatch", "refuse_blocking_commit", "send", "send_sync"]

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingDispatch:
    """One task to dispatch later, where it would have gone at once."""

    task_id: str
    task: BaseTask[Any]
    dispatcher: Dispatcher[BaseTask[Any]]

    def __str__(self) -> str:
        return f"{definition_of(type(self.task)).name} (id {self.task_id})"


def prepare_dispatch(task: BaseTask[Any]) -> PendingDispatch:
    """Fix the id and the options of a dispatch. A task that can't be encoded is refused now, before the commit.

    Raises: UnserializableValue, BodyTooLarge, DispatchError.
    """
    dispatcher = current_dispatcher()
    task_id = options_of(task).task_id or str(uuid4())
    fixed = copy.copy(task).with_options(task_id=task_id)
    factory = dispatcher.factory if isinstance(dispatcher, Queue) else MessageFactory()
    factory.message(fixed)
    set_dispatched(task, task_id, fixed.dispatched_at)
    return PendingDispatch(task_id=task_id, task=fixed, dispatcher=dispatcher)


def refuse_blocking_commit(advice: str) -> None:
    """Raise before the commit what `dispatch_sync` would raise after it."""
    refuse_running_loop(f"dispatching after this commit would block the running event loop; {advice}")


async def send(pending: Sequence[PendingDispatch]) -> None:
    """Dispatch them in one round trip per driver; a failure is logged with the ids, and raised."""
    for dispatcher, group in _groups(pending):
        with _logged(group):
            await dispatcher.dispatch([one.task for one in group])


def send_sync(pending: Sequence[PendingDispatch]) -> None:
    """Do `send` from code that has no event loop."""
    for dispatcher, group in _groups(pending):
        with _logged(group):
            dispatcher.dispatch_sync([one.task for one in group])


def _groups(pending: Sequence[PendingDispatch]) -> list[tuple[Dispatcher[BaseTask[Any]], list[PendingDispatch]]]:
    groups: dict[int, tuple[Dispatcher[BaseTask[Any]], list[PendingDispatch]]] = {}
    for one in pending:
        groups.setdefault(id(one.dispatcher), (one.dispatcher, []))[1].append(one)
    return list(groups.values())


@contextmanager
def _logged(group: Sequence[PendingDispatch]) -> Generator[None]:
    try:
        yield
    except BaseException:
        for one in group:
            logger.exception(
                "the transaction is committed, but dispatching %s failed; dispatching it again with this id, "
                "with_options(task_id=...), stores it at most once",
                one,
                extra={"task_id": one.task_id},
            )
        raise
