"""Run a transaction again that the server rolled back because of another one."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["retry_conflicts"]

T = TypeVar("T")

CONFLICT_S = 30.0
"""How long an operation is tried again: as long as a command may take by default. Under a load of transactions on the
same rows, one was seen to be rolled back ten times in a row."""
CONFLICT_PAUSE_S = 0.005
CONFLICT_PAUSE_S_MAX = 0.5


async def retry_conflicts(
    operation: Callable[[], Awaitable[T]], *, is_conflict: Callable[[Exception], bool], rng: random.Random
) -> T:
    """Run `operation` again while the server rolled it back as a whole (deadlock, serialization failure).

    Only for operations whose failure leaves nothing behind. The last error is raised as it is.
    """
    clock = asyncio.get_running_loop().time
    end, pause_s = clock() + CONFLICT_S, CONFLICT_PAUSE_S
    while True:
        try:
            return await operation()
        except Exception as error:
            if not is_conflict(error) or clock() >= end:
                raise
        await asyncio.sleep(rng.uniform(0, pause_s))
        pause_s = min(2 * pause_s, CONFLICT_PAUSE_S_MAX)
