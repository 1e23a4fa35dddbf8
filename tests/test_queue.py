"""The facade of the application: messages are made whole or not at all, and results are asked where they are."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asynctasq.codec.envelope import decode_envelope
from asynctasq.codec.limits import Limits
from asynctasq.codec.signing import SigningKeys
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.errors import BadSignature, BodyTooLarge, DriverUnavailable, TaskNotFoundError, UnsupportedFeature
from asynctasq.kernel.messages import Message
from asynctasq.kernel.retry import Delays
from asynctasq.queue import MessageFactory, Queue
from asynctasq.tasks import AsyncTask, task
from asynctasq.tasks.definition import task_id_of
from asynctasq.testing import VirtualClock


class Note(AsyncTask[str]):
    text: str
    queue = "notes"
    max_attempts = 4
    retry_delay = [1, 2]
    timeout = 5
    max_crashes = 2

    async def execute(self) -> str:
        return self.text


class Elsewhere(AsyncTask[None]):
    _driver_override = MemoryDriver()

    async def execute(self) -> None: ...


@task
async def note(text: str) -> str:
    return text


def test_a_message_carries_all_that_its_task_says() -> None:
    clock = VirtualClock()

    message = MessageFactory(clock=clock, new_id=lambda: "an id").message(Note(text="x").delay(7))

    envelope = decode_envelope(message.body)
    assert (message.id, message.queue, message.delay_s) == ("an id", "notes", 7.0)
    assert envelope.task == f"{__name__}:Note"
    assert (envelope.max_attempts, envelope.retry) == (4, Delays(delays_s=(1.0, 2.0)))
    assert (envelope.timeout_s, envelope.max_crashes, envelope.dispatched_at) == (5.0, 2, clock.now())


def test_a_dispatched_task_knows_its_id() -> None:
    built = Note(text="x")

    message = MessageFactory().message(built)

    assert task_id_of(built) == message.id


def test_the_id_of_a_dispatch_may_be_chosen() -> None:
    wanted = "0190c0de-0000-4000-8000-000000000001"

    assert MessageFactory().message(Note(text="x").with_options(task_id=wanted)).id == wanted


async def test_the_same_chosen_id_again_stores_nothing() -> None:
    driver = MemoryDriver()
    chosen = Note(text="x").with_options(task_id="0190c0de-0000-4000-8000-000000000001")

    await Queue(driver).dispatch([chosen])
    await Queue(driver).dispatch([chosen])

    assert (await driver.depth("notes")).ready == 1


def test_a_body_beyond_the_limit_is_refused() -> None:
    with pytest.raises(BodyTooLarge, match="the limit is 1,000"):
        MessageFactory(limits=Limits(body_bytes_max=1000)).message(Note(text="x" * 1000))


def test_with_keys_a_body_is_signed() -> None:
    keys, others = SigningKeys({"k": b"secret" * 8}), SigningKeys({"k": b"other" * 8})

    message = MessageFactory(keys=keys).message(Note(text="x"))

    belongs_to = (message.id, message.queue)
    assert decode_envelope(message.body, keys=keys, belongs_to=belongs_to).task == f"{__name__}:Note"
    with pytest.raises(BadSignature):
        decode_envelope(message.body, keys=others, belongs_to=belongs_to)


class Away(MemoryDriver):
    async def enqueue(self, messages: Sequence[Message]) -> Any:
        raise DriverUnavailable("not now")


async def test_an_error_of_the_driver_reaches_who_dispatches() -> None:
    with pytest.raises(DriverUnavailable, match="not now"):
        await Queue(Away()).dispatch([Note(text="x")])


# -- the caller's own transaction ----------------------------------------------------------------


@pytest.fixture
def sqlite(tmp_path: Path) -> SQLiteDriver:
    async def set_up() -> None:
        await driver.open()
        await driver.close()

    driver = SQLiteDriver(tmp_path / "queue.db")
    asyncio.run(set_up())
    return driver


def stored(path: Path) -> int:
    async def count() -> int:
        driver = SQLiteDriver(path / "queue.db")
        try:
            return sum([(await driver.depth(queue)).ready for queue in ("notes", "default")])
        finally:
            await driver.close()

    return asyncio.run(count())


@pytest.mark.parametrize("end", [sqlite3.Connection.commit, sqlite3.Connection.rollback])
def test_a_batch_in_a_transaction_is_stored_with_it_or_never(
    end: Callable[[sqlite3.Connection], None], sqlite: SQLiteDriver, tmp_path: Path
) -> None:
    connection = sqlite3.connect(tmp_path / "queue.db")
    connection.execute("begin immediate")

    Queue(sqlite).dispatch_sync([Note(text="a"), note("b")], connection=connection)
    end(connection)
    connection.close()

    assert stored(tmp_path) == (2 if end is sqlite3.Connection.commit else 0)


def test_a_driver_that_takes_part_in_no_transaction_is_refused_before_another_stores(
    sqlite: SQLiteDriver, tmp_path: Path
) -> None:
    connection = sqlite3.connect(tmp_path / "queue.db")
    connection.execute("begin immediate")

    with pytest.raises(UnsupportedFeature, match="dispatch after the commit"):
        Queue(sqlite).dispatch_sync([Note(text="a"), Elsewhere()], connection=connection)
    connection.commit()
    connection.close()

    assert stored(tmp_path) == 0


# -- results -------------------------------------------------------------------------------------


async def test_results_are_asked_of_the_driver_that_has_the_task() -> None:
    class Mute(MemoryDriver):
        capabilities = replace(MemoryDriver.capabilities, keeps_results=Away.capabilities.transactional)

    queue = Queue(Mute())

    with pytest.raises(TaskNotFoundError, match="memory"):
        await queue.result("nobody", task=Elsewhere)
    for known in (Note, note.task_class, None):
        with pytest.raises(UnsupportedFeature, match="keeps no results"):
            await queue.result("nobody", task=known)


def test_a_task_goes_to_its_own_driver_or_the_queues() -> None:
    queue = Queue(MemoryDriver())

    assert queue.driver_for(Note) is queue.driver
    assert queue.driver_for(Elsewhere) is Elsewhere._driver_override
