"""The task of `asynctasq bench`, in a module of its own that a message may name."""

from collections.abc import Callable

from asynctasq.tasks import AsyncTask

__all__ = ["Nothing", "listeners"]

listeners: list[Callable[[], None]] = []
"""Called by every run."""


class Nothing(AsyncTask[None]):
    """The least a task can do."""

    async def execute(self) -> None:
        for listener in listeners:
            listener()
