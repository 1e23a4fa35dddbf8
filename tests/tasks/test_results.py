"""What a task returned, as the application reads it back: the type that was promised."""

import enum
from dataclasses import dataclass, replace
from typing import Any

import pytest

from asynctasq.core.runtime import WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import NO
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import UnsupportedFeature
from asynctasq.queue import Queue
from asynctasq.tasks import AsyncTask, BaseTask, task
from asynctasq.tasks.application import Application


@dataclass(frozen=True)
class Point:
    x: int
    y: int


class Colour(enum.Enum):
    RED = "red"


class Locate(AsyncTask[Point]):
    keep_result = True

    async def execute(self) -> Point:
        return Point(1, 2)


@task(keep_result=True)
async def colours() -> list[Colour]:
    return [Colour.RED]


class Dropped(AsyncTask[int]):
    async def execute(self) -> int:
        return 1


class KeepsNone(MemoryDriver):
    capabilities = replace(MemoryDriver.capabilities, keeps_results=NO)


async def ran(driver: MemoryDriver, built: BaseTask[Any]) -> str:
    [task_id] = await Queue(driver).dispatch([built])
    settings = WorkerSettings(application=Application(), burst=True, handle_signals=False)
    await Worker(driver, settings=settings).start()
    return task_id


@pytest.mark.parametrize(
    ("built", "definition", "result"),
    [
        (Locate(), Locate, Point(1, 2)),
        (colours(), colours, [Colour.RED]),
        (Dropped(), Dropped, None),
        (Dropped().with_options(keep_result=5), Dropped, 1),
    ],
    ids=["dataclass", "list of enum", "not asked for", "asked for at dispatch"],
)
async def test_a_result_comes_back_as_annotated(built: BaseTask[Any], definition: Any, result: object) -> None:
    driver = MemoryDriver()
    task_id = await ran(driver, built)

    assert await Queue(driver).fetch_result(task_id, definition) == result


async def test_a_task_that_has_not_run_has_no_result() -> None:
    queue = Queue(MemoryDriver())
    [task_id] = await queue.dispatch([Locate()])

    assert await queue.fetch_result(task_id, Locate) is None


async def test_a_driver_that_claims_no_results_is_not_asked_for_one() -> None:
    with pytest.raises(UnsupportedFeature, match="keeps no results"):
        await Queue(KeepsNone()).fetch_result("an id", Locate)
