"""A dispatch that waits for a commit: the task as it is now, under an id that is known now. Knows no framework."""

import copy
import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from asynctasq.queue import MessageFactory, Queue, refuse_running_loop
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.definition import definition_of, options_of, set_dispatched_id
from asynctasq.tasks.dispatching import Dispatcher, current_dispatcher

__all__ = ["Deferred", "defer", "refuse_blocking_commit", "send", "send_sync"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred:
    """One task to dispatch later, where it would have gone at once."""

    task_id: str
    task: BaseTask[Any]
    dispatcher: Dispatcher[BaseTask[Any]]

    def __str__(self) -> str:
        return f"{definition_of(type(self.task)).name} (id {self.task_id})"


def defer(task: BaseTask[Any]) -> Deferred:
    """Fix the id and the options of a dispatch. What could not be encoded after the commit is refused before it.

    Raises: UnserializableValue, BodyTooLarge, DispatchError.
    """
    dispatcher = current_dispatcher()
    task_id = options_of(task).task_id or str(uuid4())
    fixed = copy.copy(task).with_options(task_id=task_id)
    factory = dispatcher.factory if isinstance(dispatcher, Queue) else MessageFactory()
    factory.message(fixed)
    set_dispatched_id(task, task_id)
    return Deferred(task_id=task_id, task=fixed, dispatcher=dispatcher)


def refuse_blocking_commit(advice: str) -> None:
    """Raise now what `dispatch_sync` would raise after the commit, when it is too late."""
    refuse_running_loop(f"dispatching after this commit would block the running event loop; {advice}")


async def send(deferred: Sequence[Deferred]) -> None:
    """Dispatch them in one round trip per driver; what fails is logged with the ids, and raised."""
    for dispatcher, group in _groups(deferred):
        with _told(group):
            await dispatcher.dispatch([one.task for one in group])


def send_sync(deferred: Sequence[Deferred]) -> None:
    """Do `send` from code that has no event loop."""
    for dispatcher, group in _groups(deferred):
        with _told(group):
            dispatcher.dispatch_sync([one.task for one in group])


def _groups(deferred: Sequence[Deferred]) -> list[tuple[Dispatcher[BaseTask[Any]], list[Deferred]]]:
    groups: dict[int, tuple[Dispatcher[BaseTask[Any]], list[Deferred]]] = {}
    for one in deferred:
        groups.setdefault(id(one.dispatcher), (one.dispatcher, []))[1].append(one)
    return list(groups.values())


@contextmanager
def _told(group: Sequence[Deferred]) -> Generator[None]:
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
