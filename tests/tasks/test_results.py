"""What a task returned, as the application reads it back: the type that was promised, or why there is none."""

import asyncio
import copy
import enum
import json
import pickle  # noqa: TID251 - users may
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

import asynctasq
from asynctasq.codec.arguments import pack_arguments, unpack_arguments
from asynctasq.core.runtime import WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import NO
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import (
    Reject,
    ResultNotKept,
    ResultTimeoutError,
    TaskFailedError,
    TaskNotFoundError,
    UnknownTask,
    UnsupportedFeature,
)
from asynctasq.kernel.messages import Complete, State
from asynctasq.queue import Queue
from asynctasq.tasks import AsyncTask, BaseTask, TaskHandle, dispatch_many, task
from asynctasq.tasks.application import Application
from asynctasq.tasks.dispatching import scoped_dispatcher


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


@task(keep_result=True)
async def number() -> int:
    return 7


class Dropped(AsyncTask[int]):
    async def execute(self) -> int:
        return 1


class Rejected(AsyncTask[int]):
    keep_result = True

    async def execute(self) -> int:
        raise Reject("not today")


class Takes(AsyncTask[str]):
    keep_result = True
    parent: str

    async def execute(self) -> str:
        return self.parent


class KeepsNone(MemoryDriver):
    capabilities = replace(MemoryDriver.capabilities, keeps_results=NO)


@pytest.fixture
def driver() -> MemoryDriver:
    return MemoryDriver()


@pytest.fixture
def queue(driver: MemoryDriver) -> Iterator[Queue]:
    queue = Queue(driver)
    token = scoped_dispatcher.set(queue)
    yield queue
    scoped_dispatcher.reset(token)


async def work(driver: MemoryDriver) -> None:
    settings = WorkerSettings(application=Application(), burst=True, handle_signals=False)
    await Worker(driver, settings=settings).start()


# -- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("built", "result"),
    [(Locate(), Point(1, 2)), (colours(), [Colour.RED]), (Dropped().with_options(keep_result=5), 1)],
    ids=["dataclass", "list of enum", "asked for at dispatch"],
)
async def test_a_result_comes_back_as_annotated(
    queue: Queue, driver: MemoryDriver, built: BaseTask[Any], result: object
) -> None:
    handle = await built.dispatch()
    await work(driver)

    assert await handle.result() == result
    assert await asynctasq.result(handle) == result, "a result that needs its task names it"
    assert await asynctasq.result(str(handle), task=type(built)) == result


async def test_a_result_of_a_class_that_is_not_imported_says_what_to_do(
    queue: Queue, driver: MemoryDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = await Locate().dispatch()
    await work(driver)
    monkeypatch.setattr("asynctasq.results.registered", lambda name: None)

    with pytest.raises(UnknownTask, match="Locate is annotated, which is not imported here; import its module"):
        await asynctasq.result(handle)


async def test_a_result_is_waited_for(queue: Queue, driver: MemoryDriver) -> None:
    handle = await Locate().dispatch()
    waiting = asyncio.create_task(handle.result(timeout=60))
    await asyncio.sleep(0)

    await work(driver)

    assert await waiting == Point(1, 2)


async def test_a_living_message_counts_for_more_than_an_earlier_result(queue: Queue, driver: MemoryDriver) -> None:
    built = Locate().with_options(task_id="3f8a2b1c-0000-4000-8000-000000000000")
    handle = await built.dispatch()
    await work(driver)
    await built.dispatch()

    with pytest.raises(ResultTimeoutError):
        await handle.result(timeout=0)


# -- no values -----------------------------------------------------------------------------------


async def test_a_failure_is_raised_with_its_texts(queue: Queue, driver: MemoryDriver) -> None:
    handle = await Rejected().dispatch()
    waiting = asyncio.create_task(handle.result())
    await asyncio.sleep(0)

    await work(driver)

    with pytest.raises(TaskFailedError, match=r"dead letter \(rejected, 1 attempts counted\): .*: not today") as caught:
        await waiting
    failed = caught.value
    assert (failed.type, failed.message, failed.reason, failed.attempts) == (
        "asynctasq.errors.Reject",
        "not today",
        "rejected",
        1,
    )
    assert "raise Reject" in failed.traceback
    assert failed.task_id == handle


async def test_a_timeout_says_in_which_state_the_task_is(queue: Queue) -> None:
    handle = await Locate().delay(60).dispatch()

    with pytest.raises(TimeoutError, match=r"not ended within 0 s; it is scheduled in queue 'default'") as caught:
        await handle.result(timeout=0)

    assert isinstance(caught.value, ResultTimeoutError)
    assert caught.value.state == "scheduled"


async def test_a_task_without_keep_result_is_refused_at_once(queue: Queue) -> None:
    handle = await Dropped().dispatch()

    with pytest.raises(ResultNotKept, match="Dropped was dispatched without keep_result"):
        await handle.result()
    with pytest.raises(ResultNotKept, match=r"Dropped\) was dispatched without keep_result"):
        await asynctasq.result(str(handle))


async def test_what_is_cancelled_or_unknown_or_gone_is_not_found(queue: Queue, driver: MemoryDriver) -> None:
    handle = await Locate().dispatch()
    waiting = asyncio.create_task(handle.result())
    await asyncio.sleep(0)
    await driver.cancel([handle])

    with pytest.raises(TaskNotFoundError, match="it was cancelled, it went to another driver"):
        await waiting
    with pytest.raises(LookupError):
        await asynctasq.result("never was")
    with pytest.raises(TaskNotFoundError):
        await handle.status()


async def test_a_driver_that_claims_no_results_is_not_asked_for_one() -> None:
    with pytest.raises(UnsupportedFeature, match="keeps no results"):
        await Queue(KeepsNone()).result("an id", task=Locate)


@pytest.mark.parametrize("timeout", [-1, "long", float("nan"), True])
async def test_a_timeout_that_is_none_is_refused(queue: Queue, timeout: Any) -> None:
    handle = await Locate().dispatch()

    with pytest.raises(ValueError, match="timeout must be"):
        await handle.result(timeout=timeout)
    with pytest.raises(ValueError, match="timeout must be"):
        await asynctasq.result(handle, timeout=timeout)


async def test_a_cancelled_wait_leaves_nothing_behind(queue: Queue, driver: MemoryDriver) -> None:
    handle = await Locate().dispatch()
    waiting = asyncio.create_task(handle.result())
    await asyncio.sleep(0)

    waiting.cancel()
    await asyncio.wait([waiting])

    assert not driver._end_waits.by_id


async def test_a_thousand_waits_end(queue: Queue, driver: MemoryDriver) -> None:
    handles = await dispatch_many([number() for _ in range(1000)])
    waiting = asyncio.gather(*(handle.result(timeout=60) for handle in handles))
    await asyncio.sleep(0)

    await work(driver)

    assert await waiting == [7] * 1000


# -- from synchronous code ------------------------------------------------------------------------


def test_synchronous_code_gets_results_and_states(queue: Queue, driver: MemoryDriver) -> None:
    handle = Locate().dispatch_sync()
    assert handle.status_sync().state is State.READY
    assert asynctasq.status_sync(handle).task.endswith(":Locate")
    with pytest.raises(ResultTimeoutError):
        handle.result_sync(timeout=0)

    asyncio.run(work(driver))

    assert handle.result_sync() == asynctasq.result_sync(handle) == Point(1, 2)


async def test_synchronous_calls_are_refused_in_a_running_loop(queue: Queue) -> None:
    handle = await Locate().dispatch()

    with pytest.raises(RuntimeError, match="would block the running event loop"):
        handle.result_sync()
    with pytest.raises(RuntimeError, match="would block the running event loop"):
        asynctasq.status_sync(handle)


# -- status --------------------------------------------------------------------------------------


async def test_the_status_follows_the_task(queue: Queue, driver: MemoryDriver) -> None:
    handle = await Locate().on_queue("mail").delay(60).with_options(max_attempts=4).dispatch()
    status = await handle.status()
    assert (status.id, status.state, status.queue, status.max_attempts) == (handle, State.SCHEDULED, "mail", 4)
    assert (status.ended, status.attempts, status.started_at, status.worker) == (False, 0, None, None)
    assert status.due_at is not None
    assert status.enqueued_at is not None
    assert 59 < (status.due_at - status.enqueued_at).total_seconds() < 61
    assert abs(datetime.now(UTC) - status.enqueued_at).total_seconds() < 60

    driver.clock_offset = 61
    driver.holder = "host:1:w"
    [lease] = await driver.reserve(["mail"], limit=1, lease_s=30)
    status = await asynctasq.status(handle, task=Locate)
    assert (status.state, status.worker, status.due_at) == (State.RESERVED, "host:1:w", None)
    assert status.started_at is not None

    await driver.settle([(lease, Complete(result=b"\xc0", result_ttl_s=60))])
    status = await handle.status()
    assert (status.state, status.ended) == (State.COMPLETED, True)


async def test_the_status_of_a_dead_letter_has_its_error(queue: Queue, driver: MemoryDriver) -> None:
    handle = await Rejected().dispatch()
    await work(driver)

    status = await handle.status()

    assert (status.state, status.attempts, status.ended) == (State.DEAD, 1, True)
    assert status.error is not None
    assert (status.error.message, str(status.reason and status.reason.value)) == ("not today", "rejected")


# -- handles -------------------------------------------------------------------------------------


async def test_a_handle_is_the_string_that_it_is(queue: Queue) -> None:
    handle = await Locate().dispatch()
    plain = str(handle)

    assert isinstance(handle, str)
    assert isinstance(handle, TaskHandle)
    assert type(plain) is str
    assert (handle, hash(handle), repr(handle), f"{handle}") == (plain, hash(plain), repr(plain), plain)
    assert json.dumps({"id": handle}) == json.dumps({"id": plain})
    assert [type(pickle.loads(pickle.dumps(handle, protocol))) for protocol in range(6)] == [str] * 6
    assert type(copy.copy(handle)) is type(copy.deepcopy(handle)) is str


async def test_a_handle_is_an_argument_and_a_result_as_its_string(queue: Queue, driver: MemoryDriver) -> None:
    first = await Locate().dispatch()

    packed = pack_arguments("m:f", {"a": first, "b": [{first: (first,)}]}, {})
    second = await Takes(parent=first).dispatch()
    await work(driver)

    unpacked = unpack_arguments(packed, {})
    assert unpacked == {"a": first, "b": [{first: (first,)}]}
    assert type(unpacked["a"]) is str
    assert await second.result() == first


async def test_a_handle_asks_the_driver_that_has_its_task(queue: Queue) -> None:
    other = MemoryDriver()

    class Away(AsyncTask[int]):
        keep_result = True
        _driver_override = other

        async def execute(self) -> int:
            return 3

    handle = await Away().dispatch()
    await work(other)

    assert await handle.result() == 3
    with pytest.raises(TaskNotFoundError):
        await asynctasq.result(str(handle))
    assert await asynctasq.result(str(handle), task=Away) == 3
