"""A worker that is stopped at once while it decides on a failure; found by seed 41 of the hunt for planted defects."""

import asyncio
from contextlib import suppress
from typing import ClassVar

import pytest

from asynctasq.kernel.ledger import check
from asynctasq.tasks import AsyncTask
from asynctasq.testing import FakeQueue, Stop

HOOKS: list[str] = []


@pytest.fixture(autouse=True)
def no_hooks() -> None:
    HOOKS.clear()


class Refused(AsyncTask[None]):
    max_attempts: ClassVar[int] = 3

    async def execute(self) -> None:
        raise ValueError("no")

    async def should_retry(self, exception: Exception) -> bool:
        for _ in range(5):
            with suppress(asyncio.CancelledError):  # as careless code does
                await asyncio.sleep(0)
        return False

    async def failed(self, exception: Exception) -> None:
        HOOKS.append(str(exception))


@pytest.mark.parametrize("seed", range(40))
def test_no_dead_letter_without_its_hook_when_the_worker_stops_meanwhile(seed: int) -> None:
    stop = Stop(at="before_settle", task=Refused, immediate=True)
    with FakeQueue(workers=2, seed=seed, search="random", faults=[stop]) as queue:
        Refused().dispatch_sync()
        queue.run_until_idle_sync()

    assert check(queue.ledger) == []
    assert HOOKS == ["no"]


def test_a_sum_of_floats_that_is_rounded_up_is_no_early_delivery() -> None:
    with FakeQueue() as queue:
        queue.advance_sync(seconds=17.092502)
        Refused().delay(1.5155219506193283).dispatch_sync()
        queue.run_until_idle_sync()

    assert check(queue.ledger) == []
