"""Loads of models that await sockets or threads, for simulated loops, which have neither."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from asynctasq.queue import background_loop

__all__ = ["load_in_real_loop"]

Rows = Mapping[tuple[object, ...], object]


async def load_in_real_loop(make: Callable[[], Coroutine[Any, Any, Rows]]) -> Rows:
    """Load in the event loop of a background thread and wait for it.

    Blocks the simulation: virtual time stands still, and nothing else runs meanwhile, so every run is the same.
    """
    return background_loop.run(make)
