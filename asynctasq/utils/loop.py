"""Runs a coroutine on the fastest event loop there is: uvloop if it is installed, else asyncio's own."""

import asyncio
import sys
from asyncio import events
from collections.abc import Coroutine, Generator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from asynctasq.logs import get_logger

__all__ = ["new_event_loop", "run", "run_despite_exits", "without_running_loop"]

logger = get_logger(__name__)

T = TypeVar("T")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new uvloop loop, or asyncio's own if uvloop is not installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run `main` to its end on a new event loop and close the connections that dispatches opened there."""
    with asyncio.Runner(debug=debug, loop_factory=new_event_loop) as runner:
        return runner.run(_run_and_close(main))


def run_despite_exits(main: Coroutine[Any, Any, T]) -> T:
    """Do `run`, and continue when any other asyncio task raises SystemExit.

    asyncio lets that exception stop the loop, whichever task raised it. Code that awaits the task still receives it.
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
                with suppress(BaseException):  # its text is user code, and may exit in its turn
                    logger.error(  # noqa: TRY400 - it ends here, with its traceback
                        "an asyncio task that user code had started raised %s; the worker continues",
                        repr(error),
                        exc_info=error,
                    )


async def _run_and_close(main: Coroutine[Any, Any, T]) -> T:
    try:
        return await main
    finally:
        setup = sys.modules.get("asynctasq.core.setup")  # imported by the first dispatch
        if setup is not None:
            await setup.close()


@contextmanager
def without_running_loop() -> Generator[None]:
    """Hide the running event loop, as in a thread of its own: a simulation runs blocking code inside its loop.

    There `asyncio.run` must work, and so must libraries that refuse to block a loop, as Django's ORM does.
    """
    loop = events._get_running_loop()  # noqa: SLF001 - the public one raises where there is none
    events._set_running_loop(None)  # noqa: SLF001 - documented for event loops
    try:
        yield
    finally:
        events._set_running_loop(loop)  # noqa: SLF001
