"""Imports the modules of tasks outside of the event loop and within a time limit."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from asynctasq.errors import UnknownTask
from asynctasq.logs import get_logger
from asynctasq.tasks.application import Application
from asynctasq.tasks.base import BaseTask

__all__ = ["IMPORT_S_MAX", "ImportTookTooLong", "ModuleImports"]

logger = get_logger(__name__)

IMPORT_S_MAX = 60.0
"""How long the import of a task's module may take, in seconds."""

_TaskClass = type[BaseTask[Any]]


class ImportTookTooLong(UnknownTask):
    """The module of a task was not imported within `IMPORT_S_MAX`."""


class ModuleImports:
    """Finds tasks by importing their modules, each in a thread of its own; used in one event loop."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._running: dict[str, asyncio.Future[_TaskClass]] = {}

    async def resolve(self, name: str, file: str | None = None) -> _TaskClass:
        """Do `Application.resolve`. Who asks for a task of a module that is being imported waits for that import.

        A thread can't be ended: one that takes too long goes on, but its module is given up.

        Raises: UnknownTask, ImportTookTooLong.
        """
        module = name.partition(":")[0]
        while (other := self._running.get(module)) is not None:
            await self._wait(other, module)
        return (
            await self._wait(self._start(module, partial(self._application.resolve, name, file=file)), module)
        ).result()

    def _start(self, module: str, call: Callable[[], _TaskClass]) -> asyncio.Future[_TaskClass]:
        future = self._running[module] = asyncio.wrap_future(_in_thread(call, f"asynctasq-import-{module}"))
        future.add_done_callback(partial(self._ended, module))
        return future

    def _ended(self, module: str, future: asyncio.Future[_TaskClass]) -> None:
        if self._running.get(module) is future:
            del self._running[module]
        if not future.cancelled():
            future.exception()  # retrieved: whoever waited for it may have been cancelled

    async def _wait(self, future: asyncio.Future[_TaskClass], module: str) -> asyncio.Future[_TaskClass]:
        if (await asyncio.wait([future], timeout=IMPORT_S_MAX))[0]:
            return future
        why = f"its module was not imported within {IMPORT_S_MAX:g} s"
        if self._running.pop(module, None) is not None:
            self._application.give_up(module, why)
            logger.error(
                "the module %r was not imported within %g s and is given up; its thread still runs and may slow this "
                "process down: remove from the module what takes so long at import, and restart",
                module,
                IMPORT_S_MAX,
            )
        raise ImportTookTooLong(f"{why}: {module!r}")


def _in_thread(call: Callable[[], _TaskClass], name: str) -> Future[_TaskClass]:
    """Start a call in a daemon thread of its own: it holds up no other, and no exit of the process."""
    future: Future[_TaskClass] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - belongs to whoever waits for the future
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
