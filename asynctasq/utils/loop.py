"""Running a coroutine on the fastest event loop there is: uvloop where installed, asyncio's own elsewhere."""

import asyncio
import logging
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["new_event_loop", "run", "run_through"]

logger = logging.getLogger(__name__)

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


def run_through(main: Coroutine[Any, Any, T]) -> T:
    """Do `run`, and go on when any other asyncio task raises SystemExit.

    asyncio lets it out of the loop at once, whoever raised it. It still reaches whoever awaits that task.
    """
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        loop = runner.get_loop()
        task = loop.create_task(_run_and_close(main), name="main")
        while True:
            try:
                return loop.run_until_complete(task)
            except SystemExit as error:
                if task.done():
                    raise
                logger.error(  # noqa: TRY400 - it ends here, and is shown whole
                    "an asyncio task that user code had started raised %r; the others go on", error, exc_info=error
                )


async def _run_and_close(main: Coroutine[Any, Any, T]) -> T:
    try:
        return await main
    finally:
        setup = sys.modules.get("asynctasq.core.setup")  # imported by the first dispatch
        if setup is not None:
            await setup.close()
