"""The workload of the hunt for fair keys: whose turn it is, and that what comes back waits for nobody else's."""

import asyncio

from asynctasq.core.schedule_messages import ScheduledTask, ScheduleMessages, definitions_of
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Lease, Message, Release
from asynctasq.kernel.schedule import Tick, Ticker
from asynctasq.tasks.base import AsyncTask
from asynctasq.tasks.batches import dispatch_many
from asynctasq.tasks.schedules import Every
from asynctasq.testing import Simulation
from tests.mutants.oracle import want

__all__ = ["fair"]

Q = "shared"
ran: list[str] = []


class Fair(AsyncTask[None]):
    """Notes that it runs."""

    tenant: str
    number: int
    fair_key = "tenant"
    queue = "work"

    async def execute(self) -> None:
        ran.append(f"{self.tenant}{self.number}")


class Ticks(AsyncTask[None]):
    """A task with a schedule and a fair key."""

    fair_key = staticmethod(lambda _: "t")

    async def execute(self) -> None:
        """Do nothing."""


async def fair(sim: Simulation) -> None:
    """Let one worker with one slot run the tasks of several keys; then walk through a driver by hand."""
    ran.clear()
    a = [Fair(tenant="a", number=number) for number in range(4)]
    await dispatch_many([*a, Fair(tenant="b", number=0), Fair(tenant="b", number=1).with_options(fair_key=_c)])
    await sim.settle()
    _compare("turns", " ".join(ran), "a0 a1 b0 b1 a2 a3")
    driver = MemoryDriver(clock=sim.queue.clock)
    await asyncio.sleep(100)
    await _come_back(driver)
    await _shown(driver)
    await _served_again(driver)
    _of_schedules()


def _c(_: object) -> str:
    return "c"


async def _come_back(driver: MemoryDriver) -> None:
    """A retry, a takeover and a redrive wait by time: every second claim begins with them."""
    await driver.enqueue([_message(f"a{number}") for number in range(6)])
    [first] = await _take(driver)
    await driver.settle([(first, Release(counted=True))])
    _compare("retry", " ".join([*await _names(driver), *await _names(driver)]), "a1 a0")
    await driver.enqueue([_message("b0")])
    held = [*await _take(driver), *await _take(driver, 9)]
    _compare("key that begins", " ".join(lease.message_id for lease in held), "a2 a3 b0 a4 a5")
    await driver.settle([(held[0], Bury(reason=DeadReason.FAILED)), *((lease, Complete()) for lease in held[1:])])
    await driver.redrive(Q, limit=1)
    _compare("redrive", " ".join(await _names(driver)), "a2")


async def _shown(driver: MemoryDriver) -> None:
    await driver.enqueue([_message("s0"), _message("s1"), _message("late", delay_s=50)])
    want(await driver.wait_visible([Q], wait_s=0), "fair", "what waits by rank is not told")
    await asyncio.sleep(7)
    depth = await driver.depth(Q)
    _compare("depth", f"{depth.ready} {depth.scheduled} {depth.oldest_age_s:g}", "2 1 7")
    stored = await driver.find("s1")
    want(stored is not None and stored.visible_at == stored.enqueued_at, "fair", "a rank is shown as an instant")
    want(await driver.cancel(["s0", "late"]) == {"s0", "late"}, "fair", "who waits by rank can't be cancelled")
    _compare("after a cancel", " ".join(await _names(driver)), "s1")


async def _served_again(driver: MemoryDriver) -> None:
    """Two keys that send again whenever they were served do not starve a third."""
    await driver.enqueue([_message(name) for name in ("w0", "w1", "p", "q")])
    served: list[str] = []
    while "w1" not in served and len(served) < 20:
        for lease in await _take(driver):
            served.append(lease.message_id)
            await driver.settle([(lease, Complete())])
            if lease.message_id[0] in "pq":
                await driver.enqueue([_message(lease.message_id)])
    want("w1" in served, "fair", f"w1 starves: {' '.join(served)}")


def _message(key: str, *, delay_s: float = 0.0) -> Message:
    return Message(id=key, queue=Q, body=b"", delay_s=delay_s, fair_key=key[0])


async def _take(driver: MemoryDriver, limit: int = 1) -> list[Lease]:
    return await driver.reserve([Q], limit=limit, lease_s=30)


async def _names(driver: MemoryDriver) -> list[str]:
    """Take one message, complete it, and return its id."""
    leases = await _take(driver)
    await driver.settle([(lease, Complete()) for lease in leases])
    return [lease.message_id for lease in leases]


def _of_schedules() -> None:
    [definition] = definitions_of([ScheduledTask(task=Ticks, schedule=Every(minutes=1), name="ticks")]).values()
    messages = ScheduleMessages()
    ticker = messages.ticker(Ticker(definition=definition))
    read = messages.ticker_in(ticker.id, ticker.queue, ticker.body)
    tick = messages.run(read.definition, Tick(nominal_at=60.0, delay_s=0.0), now=60.0)
    _compare("schedule", f"{read.definition.fair_key} {tick.fair_key}", "t t")


def _compare(what: str, got: str, wanted: str) -> None:
    want(got == wanted, "fair", f"{what}: {got}, not {wanted}")
