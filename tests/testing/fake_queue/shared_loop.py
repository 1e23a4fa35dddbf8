"""What the tests of a FakeQueue on the test's own loop share: a task that runs what the test says."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from asynctasq import AsyncTask
from asynctasq.testing import FakeQueue

seen: list[Any] = []
code: list[Callable[[], Any]] = []
"""What the task under test runs: arguments of tasks are values."""


class Runs(AsyncTask[Any]):
    """Runs what the test says."""

    max_attempts = 1
    timeout = None

    async def execute(self) -> Any:
        value = await code[-1]()
        seen.append(value)
        return value


async def run(what: Callable[[], Any], **options: Any) -> float:
    """Run one task to its end, and return how many virtual seconds that took."""
    code.append(what)
    async with FakeQueue(**options) as queue:
        await Runs().dispatch()
        await queue.drain(scheduled=True)
        queue.assert_completed(Runs)
        return queue.clock.elapsed.total_seconds()


async def in_the_world() -> str:
    """Take a moment of real time, as a socket or a thread does."""
    await asyncio.to_thread(time.sleep, 0.02)
    return "real"
