"""A settlement that the backend refuses keeps no other from being settled, and becomes a dead letter that says why."""

import logging
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import pytest

from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.settling import settle_apart
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Settlements
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import AsyncTasqError, BodyTooLarge, DriverError, DriverUnavailable
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Lease, Message, Release
from asynctasq.queue import Queue
from asynctasq.tasks import AsyncTask
from asynctasq.tasks.application import Application

RAN: Counter[str] = Counter()


class Fine(AsyncTask[None]):
    async def execute(self) -> None:
        RAN[self._task_id or ""] += 1


class TooLarge(AsyncTask[bytes]):
    """Returns what the backend below does not take."""

    keep_result = True

    async def execute(self) -> bytes:
        RAN["too large"] += 1
        return b"x" * 10_000


class Refuses(MemoryDriver):
    """Refuses a large result, and the batch it is in: by its answer, or by closing the connection."""

    def __init__(self, error: type[AsyncTasqError], *, buries: bool = True) -> None:
        super().__init__()
        self.error = error
        self.buries = buries
        self.refused = 0

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        for _, settlement in settlements:
            large = isinstance(settlement, Complete) and settlement.result is not None
            if large or (isinstance(settlement, Bury) and not self.buries):
                self.refused += 1
                raise self.error("Packet sequence number wrong \ud800" + "é" * 100_000)
        return await super().settle(settlements)


class Away(MemoryDriver):
    """Can't be reached for the first `calls` calls after the reserve."""

    calls = 0

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        self._answer()
        return await super().settle(settlements)

    async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
        self._answer()
        return await super().extend(leases, lease_s=lease_s)

    def _answer(self) -> None:
        if self.calls > 0:
            self.calls -= 1
            raise DriverUnavailable("away")


async def work(driver: MemoryDriver, **settings: Any) -> None:
    chosen = WorkerSettings(application=Application(), handle_signals=False, burst=True, **settings)
    await Worker(driver, settings=chosen, runtime=ProductionRuntime()).start()


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


@pytest.mark.parametrize("error", [DriverError, DriverUnavailable, BodyTooLarge])
async def test_the_rest_of_the_batch_is_settled(error: type[AsyncTasqError]) -> None:
    driver = Refuses(error)
    ids = await Queue(driver).dispatch([Fine(), TooLarge(), *[Fine() for _ in range(6)]])

    await work(driver, broker_timeout_s=5.0)

    assert {"too large": 1} | {task_id: 1 for index, task_id in enumerate(ids) if index != 1} == RAN
    (stored,) = (await driver.list_messages("default", limit=10)).messages
    assert (stored.id, stored.reason, stored.attempts) == (ids[1], DeadReason.FAILED, 1)
    assert stored.error is not None
    assert "the attempt ended (complete), but the backend refused to store that: " in stored.error.message
    assert len(stored.error.to_json()) < 1_000
    assert stored.error.message.isascii()


@pytest.mark.parametrize("error", [DriverError, DriverUnavailable, BodyTooLarge])
async def test_what_can_not_even_be_buried_is_left_to_its_lease(
    error: type[AsyncTasqError], caplog: pytest.LogCaptureFixture
) -> None:
    driver = Refuses(error, buries=False)
    ids = await Queue(driver).dispatch([TooLarge(), Fine()])

    with caplog.at_level(logging.ERROR):
        await work(driver, broker_timeout_s=5.0)

    assert {"too large": 1, ids[1]: 1} == RAN
    assert "can't be made a dead letter either; its lease runs out" in caplog.text
    assert (await driver.depth("default")).reserved == 1
    assert driver.refused <= 15


class Flaky(MemoryDriver):
    """Answers renewals, but fails `calls` settlements in a row."""

    calls = 0

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        if self.calls > 0:
            self.calls -= 1
            raise DriverUnavailable("the connection was closed")
        return await super().settle(settlements)


async def held(driver: MemoryDriver, count: int) -> list[Lease]:
    await driver.enqueue([Message(id=f"m{number}", queue="q", body=b"x") for number in range(count)])
    return list(await driver.reserve(["q"], limit=count, lease_s=30.0))


@pytest.mark.parametrize("calls", range(1, 4))
async def test_no_settlement_is_refused_because_the_backend_was_away(calls: int) -> None:
    driver = Away()
    leases = await held(driver, 3)
    driver.calls = calls

    done = await settle_apart(driver, [(lease, Complete()) for lease in leases], DriverUnavailable("away"), lease_s=30)

    assert len(done.left) == 3
    assert isinstance(done.error, DriverUnavailable)
    depth = await driver.depth("q")
    assert (depth.reserved, depth.dead) == (3, 0)


@pytest.mark.parametrize("calls", range(1, 6))
async def test_no_settlement_is_refused_because_some_calls_failed(calls: int) -> None:
    driver = Flaky()
    (lease,) = await held(driver, 1)
    driver.calls = calls

    done = await settle_apart(driver, [(lease, Complete())], DriverUnavailable("closed"), lease_s=30)

    assert done.settled == [(lease, Complete())]
    assert await driver.find(lease.message_id) is None


async def test_what_is_lost_is_told_of() -> None:
    driver = Away()
    first, second = await held(driver, 2)
    await driver.settle([(first, Release(counted=False, delay_s=60))])

    done = await settle_apart(driver, [(first, Complete()), (second, Complete())], DriverError("no"), lease_s=30)

    assert (done.lost, done.left, len(done.settled)) == ({first.message_id}, (), 2)
