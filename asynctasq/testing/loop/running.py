"""Which loop runs in this thread, as test tools need to know."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from asynctasq.testing.loop.loop import SimulationLoop

__all__ = ["asyncio_loop_for", "running_simulation"]


def running_simulation() -> SimulationLoop | None:
    """Return the loop of the simulation that this code runs in, None outside of one."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return loop if isinstance(loop, SimulationLoop) else None


def asyncio_loop_for(what: Coroutine[Any, Any, object]) -> asyncio.AbstractEventLoop:
    """Return the loop that runs in this thread, which is to run `what`; close `what` where there is none.

    Raises: RuntimeError where another library than asyncio runs the code.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        what.close()
        raise RuntimeError(
            "a FakeQueue runs tasks on a loop of asyncio or uvloop, and this code runs on none, but on trio, say; "
            'with anyio\'s plugin let the fixture `anyio_backend` return "asyncio"'
        ) from None
