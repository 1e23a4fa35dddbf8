"""Input that can't work: told at the dispatch, or a dead letter with its reason, while all else runs."""

import math
from collections import Counter
from pathlib import Path

import pytest

from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Inspectable
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.errors import BodyTooLarge, CodecError, DispatchError, DriverMisconfigured, InvalidQueueName
from asynctasq.kernel.messages import DeadReason, Message, State
from asynctasq.queue import MessageFactory, Queue
from asynctasq.tasks import AsyncTask
from asynctasq.tasks.application import Application
from asynctasq.tasks.registry import register

RAN: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


class Takes(AsyncTask[None]):
    keep_result = False

    def __init__(self, value: object = None, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.value = value

    async def execute(self) -> None:
        RAN["takes"] += 1
        RAN["nan"] += isinstance(self.value, float) and math.isnan(self.value)


class Renewed(AsyncTask[None]):
    """Takes the name of `Takes` with another constructor, as a later version would."""

    def __init__(self, other: int, **kwargs: object) -> None:
        super().__init__(**kwargs)

    async def execute(self) -> None:
        RAN["renewed"] += 1


def nested(levels: int) -> list[object]:
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return value


async def run_all(driver: SQLiteDriver) -> None:
    settings = WorkerSettings(application=Application(), handle_signals=False, burst=True)
    await Worker(driver, settings=settings, runtime=ProductionRuntime()).start()


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (b"x" * 50_000_000, BodyTooLarge, "the limit is"),
        (nested(2000), (CodecError, DispatchError), "value"),
        ({"deep": nested(2000)}, (CodecError, DispatchError), "value"),
        ("\ud800", CodecError, "value"),
    ],
    ids=["50 MB", "2,000 levels", "2,000 levels in a dict", "a lone surrogate"],
)
async def test_a_value_that_can_not_travel_is_told_and_nothing_is_stored(
    tmp_path: Path, value: object, error: type[Exception], text: str
) -> None:
    driver = SQLiteDriver(tmp_path / "queue.db")
    queue = Queue(driver)

    with pytest.raises(error, match=text) as caught:
        await queue.dispatch([Takes(), Takes(value)])

    assert len(str(caught.value)) < 1000
    assert (await driver.depth("default")).ready == 0
    await queue.dispatch([Takes()])
    await run_all(driver)
    assert RAN["takes"] == 1


async def test_nan_travels_as_it_is(tmp_path: Path) -> None:
    driver = SQLiteDriver(tmp_path / "queue.db")
    await Queue(driver).dispatch([Takes(math.nan)])

    await run_all(driver)

    assert RAN["nan"] == 1


async def test_a_body_beyond_the_limit_and_a_changed_constructor_are_dead_letters(tmp_path: Path) -> None:
    driver = SQLiteDriver(tmp_path / "queue.db")
    await Queue(driver).dispatch([Takes("old")])
    await driver.enqueue([Message(id="big", queue="default", body=b"\xc1\x01\x00" + bytes(11_000_000))])
    name = f"{__name__}:Takes"
    register(name, Renewed)
    try:
        await run_all(driver)
    finally:
        register(name, Takes)

    assert isinstance(driver, Inspectable)
    dead = (await driver.list_messages("default", state=State.DEAD)).messages
    assert [message.reason for message in dead] == [DeadReason.BAD_ARGUMENTS, DeadReason.UNDECODABLE]
    assert dead[0].error is not None
    assert "can't take the stored arguments" in dead[0].error.message
    assert RAN["renewed"] == 0
    await driver.close()


@pytest.mark.parametrize("name", ["a b", "a'b", 'a"b', "", "a;drop table", "a" * 81, "ä", "a\n"])
def test_a_queue_name_that_a_driver_could_misread_is_refused(name: str) -> None:
    with pytest.raises(InvalidQueueName, match="is not valid"):
        Takes().on_queue(name)


@pytest.mark.parametrize("name", ["a b", "a'b", 'a"b', "a;drop table", "a" * 81])
def test_a_worker_refuses_such_a_queue_too(name: str) -> None:
    with pytest.raises(InvalidQueueName, match="is not valid"):
        Worker(MemoryDriver(), [name])


async def test_a_worker_on_a_folder_in_the_place_of_its_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(DriverMisconfigured, match=r"folder|directory"):
        await run_all(SQLiteDriver(tmp_path))


def test_a_message_of_good_arguments_is_small() -> None:
    assert len(MessageFactory().message(Takes("x")).body) < 200
