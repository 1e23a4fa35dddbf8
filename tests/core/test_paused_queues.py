"""A paused queue: workers take no more of it, other queues go on, and all of it is there when it is resumed."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asynctasq.clock import SystemClock
from asynctasq.core.paused_queues import PAUSES_QUEUE, OpenQueues
from asynctasq.core.queue_order import parse_queues
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.waiting import WorkWaiter
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Driver, Inspectable, Page
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import InvalidQueueName
from asynctasq.queue import Queue
from asynctasq.tasks import AsyncTask
from asynctasq.testing.conformance.harness import DriverHarness
from asynctasq.testing.servers import Servers
from tests.core.backends import INSPECTABLE, operator_of
from tests.patience import SOON_S, until

CHECK_S = 0.05
RAN: Counter[str] = Counter()


class Note(AsyncTask[None]):
    text: str

    async def execute(self) -> None:
        RAN[self.text] += 1


@pytest.fixture(autouse=True)
def forget() -> None:
    RAN.clear()


@pytest.fixture(params=list(INSPECTABLE))
async def driver(request: pytest.FixtureRequest, conformance_servers: Servers) -> AsyncIterator[Driver]:
    harness: DriverHarness = INSPECTABLE[request.param](conformance_servers)
    await harness.prepare()
    made = harness.create()
    await made.open()
    yield made
    await made.close()
    await harness.clean_up()


def worker_of(driver: Driver, **settings: Any) -> Worker:
    chosen = WorkerSettings(handle_signals=False, pause_check_s=CHECK_S, **settings)
    return Worker(driver, ["mail", "other"], settings=chosen, runtime=ProductionRuntime())


@asynccontextmanager
async def running(driver: Driver) -> AsyncIterator[None]:
    worker = worker_of(driver)
    async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
        group.create_task(worker.start())
        yield
        worker.stop()


async def dispatch(driver: Driver, text: str, queue: str) -> None:
    await Queue(driver).dispatch([Note(text=text).on_queue(queue)])


def count_looks(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often somebody reads which queues are paused."""
    looks: Counter[str] = Counter()
    assert isinstance(driver, Inspectable)
    read = driver.list_messages

    async def counted(queue: str, **options: Any) -> Page:
        page = await read(queue, **options)
        looks[queue] += 1
        return page

    monkeypatch.setattr(driver, "list_messages", counted)
    return looks


async def some_looks(looks: Counter[str], count: int = 2) -> None:
    """Wait until somebody has looked so often; the first look may have begun before."""
    wanted = looks[PAUSES_QUEUE] + count
    await until(lambda: looks[PAUSES_QUEUE] >= wanted)


async def ran(text: str) -> None:
    await until(lambda: RAN[text] > 0)


async def test_a_paused_queue_waits_while_others_go_on(driver: Driver) -> None:
    operator = operator_of(driver)
    await operator.pause(["mail"])
    await dispatch(driver, "held", "mail")
    await dispatch(driver, "free", "other")

    async with running(driver):
        await ran("free")
        assert RAN["held"] == 0  # its queue comes first, so it would have been taken before
        await operator.resume(["mail"])
        await ran("held")

    assert RAN == {"held": 1, "free": 1}


async def test_a_worker_that_waits_for_work_leaves_a_queue_that_was_paused_meanwhile(driver: Driver) -> None:
    async with running(driver):
        await dispatch(driver, "before", "mail")
        await ran("before")
        await operator_of(driver).pause(["mail"])
        paused_at = time.monotonic()
        await until(lambda: time.monotonic() > paused_at + CHECK_S)
        await dispatch(driver, "held", "mail")
        await dispatch(driver, "free", "other")
        await ran("free")
        assert RAN["held"] == 0

    assert (await driver.depth("mail")).ready == 1


async def test_all_queues_of_a_worker_may_be_paused(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, looks = operator_of(driver), count_looks(driver, monkeypatch)
    for queue in ("mail", "other"):
        await operator.pause([queue])
    await dispatch(driver, "held", "mail")

    async with running(driver):
        await some_looks(looks, 3)
        assert not RAN
        await operator.resume(["mail"])
        await ran("held")


async def test_a_worker_that_ends_when_nothing_is_left_leaves_what_is_paused(driver: Driver) -> None:
    await operator_of(driver).pause(["mail"])
    await dispatch(driver, "held", "mail")
    await dispatch(driver, "free", "other")

    async with asyncio.timeout(SOON_S):
        await worker_of(driver, burst=True).start()

    assert RAN == {"free": 1}
    assert (await driver.depth("mail")).ready == 1


async def test_pausing_twice_is_pausing_once(driver: Driver) -> None:
    operator = operator_of(driver)

    assert [await operator.pause(["mail"]), await operator.pause(["mail"])] == [{"mail"}, set()]
    assert await operator.paused() == {"mail"}
    assert [await operator.resume(["mail"]), await operator.resume(["mail"])] == [{"mail"}, set()]
    assert await operator.paused() == frozenset()
    assert [name for name in await operator.depths() if name == PAUSES_QUEUE] == []


async def test_a_queue_of_no_name_is_refused() -> None:
    operator = operator_of(MemoryDriver())

    for act in (operator.pause, operator.resume):
        with pytest.raises(InvalidQueueName):
            await act(["mail", "no such queue"])
    assert await operator.paused() == frozenset()


async def test_a_busy_worker_looks_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = MemoryDriver()
    looks = count_looks(driver, monkeypatch)
    await Queue(driver).dispatch([Note(text="many").on_queue("mail") for _ in range(200)])
    chosen = WorkerSettings(handle_signals=False, burst=True)

    async with asyncio.timeout(SOON_S):
        await Worker(driver, "mail", concurrency=1, settings=chosen, runtime=ProductionRuntime()).start()

    assert RAN["many"] == 200
    assert looks[PAUSES_QUEUE] < 20


async def test_a_wait_that_the_driver_ends_early_ends() -> None:
    class Closed(MemoryDriver):
        waits = 0

        async def wait_visible(self, queues: Sequence[str], *, wait_s: float) -> bool:
            self.waits += 1
            return False

    driver, clock, wake_up = Closed(), SystemClock(), asyncio.Event()
    await operator_of(driver).pause(["other"])
    queues = OpenQueues(driver, parse_queues("mail,other", random.Random()), check_s=CHECK_S, clock=clock)
    waiter = WorkWaiter(driver, queues, wait_s=3600, lease_s=30, clock=clock, wake_up=wake_up)

    waiter.start(1)
    await asyncio.wait_for(wake_up.wait(), SOON_S)

    assert waiter.collect().answered
    assert driver.waits == 1
