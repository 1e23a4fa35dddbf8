"""Tasks that know their number: asyncio keeps tasks in sets, and a set is ordered by hash."""

import asyncio
from typing import Any

__all__ = ["SimulatedTask", "order_of", "pending_tasks"]


class SimulatedTask(asyncio.Task[Any]):
    """A task whose hash is its number in its loop, so that a set of tasks has the same order in every process."""

    __slots__ = ("order",)

    order: int

    def __hash__(self) -> int:
        return self.order


_UNNUMBERED = 1 << 40


def order_of(subject: Any) -> int:
    """Return the number of a task, or of what stands for one; those made by a foreign task factory come last."""
    return getattr(subject, "order", _UNNUMBERED)


def pending_tasks(loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Any]]:
    """Return the loop's unfinished tasks in order of creation."""
    return sorted(asyncio.all_tasks(loop), key=lambda task: (order_of(task), task.get_name()))
