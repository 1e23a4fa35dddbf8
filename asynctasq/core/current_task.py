"""The task whose attempt is running, for whatever its code calls."""

from asyncio import events
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from asynctasq.errors import AsyncTasqError
from asynctasq.tasks.base import BaseTask

__all__ = ["current_task", "running_task", "without_loop"]

running_task: ContextVar[BaseTask[Any] | None] = ContextVar("asynctasq_running_task", default=None)


def current_task() -> BaseTask[Any]:
    """Return the task whose attempt is running here; a function task learns its id and attempt from it.

    Raises: AsyncTasqError outside of an attempt.
    """
    task = running_task.get()
    if task is None:
        raise AsyncTasqError("no task is running here; call current_task() inside execute()")
    return task


@contextmanager
def without_loop() -> Generator[None]:
    """Hide the running event loop, as in a thread of its own: a simulation runs blocking code inside its loop.

    There `asyncio.run` must work, and so must libraries that refuse to block a loop, as Django's ORM does.
    """
    loop = events._get_running_loop()  # noqa: SLF001 - the public one raises where there is none
    events._set_running_loop(None)  # noqa: SLF001 - documented for event loops
    try:
        yield
    finally:
        events._set_running_loop(loop)  # noqa: SLF001
