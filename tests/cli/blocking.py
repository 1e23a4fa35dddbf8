"""A worker on the memory driver whose event loop a test blocks and releases."""

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager

from asynctasq import AsyncTask
from asynctasq.core.runtime import WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.queue import Queue
from asynctasq.tasks.application import Application
from asynctasq.tasks.configured import Lifespan
from tests.patience import SOON_S

__all__ = ["WorkerInThread", "worker_on"]

RELEASE = threading.Event()
BLOCKED = threading.Event()


class Blocking(AsyncTask[None]):
    async def execute(self) -> None:
        BLOCKED.set()
        RELEASE.wait(SOON_S)


def worker_on(driver: MemoryDriver, *lifespans: Lifespan) -> Worker:
    application = Application((__name__,))
    settings = WorkerSettings(application=application, handle_signals=False, schedules=(), lifespans=lifespans)
    return Worker(driver, settings=settings)


class WorkerInThread:
    """A worker that runs in a thread, while `running`."""

    def __init__(self) -> None:
        self._driver = MemoryDriver()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.worker = worker_on(self._driver)

    @contextmanager
    def running(self) -> Generator[None]:
        RELEASE.clear()
        BLOCKED.clear()
        thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        thread.start()
        try:
            yield
        finally:
            RELEASE.set()
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self.worker.stop)
            thread.join(SOON_S)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self.worker.start()

    def block(self) -> None:
        """Return when a task blocks the loop."""
        asyncio.run(Queue(self._driver).dispatch([Blocking()]))
        assert BLOCKED.wait(SOON_S)

    def release(self) -> None:
        """Let that task go on."""
        RELEASE.set()
