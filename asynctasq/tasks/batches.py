"""Several tasks dispatched in one call."""

from collections.abc import Sequence
from typing import Any

from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.dispatching import current_dispatcher

__all__ = ["dispatch_many", "dispatch_many_sync"]


async def dispatch_many(tasks: Sequence[BaseTask[Any]], *, connection: Any = None) -> list[str]:
    """Dispatch all of `tasks`, in one round trip per driver; return their ids in order.

    The messages of one driver are stored all or none, where the driver claims `atomic_enqueue`.
    """
    return await current_dispatcher().dispatch(tasks, connection=connection)


def dispatch_many_sync(tasks: Sequence[BaseTask[Any]], *, connection: Any = None) -> list[str]:
    """Do `dispatch_many` from code that has no event loop."""
    return current_dispatcher().dispatch_sync(tasks, connection=connection)
