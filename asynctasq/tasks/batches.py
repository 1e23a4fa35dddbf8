"""Dispatches of many tasks at once: one round trip per driver."""

from collections.abc import Sequence
from typing import Any, TypeVar

from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.definition import options_of
from asynctasq.tasks.dispatching import Dispatcher, current_dispatcher
from asynctasq.tasks.handle import TaskHandle

__all__ = ["dispatch_many", "dispatch_many_sync"]

T = TypeVar("T")


async def dispatch_many(tasks: Sequence[BaseTask[T]], *, connection: Any = None) -> list[TaskHandle[T]]:
    """Dispatch all of `tasks`, in one round trip per driver; return their ids in order.

    The messages of one driver are stored all or none, where the driver claims `atomic_enqueue`.
    """
    dispatcher = current_dispatcher()
    return _handles(await dispatcher.dispatch(tasks, connection=connection), tasks, dispatcher)


def dispatch_many_sync(tasks: Sequence[BaseTask[T]], *, connection: Any = None) -> list[TaskHandle[T]]:
    """Do `dispatch_many` from code that has no event loop."""
    dispatcher = current_dispatcher()
    return _handles(dispatcher.dispatch_sync(tasks, connection=connection), tasks, dispatcher)


def _handles(ids: Sequence[str], tasks: Sequence[BaseTask[T]], dispatcher: Dispatcher[Any]) -> list[TaskHandle[T]]:
    return [
        TaskHandle(task_id, type(task), dispatcher, keeps_result=options_of(task).keep_result_s is not None)
        for task_id, task in zip(ids, tasks, strict=True)
    ]
