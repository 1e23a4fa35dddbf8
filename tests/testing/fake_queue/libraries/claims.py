"""What is claimed for every library: a task does real I/O at each step of its life, and the queue's time is virtual."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from asynctasq import AsyncTask
from asynctasq.testing import FakeQueue

DELAYS = [3600, 7200]
"""Hours, in virtual time."""
STEPS = ["execute 1", "asked 1", "execute 2", "asked 2", "execute 3", "failed"]
PARALLEL = 6


@dataclass(frozen=True)
class Notebook:
    """A client that is open on the current loop, and how to write a note by it and read all of them."""

    note: Callable[[str], Awaitable[object]]
    notes: Callable[[], Awaitable[Sequence[str]]]


opened: list[Notebook] = []
"""Arguments of tasks are values; a client is found as an application would find it, in a global."""


class Unavailable(Exception):
    """What the tasks raise."""


class Failing(AsyncTask[None]):
    max_attempts = 3
    retry_delay = DELAYS

    async def execute(self) -> None:
        await opened[-1].note(f"execute {self.attempt}")
        raise Unavailable

    async def should_retry(self, exception: Exception) -> bool:
        await opened[-1].note(f"asked {self.attempt}")
        return True

    async def failed(self, exception: Exception) -> None:
        await opened[-1].note("failed")


class Sleeping(AsyncTask[None]):
    """Does real work before and after an hour of sleep, beside others of its kind."""

    timeout = 2 * 3600

    def __init__(self, number: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.number = number

    async def execute(self) -> None:
        await asyncio.gather(opened[-1].note(f"before {self.number}"), asyncio.sleep(1800))
        await asyncio.sleep(1800)
        await opened[-1].note(f"after {self.number}")


async def check(notebook: Notebook) -> None:
    """Check the claims by a notebook whose client was opened, and used, in the test's loop.

    Every step's I/O takes effect, virtual times are exact, the client serves the test afterwards, and no task is left.
    """
    opened.append(notebook)
    try:
        await notebook.note("fixture")
        before = asyncio.all_tasks()
        await _check_retries(notebook)
        await _check_parallel(notebook)
        await asyncio.gather(*(notebook.note("later") for _ in range(PARALLEL)))
        assert (await notebook.notes())[-PARALLEL:] == ["later"] * PARALLEL
        for _ in range(3):  # what a client has started for its last call ends
            await asyncio.sleep(0)
        assert _tasks() <= before
    finally:
        opened.pop()


def _tasks() -> set["asyncio.Task[object]"]:
    """Return the loop's tasks without those of a server in it: it has one for each connection of the client."""
    return {task for task in asyncio.all_tasks() if "RequestHandler." not in repr(task)}


async def _check_retries(notebook: Notebook) -> None:
    async with FakeQueue() as queue:
        await Failing().dispatch()
        await queue.drain(scheduled=True, errors="collect")
        queue.assert_retried_at([DELAYS[0], sum(DELAYS)])
        queue.assert_failed(Failing, with_=Unavailable, attempts=3)
        queue.assert_failed_hook(Failing)
        assert queue.clock.elapsed.total_seconds() == sum(DELAYS)
    assert list(await notebook.notes()) == ["fixture", *STEPS]


async def _check_parallel(notebook: Notebook) -> None:
    """More tasks at once than the client has connections: they wait for one another's, and time stands still."""
    async with FakeQueue(strict=True) as queue:
        for number in range(PARALLEL):
            await Sleeping(number).dispatch()
        await queue.run_until_idle()
        queue.assert_completed(Sleeping, times=PARALLEL)
        assert queue.clock.elapsed.total_seconds() == 3600
    notes = list(await notebook.notes())[len(STEPS) + 1 :]
    assert sorted(notes[:PARALLEL]) == [f"before {number}" for number in range(PARALLEL)]
    assert sorted(notes[PARALLEL:]) == [f"after {number}" for number in range(PARALLEL)]
