"""Running a coroutine on the fastest event loop there is: uvloop where installed, asyncio's own elsewhere."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["new_event_loop", "run"]

T = TypeVar("T")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new uvloop loop, or asyncio's own where uvloop is not available."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run `main` to its end on a new event loop and close the connections that dispatches opened there."""
    with asyncio.Runner(debug=debug, loop_factory=new_event_loop) as runner:
        return runner.run(_run_and_close(main))


async def _run_and_close(main: Coroutine[Any, Any, T]) -> T:
    try:
        return await main
    finally:
        setup = sys.modules.get("asynctasq.core.setup")  # imported by the first dispatch
        if setup is not None:
            await setup.close()
