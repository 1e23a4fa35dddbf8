"""Workers that enter themselves: there while they run, gone when they are killed, and no trace of those that ended."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from asynctasq import __version__
from asynctasq.clock import SystemClock
from asynctasq.codec.schedule import encode_note
from asynctasq.core import worker_register
from asynctasq.core.queue_operator import QueueOperator
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.core.worker_register import QUEUE_PREFIX, WorkerEntry, WorkerRegistration
from asynctasq.drivers.base import Driver
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import DriverUnavailable
from asynctasq.kernel.messages import Complete, Lease, Message
from asynctasq.queue import Queue
from asynctasq.tasks import AsyncTask
from asynctasq.testing.conformance.harness import DriverHarness
from asynctasq.testing.servers import Servers
from tests.core.backends import INSPECTABLE, operator_of
from tests.patience import SOON_S, until


class Waits(AsyncTask[None]):
    async def execute(self) -> None:
        await asyncio.sleep(3600)


@pytest.fixture(params=list(INSPECTABLE))
async def harness(request: pytest.FixtureRequest, conformance_servers: Servers) -> AsyncIterator[DriverHarness]:
    made: DriverHarness = INSPECTABLE[request.param](conformance_servers)
    await made.prepare()
    yield made
    await made.clean_up()


def worker_of(driver: Driver) -> Worker:
    settings = WorkerSettings(handle_signals=False, registers=True, shutdown_timeout_s=0)
    return Worker(driver, ["mail", "other"], concurrency=7, settings=settings, runtime=ProductionRuntime())


async def test_a_worker_is_there_with_what_it_runs_until_it_ends(harness: DriverHarness) -> None:
    driver, other = harness.create(), harness.create()
    operator = operator_of(other)
    worker = worker_of(driver)
    (task_id,) = await Queue(driver).dispatch([Waits().on_queue("mail")])

    async with asyncio.timeout(SOON_S):
        running = asyncio.create_task(worker.start())
        await until(operator.workers, "it has entered itself")
        await until(operator.running, "its task runs")
        (entry,) = await operator.workers()
        assert (entry.alive, entry.name, entry.version, entry.concurrency) == (True, worker.name, __version__, 7)
        assert entry.queues == ("mail", "other")
        assert [(task.id, task.worker) for task in await operator.running()] == [(task_id, worker.name)]
        worker.stop()
        await running

    assert await operator.workers() == []
    assert [name for name in await operator.depths(own=True) if name.startswith(QUEUE_PREFIX)] == []
    for each in (driver, other):
        await each.close()


async def test_a_worker_that_is_killed_is_gone_and_then_forgotten(harness: DriverHarness) -> None:
    driver = harness.create()
    operator = operator_of(driver)
    killed = WorkerRegistration(driver, "killed", queues=["mail"], concurrency=1, clock=SystemClock())
    await killed.sign()

    harness.advance(worker_register.LEASE_S + 1)
    (entry,) = await operator.workers()
    assert (entry.name, entry.alive) == ("killed", False)

    harness.advance(worker_register.FORGET_S + 1)
    living = WorkerRegistration(driver, "living", queues=["mail"], concurrency=1, clock=SystemClock())
    await living.sign()
    assert [entry.name for entry in await operator.workers()] == ["living"]
    assert [entry.name for entry in await operator.workers()] == ["living"]
    await driver.close()


async def test_an_entry_that_ran_out_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_register, "LEASE_S", 0.03)
    driver = MemoryDriver()
    operator, worker = operator_of(driver), worker_of(driver)

    async with asyncio.timeout(SOON_S):
        running = asyncio.create_task(worker.start())
        await until(operator.workers)
        (queue,) = [name for name in await driver.queues() if name.startswith(QUEUE_PREFIX)]
        await taken_away(driver, queue)
        await until(lambda: is_alive(operator), "it is there again")
        worker.stop()
        await running

    assert await operator.workers() == []


async def taken_away(driver: MemoryDriver, queue: str) -> None:
    """Remove an entry, as an operator may by mistake."""
    (message,) = (await driver.list_messages(queue)).messages
    await driver.cancel_running([message.id])


async def is_alive(operator: QueueOperator) -> bool:
    return [entry.alive for entry in await operator.workers()] == [True]


async def test_a_worker_that_is_about_to_enter_itself_is_not_shown_as_gone(harness: DriverHarness) -> None:
    driver = harness.create()
    worker = WorkerRegistration(driver, "w", queues=["a"], concurrency=1, clock=SystemClock())
    reserve = driver.reserve

    async def look(*given: Any, **more: Any) -> list[Lease]:
        seen.append(await operator_of(driver).workers())
        return await reserve(*given, **more)

    seen: list[list[WorkerEntry]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "reserve", look)
        await worker.sign()

    assert seen == [[]]
    assert [entry.alive for entry in await operator_of(driver).workers()] == [True]
    await driver.close()


async def test_a_backend_that_is_away_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Away(MemoryDriver):
        calls = 0

        async def enqueue(self, messages: Sequence[Message]) -> list[str]:
            self.calls += 1
            if self.calls < 3:
                raise DriverUnavailable("nobody is there")
            return await super().enqueue(messages)

    monkeypatch.setattr(worker_register, "LEASE_S", 0.03)
    driver = Away()
    registration = WorkerRegistration(driver, "w", queues=["a"], concurrency=1, clock=SystemClock())
    registration.start()

    await until(lambda: is_alive(operator_of(driver)))
    await registration.stop()
    assert await operator_of(driver).workers() == []


async def test_what_no_worker_has_written_is_shown_without_its_facts() -> None:
    driver = MemoryDriver()
    facts = {"name": "n", "host": "h", "pid": 1, "version": "1", "queues": [], "concurrency": 1, "started_at": 0}
    huge = json.dumps({**facts, "pid": "PID"}).replace('"PID"', "1e999")
    bodies = [b"", b"\x91\xa2{}", b"\x91\xa4null", encode_note("[" * 100_000), encode_note(huge)]
    for number, body in enumerate(bodies):
        await driver.enqueue([Message(id=f"worker:{number}", queue=f"{QUEUE_PREFIX}{number}", body=body)])

    entries = await operator_of(driver).workers()

    assert [(entry.id, entry.name, entry.alive) for entry in entries] == [
        (f"worker:{number}", "", False) for number in range(len(bodies))
    ]


async def test_workers_that_are_not_told_to_do_not_enter_themselves() -> None:
    driver = MemoryDriver()
    await Worker(driver, settings=WorkerSettings(handle_signals=False, burst=True)).start()

    assert await driver.queues() == []


async def test_only_its_own_message_is_taken_by_a_worker() -> None:
    driver = MemoryDriver()
    first, second = (
        WorkerRegistration(driver, name, queues=["a"], concurrency=1, clock=SystemClock()) for name in ("a", "b")
    )
    await first.sign()
    await second.sign()
    leases: list[Lease] = [lease for each in (first, second) if (lease := each.lease) is not None]

    assert len({lease.message_id for lease in leases}) == 2
    assert await driver.settle([(lease, Complete()) for lease in leases]) == frozenset()
