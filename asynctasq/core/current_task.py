"""The task whose attempt is running, for whatever its code calls."""

from contextvars import ContextVar
from typing import Any

from asynctasq.errors import AsyncTasqError
from asynctasq.tasks.base import BaseTask

__all__ = ["current_task", "running_task"]

running_task: ContextVar[BaseTask[Any] | None] = ContextVar("asynctasq_running_task", default=None)


def current_task() -> BaseTask[Any]:
    """Return the task whose attempt is running here; a function task learns its id and attempt from it.

    Raises: AsyncTasqError outside of an attempt.
    """
    task = running_task.get()
    if task is None:
        raise AsyncTasqError("no task is running here; call current_task() inside execute()")
    return task
