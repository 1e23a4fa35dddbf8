"""The workload of the hunt for priorities: the order in which levels run, however a message comes back."""

import asyncio

from asynctasq import Reject
from asynctasq.core.schedule_messages import ScheduledTask, ScheduleMessages, definitions_of
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.kernel.messages import Complete, Message
from asynctasq.kernel.priority import PRIORITIES
from asynctasq.kernel.schedule import Tick, Ticker
from asynctasq.tasks.base import AsyncTask
from asynctasq.tasks.options import Priority
from asynctasq.tasks.schedules import Every
from asynctasq.testing import Simulation
from tests.mutants.oracle import want

__all__ = ["leveled"]

ELSEWHERE = "elsewhere"
ran: list[str] = []


class Leveled(AsyncTask[None]):
    """Notes that it runs; fails, or is given up, in its first attempt if its key says so."""

    key: str
    queue = "work"
    max_attempts = 2
    retry_delay = 20

    async def execute(self) -> None:
        ran.append(self.key)
        if self.key.startswith("r") and self.attempt == 1:
            raise ValueError(self.key)
        if self.key.startswith("d"):
            raise Reject(self.key)


class High(Leveled):
    """The same, of high priority by its class."""

    priority = "high"


class Late(AsyncTask[None]):
    """A task with a schedule and a level."""

    priority = "low"

    async def execute(self) -> None:
        """Do nothing."""


def _levels(prefix: str) -> list[Leveled]:
    """Return a task of each level, the lowest first."""
    low = Leveled(key=f"{prefix}l").with_options(priority="low")
    return [low, Leveled(key=f"{prefix}n"), High(key=f"{prefix}h")]


async def leveled(sim: Simulation) -> None:
    """Let one worker with one slot run what became due at once; drive dead letters again; take leases over."""
    ran.clear()
    for task in [*_levels("1"), *_levels("2"), *(High(key=f"x{number}h") for number in range(16))]:
        await task.delay(10).dispatch()
    await sim.settle()
    _compare("order of reserve", "".join(key[-1] for key in ran), f"{'h' * 9}n{'h' * 9}lnl"[: len(ran)])
    for prefix, comes_back in (("r", "retry"), ("d", "redrive")):
        ran.clear()
        for task in _levels(prefix):
            await task.delay(10).dispatch()
        await sim.settle()
        if prefix == "d":
            await sim.queue.driver.redrive("work", limit=9)
            await sim.settle()
        first, again = sorted(ran[:3]), ran[3:]
        _compare(comes_back, "".join(first + again), "".join(f"{prefix}{level}" for level in "hlnhnl"))
    await _by_hand(sim)
    _of_schedules()


async def _by_hand(sim: Simulation) -> None:
    driver = MemoryDriver(clock=sim.queue.clock)
    await driver.enqueue([_message("low", "low"), _message("normal", "normal")])
    leases = await driver.reserve([ELSEWHERE], limit=2, lease_s=30)
    await driver.enqueue([_message("fresh", "normal", delay_s=20)])
    await asyncio.sleep(40)
    want(await driver.wait_visible([ELSEWHERE], wait_s=0), "wait", "what is visible is not told")
    leases = await driver.reserve([ELSEWHERE], limit=9, lease_s=30)
    _compare("takeover", " ".join(lease.message_id for lease in leases), "fresh normal low")
    first, *others = leases
    follow_ups = tuple(_message(f"{level}!", level) for level in reversed(PRIORITIES))
    await driver.settle([(first, Complete(follow_ups=follow_ups)), *((lease, Complete()) for lease in others)])
    leases = await driver.reserve([ELSEWHERE], limit=9, lease_s=30)
    _compare("follow-ups", " ".join(lease.message_id for lease in leases), "high! normal! low!")
    await driver.settle([(lease, Complete()) for lease in leases])
    await driver.enqueue([_message("waiting", "low", delay_s=5)])
    want(await driver.wait_visible([ELSEWHERE], wait_s=6), "wait", "a low message does not end a wait")
    depth = await driver.depth(ELSEWHERE)
    _compare("depth", f"{depth.ready} {depth.scheduled}", "1 0")
    await driver.settle([(one, Complete()) for one in await driver.reserve([ELSEWHERE], limit=9, lease_s=30)])


def _message(key: str, level: Priority, *, delay_s: float = 0.0) -> Message:
    return Message(id=key, queue=ELSEWHERE, body=b"", delay_s=delay_s, priority=level)


def _of_schedules() -> None:
    scheduled = ScheduledTask(task=Late, schedule=Every(minutes=1), name="late")
    [definition] = definitions_of([scheduled]).values()
    messages = ScheduleMessages()
    ticker = messages.ticker(Ticker(definition=definition))
    read = messages.ticker_in(ticker.id, ticker.queue, ticker.body)
    tick = messages.run(read.definition, Tick(nominal_at=60.0, delay_s=0.0), now=60.0)
    _compare("schedule", f"{ticker.priority} {read.definition.priority} {tick.priority}", "low low low")


def _compare(what: str, got: str, wanted: str) -> None:
    want(got == wanted, "priority", f"{what}: {got}, not {wanted}")
