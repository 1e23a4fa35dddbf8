"""What a running attempt can know of itself, from anywhere below it in the call stack."""

from contextvars import ContextVar
from typing import Any

from asynctasq.errors import AsyncTasqError
from asynctasq.tasks.base import BaseTask

__all__ = ["current_task", "running_task"]

running_task: ContextVar[BaseTask[Any] | None] = ContextVar("asynctasq_running_task", default=None)


def current_task() -> BaseTask[Any]:
    """Return the task whose attempt is running here; the way for a function task to learn its id and attempt.

    Raises: AsyncTasqError outside of an attempt.
    """
    task = running_task.get()
    if task is None:
        raise AsyncTasqError("no task is running here; call current_task() inside execute()")
    return task
