"""How tasks reach a driver: round trips, all or none, callers without a loop, drivers of their own."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from asynctasq import dispatch_many, dispatch_many_sync
from asynctasq.core import setup
from asynctasq.drivers.base import NO
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.errors import ConfigError, DispatchError, UnserializableValue, UnsupportedFeature
from asynctasq.kernel.messages import Message
from asynctasq.queue import Queue
from asynctasq.tasks import AsyncTask, task
from asynctasq.tasks.dispatching import scoped_dispatcher


class Counting(MemoryDriver):
    """A driver that remembers its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[Message]] = []

    async def enqueue(self, messages: Sequence[Message]) -> Any:
        self.batches.append(list(messages))
        return await super().enqueue(messages)


@pytest.fixture
def driver() -> Iterator[Counting]:
    counting = Counting()
    scoped_dispatcher.set(Queue(counting))
    yield counting
    scoped_dispatcher.set(None)


class Note(AsyncTask[None]):
    text: Any

    async def execute(self) -> None: ...


async def test_many_tasks_are_one_round_trip(driver: Counting) -> None:
    ids = await dispatch_many([Note(text=str(number)) for number in range(100)])

    [batch] = driver.batches
    assert [message.id for message in batch] == ids
    assert len(set(ids)) == 100


async def test_the_same_task_twice_in_a_batch_is_two_messages(driver: Counting) -> None:
    note = Note(text="a")

    first, second = await dispatch_many([note, note])

    assert first != second
    assert (await driver.depth("default")).ready == 2


async def test_no_tasks_are_no_round_trip(driver: Counting) -> None:
    assert await dispatch_many([]) == []
    assert driver.batches == []


async def test_an_error_in_one_task_stores_none(driver: Counting) -> None:
    with pytest.raises(UnserializableValue):
        await dispatch_many([Note(text="fine"), Note(text=threading.Lock()), Note(text="fine, too")])

    assert driver.batches == []


def test_many_tasks_without_a_loop_are_one_round_trip(driver: Counting) -> None:
    ids = dispatch_many_sync([Note(text="a"), Note(text="b")])

    assert [[message.id for message in batch] for batch in driver.batches] == [ids]


async def test_a_batch_for_two_drivers_is_one_round_trip_each(driver: Counting) -> None:
    other = Counting()

    class Elsewhere(AsyncTask[None]):
        _driver_override = other

        async def execute(self) -> None: ...

    ids = await dispatch_many([Note(text="a"), Elsewhere(), Note(text="b"), Elsewhere()])

    assert [[m.id for m in batch] for batch in driver.batches] == [[ids[0], ids[2]]]
    assert [[m.id for m in batch] for batch in other.batches] == [[ids[1], ids[3]]]


async def test_dispatch_sync_in_a_running_loop_is_refused(driver: Counting) -> None:
    with pytest.raises(RuntimeError, match=r"would block the running event loop; use `await task.dispatch\(\)`"):
        Note(text="a").dispatch_sync()
    assert driver.batches == []


def test_dispatch_sync_works_any_number_of_times(driver: Counting) -> None:
    ids = [Note(text="a").dispatch_sync() for _ in range(5)]

    assert len(set(ids)) == len(driver.batches) == 5


def test_dispatch_sync_works_from_many_threads_at_once(driver: Counting) -> None:
    queue = Queue(driver)

    def work() -> None:
        for _ in range(20):
            queue.dispatch_sync([Note(text="a")])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert asyncio.run(driver.depth("default")).ready == 160


async def test_dispatch_sync_works_in_a_thread_beside_a_running_loop(driver: Counting) -> None:
    task_id = await asyncio.to_thread(Note(text="a").dispatch_sync)

    assert [message.id for [message] in driver.batches] == [task_id]


def test_three_loops_in_one_process_dispatch_to_one_durable_driver(tmp_path: Any) -> None:
    queue = Queue(SQLiteDriver(tmp_path / "queue.db"))

    async def once() -> int:
        await queue.dispatch([ModuleLevel()])
        depth = await queue.driver.depth("default")
        await queue.close()
        return depth.ready

    assert [asyncio.run(once()) for _ in range(3)] == [1, 2, 3]


class ModuleLevel(AsyncTask[None]):
    async def execute(self) -> None: ...


# -- drivers of their own ------------------------------------------------------------------------


@pytest.fixture
def application(tmp_path: Any) -> setup.Setup:
    setup.init({"driver": "memory", "sqlite_path": str(tmp_path / "queue.db")})
    return setup.current_setup()


class ByName(AsyncTask[None]):
    _driver_override = "sqlite"

    async def execute(self) -> None: ...


@task(driver="sqlite")
async def by_name() -> None: ...


async def test_a_driver_named_by_a_task_gets_it_and_the_default_stays(application: setup.Setup) -> None:
    default = application.queue.driver

    await ByName().dispatch()
    await by_name().dispatch()
    await ModuleLevel().dispatch()

    assert setup.default_queue().driver is default is application.driver("memory")
    assert (await default.depth("default")).ready == 1
    assert (await application.driver("sqlite").depth("default")).ready == 2
    await application.close()


async def test_a_driver_instance_of_a_task_gets_it_and_the_default_stays(application: setup.Setup) -> None:
    own = MemoryDriver()

    class ByInstance(AsyncTask[None]):
        _driver_override = own

        async def execute(self) -> None: ...

    await ByInstance().dispatch()

    assert (await own.depth("default")).ready == 1
    assert (await application.queue.driver.depth("default")).ready == 0


class Misspelt(AsyncTask[None]):
    _driver_override = "sqllite"

    async def execute(self) -> None: ...


async def test_a_driver_nobody_knows_is_an_error_at_dispatch(application: setup.Setup) -> None:
    with pytest.raises(ConfigError, match=r"sqllite.*sqlite"):
        await Misspelt().dispatch()


async def test_a_queue_without_named_drivers_refuses_a_name() -> None:
    with pytest.raises(DispatchError, match="no driver named 'sqlite' is configured"):
        await Queue(MemoryDriver()).dispatch([ByName()])


# -- what no worker could run --------------------------------------------------------------------


def make_local() -> AsyncTask[None]:
    class Local(AsyncTask[None]):
        async def execute(self) -> None: ...

    return Local()


async def test_a_task_defined_inside_a_function_is_refused_where_a_worker_is_elsewhere(tmp_path: Any) -> None:
    queue = Queue(SQLiteDriver(tmp_path / "queue.db"))

    with pytest.raises(DispatchError, match=r"Local is defined inside a function.*move it to module level"):
        await queue.dispatch([make_local()])
    await queue.close()


async def test_a_task_defined_inside_a_function_is_fine_within_one_process(driver: Counting) -> None:
    await make_local().dispatch()

    assert len(driver.batches) == 1


class NoResults(MemoryDriver):
    """Keeps no results."""

    capabilities = replace(MemoryDriver.capabilities, keeps_results=NO)


async def test_keeping_a_result_is_refused_where_the_driver_keeps_none() -> None:
    driver = NoResults()

    with pytest.raises(UnsupportedFeature, match=r"keep_result set, but .* keeps no results"):
        await Queue(driver).dispatch([ModuleLevel().with_options(keep_result=True)])
    assert (await driver.depth("default")).ready == 0


async def test_a_connection_is_refused_where_the_driver_has_no_transactions(driver: Counting) -> None:
    with pytest.raises(UnsupportedFeature, match="transaction of yours; dispatch after the commit, with on_commit"):
        await Note(text="a").dispatch(connection=object())
    assert driver.batches == []
