"""Tasks that know their number: asyncio keeps tasks in sets, and a set is ordered by hash."""

# ruff: noqa: SLF001 - what a pending task waits for, and its last words, are asyncio's private parts
# pyright: reportPrivateUsage=false

import asyncio
from collections.abc import Iterable
from contextvars import Context, copy_context
from typing import Any

__all__ = ["SimulatedTask", "close_in_context", "close_unfinished", "order_of", "pending_tasks"]

CLOSES_MAX = 100

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
    """Return the task's number; those made by another task factory come last."""
    return task.order if isinstance(task, SimulatedTask) else _UNNUMBERED


def pending_tasks(loop: asyncio.AbstractEventLoop) -> "list[asyncio.Task[Any]]":
    """Return the loop's unfinished tasks in order of creation."""
    return sorted(asyncio.all_tasks(loop), key=lambda task: (order_of(task), task.get_name()))


def close_unfinished(tasks: "Iterable[asyncio.Task[Any]]") -> None:
    """Close the coroutines of tasks that will never end, each in its own context.

    Otherwise the garbage collector would run their `finally` blocks, in any context.
    """
    for task in tasks:
        untyped: Any = task
        untyped._log_destroy_pending = False
        close_in_context(_context_of(untyped), untyped.get_coro())


def close_in_context(context: Context, coroutine: Any) -> None:
    """Close a coroutine in a context; the very one, where it can be had.

    A `finally` may reset a context variable with the token of its setting.
    """
    try:
        context.run(int)
    except RuntimeError:  # entered already: it is shared with what runs now
        context = context.copy()
    for _ in range(CLOSES_MAX):
        try:
            context.run(coroutine.close)
        except RuntimeError:  # it awaits in a `finally`; what it awaits never comes
            continue
        except BaseException:  # noqa: BLE001 - user code that nobody waits for any more
            return
        return


def _context_of(task: Any) -> Context:
    """Return the context that a task runs in; before Python 3.12 only what it waits for knows."""
    if hasattr(task, "get_context"):
        context: Context = task.get_context()
        return context
    callbacks: Any = getattr(task._fut_waiter, "_callbacks", None)
    return callbacks[-1][1] if callbacks else copy_context()
