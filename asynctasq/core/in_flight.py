"""A lease as its worker sees it; decides nothing."""

import asyncio
from dataclasses import dataclass

from asynctasq.kernel.messages import Lease

__all__ = ["Fate", "Held"]


class Fate:
    """Why an attempt was cancelled by its worker."""

    INTERRUPTED = "interrupted"
    LOST = "lost"


@dataclass(slots=True, eq=False)
class Held:
    """A lease that the worker holds, and what became of it so far. `deadline` is on the worker's monotonic clock."""

    lease: Lease
    deadline: float
    fate: str | None = None
    name: str = "?"
    task: "asyncio.Task[None] | None" = None
    begun: bool = False
    value: object = None
    exception: BaseException | None = None
    settled_in: bool | None = None
    """Whether the task settled its attempt in its own transaction; False when the lease was lost by then."""
