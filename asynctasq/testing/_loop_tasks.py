"""Tasks that know their number: asyncio keeps tasks in sets, and a set is ordered by hash."""

import asyncio
from typing import Any

__all__ = ["SimulatedTask", "order_of", "pending_tasks"]

_initialise: Any = asyncio.Task[
    Any
].__init__  # looked up once; subscribing the class for its type costs more than the call


class SimulatedTask(asyncio.Task[Any]):
    """A task whose hash is its number in its loop, so that a set of tasks has the same order in every process.

    Equality stays identity.
    """

    __slots__ = ("order",)

    order: int

    @classmethod
    def make(
        cls, coro: Any, *, loop: asyncio.AbstractEventLoop, order: int, name: object, options: dict[str, Any]
    ) -> "SimulatedTask":
        """Create a task; the number is set first, because asyncio puts the task into a set while it is made."""
        task = cls.__new__(cls)
        task.order = order
        # asyncio's own default name counts through the whole process.
        _initialise(task, coro, loop=loop, name=f"Task-{order}" if name is None else str(name), **options)
        return task

    def __hash__(self) -> int:
        return self.order


_UNNUMBERED = 1 << 40


def order_of(task: "asyncio.Task[Any]") -> int:
    """Return the task's number; those made by a foreign task factory come last."""
    return task.order if isinstance(task, SimulatedTask) else _UNNUMBERED


def pending_tasks(loop: asyncio.AbstractEventLoop) -> "list[asyncio.Task[Any]]":
    """Return the loop's unfinished tasks in order of creation."""
    return sorted(asyncio.all_tasks(loop), key=lambda task: (order_of(task), task.get_name()))
