"""How simulated workers load the models of the application under test."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from asynctasq.queue import background_loop

__all__ = ["load_in_real_loop"]

Rows = Mapping[tuple[object, ...], object]


async def load_in_real_loop(make: Callable[[], Coroutine[Any, Any, Rows]]) -> Rows:
    """Load models in the event loop of a background thread and wait: a simulated loop has no sockets or threads.

    Blocks the simulation: virtual time stands still, and nothing else runs meanwhile, so every run is the same.
    """
    return background_loop.run(make)
