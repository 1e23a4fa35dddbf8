"""A lifespan that writes down what becomes of it, and tasks of child processes that use what it yields."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

from asynctasq import Resource, resource
from asynctasq.tasks import AsyncProcessTask, SyncProcessTask
from tests.patience import SOON_S

__all__ = ["FILE", "FailsAsync", "Leaves", "UsesAsync", "UsesSync", "Within", "broken", "hanging", "within"]

FILE = "LIFESPAN_TASKS_FILE"
"""The environment variable with the name of the file to write into."""


def note(text: str) -> None:
    with Path(os.environ[FILE]).open("a") as file:
        file.write(f"{os.getpid()} {text}\n")


class Within:
    """What the lifespan yields: it counts what a task of its own does in its loop."""

    def __init__(self) -> None:
        self.turns = 0
        self.loop = asyncio.get_running_loop()

    async def turn(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0.001)


async def within() -> AsyncGenerator[Within]:
    made = Within()
    note("entered")
    turning = asyncio.create_task(made.turn())
    yield made
    turning.cancel()
    await asyncio.sleep(0)
    note("left")


async def broken() -> AsyncGenerator[None]:
    if Path(os.environ[FILE]).exists():
        raise ConnectionError("no database")
    note("entered")
    yield


async def hanging() -> AsyncGenerator[None]:
    yield
    await asyncio.sleep(600)


class UsesAsync(AsyncProcessTask[None]):
    """Its loop is that of the lifespan, whose own task goes on from attempt to attempt."""

    resources = Resource(Within)

    async def execute(self) -> None:
        before, leftover = self.resources.turns, asyncio.create_task(asyncio.sleep(600))
        assert self.resources.loop is asyncio.get_running_loop()
        async with asyncio.timeout(SOON_S):
            while self.resources.turns == before:
                await asyncio.sleep(0)
        assert not leftover.done()
        note("used")


class UsesSync(SyncProcessTask[None]):
    """The same without a loop."""

    def execute(self) -> None:
        assert resource(Within).turns >= 0
        note("used")


class Leaves(SyncProcessTask[None]):
    """Ends its child."""

    max_crashes = 1

    def execute(self) -> None:
        os._exit(1)


class FailsAsync(AsyncProcessTask[None]):
    """Its hook runs in the worker."""

    max_attempts = 1

    async def execute(self) -> None:
        raise ValueError

    async def failed(self, exception: Exception) -> None:
        resource(Within)
        note("failed")
