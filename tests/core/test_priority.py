"""Priority as tasks say it: where it can be said, what is refused, and which runs first."""

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest

from asynctasq import AsyncTask, SyncTask, task
from asynctasq.codec.schedule import decode_ticker, encode_ticker
from asynctasq.core.schedule_messages import ScheduledTask, definitions_of
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.sqs_driver import SQSDriver
from asynctasq.errors import DispatchError, TaskDefinitionError, UnsupportedFeature
from asynctasq.kernel.messages import UniqueKey
from asynctasq.kernel.schedule import Ticker
from asynctasq.queue import Queue
from asynctasq.tasks.schedules import Every
from asynctasq.testing import FakeQueue, Simulation, simulate

RAN: list[str] = []


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


class Work(AsyncTask[None]):
    """Notes that it runs; the first attempt of those named so fails."""

    name: str
    retry_delay = 30

    async def execute(self) -> None:
        RAN.append(self.name)
        if self.name.startswith("failing") and self.attempt == 1:
            raise ValueError(self.name)


class Urgent(Work):
    priority = "high"


class Nightly(SyncTask[None]):
    priority = "low"

    def execute(self) -> None:
        """Do nothing."""


@task(priority="high")
async def refund(name: str) -> None:
    RAN.append(name)


def test_a_class_a_function_and_a_dispatch_can_say_it() -> None:
    with FakeQueue() as queue:
        Work(name="by dispatch").with_options(priority="low").dispatch_sync()
        Work(name="normal").dispatch_sync()
        Urgent(name="by class").dispatch_sync()
        refund("by function").dispatch_sync()
        Urgent(name="lowered").with_options(priority="low").dispatch_sync()

        assert [one.priority for one in queue.dispatched()] == ["low", "normal", "high", "high", "low"]
        assert [str(one).partition("'default'")[2] for one in queue.dispatched()[:2]] == [" priority=low", ""]
        queue.run_until_idle_sync()

    assert RAN == ["by class", "by function", "normal", "by dispatch", "lowered"]


def test_a_retry_comes_back_at_its_level() -> None:
    with FakeQueue() as queue:
        Work(name="failing low").with_options(priority="low").dispatch_sync()
        Work(name="failing normal").dispatch_sync()
        Urgent(name="failing high").dispatch_sync()
        queue.run_until_idle_sync()

    assert RAN == ["failing high", "failing normal", "failing low"] * 2


@simulate(runs=10, workers=1, concurrency=1, faults=())
async def test_levels_hold_in_a_simulation(sim: Simulation) -> None:
    RAN.clear()
    for number in range(3):
        await Work(name=f"normal {number}").delay(60).dispatch()
        await Urgent(name=f"high {number}").delay(60).dispatch()
    await sim.settle()

    assert [name.split()[0] for name in RAN] == ["high"] * 3 + ["normal"] * 3


@pytest.mark.parametrize("value", ["urgent", "", "High", 1, 0, True, None, b"high", "x" * 10_000])
def test_what_is_no_level_is_refused_when_the_class_is_made(value: Any) -> None:
    with pytest.raises(TaskDefinitionError, match="priority must be one of high, normal, low"):
        type("Wrong", (Work,), {"priority": value, "__module__": __name__})

    with pytest.raises(TaskDefinitionError, match="priority must be one of"):
        task(priority=value)(lambda: None)


@pytest.mark.parametrize("value", ["urgent", "", 1, True])
def test_what_is_no_level_is_refused_at_the_call(value: Any) -> None:
    with pytest.raises(ValueError, match="priority must be one of high, normal, low"):
        Work(name="m").with_options(priority=value)


def test_sqs_is_refused_at_the_dispatch() -> None:
    queue = Queue(SQSDriver(region="eu-central-1"))

    with pytest.raises(UnsupportedFeature, match=r"Urgent has priority 'high', but .* has no priorities; use a queue"):
        asyncio.run(queue.dispatch([Urgent(name="m")]))


def test_a_fake_queue_like_sqs_refuses_as_sqs_does() -> None:
    with FakeQueue(like="sqs://eu-central-1"), pytest.raises(UnsupportedFeature, match="has no priorities"):
        Urgent(name="m").dispatch_sync()


async def test_the_memory_driver_refuses_what_is_no_level() -> None:
    driver = MemoryDriver()
    factory = Queue(driver).factory
    message = factory.message(Work(name="m"))
    object.__setattr__(message, "priority", "urgent")

    with pytest.raises(DispatchError, match="priority must be one of low, normal, high, not 'urgent'"):
        await driver.enqueue([message])
    assert (await driver.depth("default")).ready == 0


def test_a_schedule_keeps_the_level_of_its_task() -> None:
    [definition] = definitions_of([ScheduledTask(task=Nightly, schedule=Every(minutes=1), name="nightly")]).values()

    ticker = decode_ticker(encode_ticker(Ticker(definition=definition)))

    assert (definition.priority, ticker.definition) == ("low", definition)


def test_a_ticker_without_a_level_has_the_bytes_it_had() -> None:
    [low] = definitions_of([ScheduledTask(task=Nightly, schedule=Every(minutes=1), name="nightly")]).values()
    normal = Ticker(definition=cast("Any", type(low))(**{name: getattr(low, name) for name in _fields(low)}))

    assert len(encode_ticker(normal)) == len(encode_ticker(Ticker(definition=low))) - len(b"\xc0\xa3low")


def test_a_schedule_keeps_the_level_and_the_unique_key_of_its_task() -> None:
    [low] = definitions_of([ScheduledTask(task=Nightly, schedule=Every(minutes=1), name="nightly")]).values()
    both = Ticker(definition=replace(low, unique=UniqueKey(key="k", on_conflict="replace")))

    assert decode_ticker(encode_ticker(both)) == both


def _fields(definition: Any) -> list[str]:
    return [name for name in definition.__slots__ if name != "priority"]
