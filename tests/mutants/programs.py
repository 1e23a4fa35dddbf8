"""The workloads of the hunt: the mixed one, dead letters driven again, and a worker's life on a driver of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

from asynctasq.codec.envelope import WIRE_VERSION
from asynctasq.core.surroundings import SimulatedSurroundings, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import NO, Settlements
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import DriverUnavailable
from asynctasq.kernel.ledger import Kind
from asynctasq.kernel.messages import DeadReason, Lease
from asynctasq.queue import MessageFactory
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.registry import Application
from asynctasq.testing import Simulation
from tests.mutants.oracle import Expected, Wait, judge, want
from tests.mutants.tasks import (
    LOG,
    AsksAgain,
    AsksAgainAtOnce,
    AsksTooOften,
    AtOnce,
    BadHook,
    Blocking,
    ChildDies,
    Choosy,
    Flaky,
    Growing,
    Hopeless,
    Long,
    Offloaded,
    Once,
    Parent,
    Plain,
    Rejects,
    Snoozes,
    TooLong,
    child_id,
    now,
)

FRACTION = 12.3456781
"""A delay that is no whole number of microseconds."""


def doomed() -> list[Expected]:
    """Return the dispatches that become dead letters."""
    died = {"ends": "failed", "hooks": 1, "error": "ValueError"}
    three = Wait(least=7)
    return [
        _of(Hopeless(key="hopeless"), attempts=(1, 2, 3), waits=(three, three), asked=2, counted=3, **died),
        _of(Growing(key="growing"), attempts=(1, 2, 3, 4, 5), waits=_growing(), asked=4, counted=5, **died),
        _of(Rejects(key="rejects"), ends="rejected", hooks=1, error="Reject", counted=1),
        _of(Once(key="once"), counted=1, **died),
        _of(BadHook(key="bad hook"), counted=1, **died),
        _of(Choosy(key="choosy"), asked=1, counted=1, ends="failed", hooks=1, error="KeyError"),
        _of(
            AsksTooOften(key="too often"),
            attempts=(1, 2),
            waits=(Wait(least=2),),
            counted=2,
            ends="failed",
            hooks=1,
            error="Retry",
        ),
        _of(
            TooLong(key="too long"),
            takes=2,
            attempts=(1, 2),
            waits=(Wait(least=4),),
            asked=1,
            counted=2,
            ends="failed",
            hooks=1,
            error="TaskTimeoutError",
            fragile=True,
        ),
        _of(
            ChildDies(key="child dies", good=9),
            attempts=(1, 1, 1),
            waits=(Wait(least=0), Wait(least=0)),
            ends="crashed",
            hooks=1,
            error="ChildCrashed",
            fragile=True,
        ),
    ]


def fine() -> list[Expected]:
    """Return the dispatches that come to a good end."""
    flaky = (Wait(least=5), Wait(least=20), Wait(least=60))
    found = [_of(Plain(key=f"plain {n}"), result=f"plain {n} done") for n in range(3)]
    found += [
        _of(Blocking(key="blocking"), takes=0, result="blocking done"),
        _of(Offloaded(key="offloaded").on_queue("other"), takes=0, result="offloaded done"),
        _of(Flaky(key="flaky", good=4), attempts=(1, 2, 3, 4), waits=flaky, asked=3),
        _of(Flaky(key="own", good=3).retry_after(2), attempts=(1, 2, 3), waits=(Wait(least=2),) * 2, asked=2),
        _of(Flaky(key="late", good=2).delay(9), delay=9, attempts=(1, 2), waits=(Wait(least=5),), asked=1),
        _of(AtOnce(key="no delay"), attempts=(1, 2), waits=(Wait(least=0),), asked=1),
        _of(Snoozes(key="snoozes"), attempts=(1, 1), waits=(Wait(least=30),)),
        _of(AsksAgain(key="again"), attempts=(1, 2), waits=(Wait(least=3),)),
        _of(AsksAgainAtOnce(key="at once"), attempts=(1, 2), waits=(Wait(least=0),)),
        _of(ChildDies(key="child lives", good=3), attempts=(1, 1, 1), waits=(Wait(least=0),) * 2, fragile=True),
        _of(Long(key="long"), takes=70),
        _of(Parent(key="parent").on_queue("other"), fragile=True),  # its dispatch may fail
        Expected(key="parent child", task_id=child_id("parent 1"), delay=6),
        _of(Plain(key="delayed").delay(FRACTION), delay=FRACTION, result="delayed done"),
    ]
    return found


def _growing() -> tuple[Wait, ...]:
    return tuple(Wait(least=0, most=most) for most in (4, 8, 10, 10))


def _of(task: Any, **expectations: Any) -> Expected:
    return Expected(key=task.key, task=task, **expectations)


async def _dispatch(expected: Sequence[Expected]) -> list[Expected]:
    """Dispatch them; return the same with their ids."""
    return [one if one.task is None else replace(one, task_id=await one.task.dispatch()) for one in expected]


async def mixed(sim: Simulation) -> None:
    """Run everything at once, on three workers and two queues."""
    LOG.clear()
    started = now()
    expected = await _dispatch([*fine(), *doomed()])
    await sim.settle()
    await judge(sim, expected, started, exact=not sim.faults.fired)


async def redriven(sim: Simulation) -> None:
    """Drive dead letters again: all begins anew."""
    LOG.clear()
    expected = await _dispatch(doomed())
    await sim.settle()
    LOG.clear()
    started, store = now(), sim.queue.driver
    dead = (await store.depth("work")).dead
    want(dead == len(expected), "redrive", f"{dead} are dead, not {len(expected)}")
    want(await store.redrive("work", limit=dead - 2) == dead - 2, "redrive", "not as many as asked")
    left = (await store.depth("work")).dead
    want(left == 2, "redrive", f"{left} are left dead, not 2")
    await store.redrive("work", limit=100)
    await sim.settle()
    await judge(sim, expected, started, exact=not sim.faults.fired)


async def given_up(sim: Simulation) -> None:
    """Let a message take down every worker that runs it: the third is the last."""
    LOG.clear()
    task_id = await Long(key="long").dispatch()
    await sim.settle()
    want(len(LOG.runs) == 3, "given up", f"ran {len(LOG.runs)} times, not 3")
    want(LOG.hooks == [("long", "WorkerCrashedError")], "given up", f"hooks: {LOG.hooks}")
    stored = await sim.queue._engine.store.find(task_id)
    want(stored is not None and stored.reason is DeadReason.CRASHED, "given up", f"it is {stored}")


async def taken_over(sim: Simulation) -> None:
    """Give a running message to a second worker: the first one stops when it hears of that."""
    LOG.clear()
    await Long(key="long").dispatch()
    await sim.settle()
    ended = [run.ended is not None for run in LOG.runs]
    want(ended == [False, True], "lost leases", f"which of the two runs came to their end: {ended}")


async def deployed(sim: Simulation) -> None:
    """Stop the worker in the midst of an attempt; it may finish what ends in time and hands back the rest."""
    LOG.clear()
    await Long(key="long").dispatch()
    await sim.settle()
    numbers = [run.attempt for run in LOG.runs]
    want(numbers == [1, 1], "shutdown", f"attempts {numbers}, not the first one twice")
    want(LOG.hooks == [], "shutdown", f"hooks: {LOG.hooks}")


async def deployed_meanwhile(sim: Simulation) -> None:
    """Stop the worker at once while it decides on a failure: the dead letter has had its hook, and one attempt."""
    LOG.clear()
    task_id = await Choosy(key="choosy").dispatch()
    await sim.settle()
    stored = await sim.queue._engine.store.find(task_id)
    told = None if stored is None else (stored.reason, stored.attempts)
    want(told == (DeadReason.FAILED, 1), "shutdown", f"{stored}")
    want(LOG.hooks == [("choosy", "KeyError")], "shutdown", f"hooks: {LOG.hooks}")


async def once(sim: Simulation) -> None:
    """Let one call go wrong that costs no attempt, or start none: each task runs once, to its end."""
    LOG.clear()
    for n in range(3):
        await Plain(key=f"{n}").dispatch()
    await sim.settle()
    await asyncio.sleep(60)  # a worker that was held up may think that it has something to do
    numbers = sorted((run.key, run.attempt) for run in LOG.runs)
    want(numbers == [("0", 1), ("1", 1), ("2", 1)], "once", f"ran {numbers}")


async def kept(sim: Simulation) -> None:
    """Let one renewal fail: the next try comes while the lease still stands, and a long task runs once."""
    LOG.clear()
    await Long(key="long").dispatch()
    await sim.settle()
    ended = [run.ended is not None for run in LOG.runs]
    want(ended == [True], "renewal", f"which of the runs came to their end: {ended}")


async def outage(sim: Simulation) -> None:
    """Let calls fail that have no effect, and workers drain: nothing runs twice, but what had no time to end."""
    LOG.clear()
    expected = await _dispatch([one for one in [*fine(), *doomed()] if one.takes < 10 and not one.fragile])
    expected = [one for one in expected if one.task is not None]
    await sim.settle()
    hurried = any(entry.kind is Kind.FAULT and "to stop at once" in entry.detail for entry in sim.queue.ledger)
    for one in expected:
        numbers = tuple(run.attempt for run in LOG.of(one.key))
        fits = set(numbers) == set(one.attempts) if hurried else numbers == one.attempts
        want(fits, "outage", f"{one.key}: {numbers}, not {one.attempts}")


# -- a worker's life -------------------------------------------------------------------------------


async def life(sim: Simulation) -> None:
    """Try what ends a worker, what wakes it and in which order it takes things."""
    parts: Sequence[Callable[[Simulation, Frail], Awaitable[None]]]
    parts = (
        _burst,
        _max_tasks,
        _order,
        _weights,
        _crowd,
        _handed_back,
        _hurried,
        _in_time,
        _woken,
        _poison,
        _newer,
        _cut_off,
    )
    for part, kind in product(parts, (Frail, Deaf)):
        LOG.clear()
        driver = kind(clock=sim.clock)
        await part(sim, driver)
        await driver.close()
    _refused()


class Frail(MemoryDriver):
    """One whose backend can be away; `asked` counts the calls that failed."""

    away = False
    asked = 0

    def _settle_now(self, settlements: Settlements) -> set[str]:
        self._answer()
        return super()._settle_now(settlements)

    def _reserve_now(self, queues: Sequence[str], limit: int, lease_s: float) -> list[Lease]:
        self._answer()
        return super()._reserve_now(queues, limit, lease_s)

    async def wait_visible(self, queues: Sequence[str], *, wait_s: float) -> bool:
        self._answer()
        return await super().wait_visible(queues, wait_s=min(wait_s, 25))

    def _answer(self) -> None:
        if self.away:
            self.asked += 1
            raise DriverUnavailable("the backend is away")


class Deaf(Frail):
    """One that does not say what is visible: its workers wait by taking, as with a broker that can't be asked."""

    capabilities = replace(MemoryDriver.capabilities, wakes_waiting=NO)


def _worker(sim: Simulation, driver: MemoryDriver, *, burst: bool = False, **choices: Any) -> Worker:
    settings = WorkerSettings(application=Application(), handle_signals=False, burst=burst)
    world = SimulatedSurroundings(clock=sim.clock, rng=sim.rng, name="own")
    return Worker(driver, **{"queues": "high,low", **choices}, settings=settings, surroundings=world)


async def _put(sim: Simulation, driver: MemoryDriver, *tasks: BaseTask[Any]) -> list[str]:
    messages = [MessageFactory(clock=sim.clock).message(task) for task in tasks]
    return await driver.enqueue(messages)


async def _burst(sim: Simulation, driver: MemoryDriver) -> None:
    tasks = [Plain(key=f"{n}").on_queue("low") for n in range(25)]
    await _put(sim, driver, *tasks, Plain(key="later").on_queue("low").delay(500))
    began = now()
    await asyncio.wait_for(_worker(sim, driver, burst=True).start(), 1000)
    want(len(LOG.runs) == 25, "burst", f"{len(LOG.runs)} ran, not all that was due")
    want(now() - began < 100, "burst", "it waited for what was not due")
    depth = await driver.depth("low")
    want((depth.ready, depth.scheduled) == (0, 1), "burst", f"it left {depth}")


async def _max_tasks(sim: Simulation, driver: MemoryDriver) -> None:
    await _put(sim, driver, *[Plain(key=f"{n}").on_queue("low") for n in range(5)])
    await asyncio.wait_for(_worker(sim, driver, max_tasks=2).start(), 1000)
    want(len(LOG.runs) == 2, "max_tasks", f"{len(LOG.runs)} ran, not 2")
    want((await driver.depth("low")).ready == 3, "max_tasks", "the rest is not left as it was")


async def _order(sim: Simulation, driver: MemoryDriver) -> None:
    names = ["high", "low", "high", "low", "low", "high"]
    await _put(sim, driver, *[Plain(key=f"{n}").on_queue(name) for n, name in enumerate(names)])
    await asyncio.wait_for(_worker(sim, driver, burst=True, concurrency=1).start(), 1000)
    order = [run.key for run in LOG.runs]
    want(order == ["0", "2", "5", "1", "3", "4"], "order", f"ran in the order {order}")
    starts = [run.began for run in LOG.runs]
    apart = all(later - earlier >= 1 for earlier, later in pairwise(starts))
    want(apart, "concurrency", f"more than one ran at once: {starts}")


async def _weights(sim: Simulation, driver: MemoryDriver) -> None:
    await _put(sim, driver, *[Plain(key=f"{name} {n}").on_queue(name) for n in range(42) for name in ("low", "high")])
    await asyncio.wait_for(_worker(sim, driver, queues="high:1,low:1", max_tasks=22, concurrency=1).start(), 1000)
    first = {run.key.partition(" ")[0] for run in LOG.runs[:22]}
    want(len(first) == 2 or sim.seed == 0, "weights", "one of two queues of equal weight waited 22 turns")
    LOG.clear()
    await asyncio.wait_for(_worker(sim, driver, queues="high:1,low:20", max_tasks=20, concurrency=1).start(), 1000)
    light = sum(run.key.startswith("high") for run in LOG.runs[:20])
    want(light <= 10 or sim.seed == 0, "weights", f"one twentieth of the weight had {light} of 20 turns")


async def _crowd(sim: Simulation, driver: MemoryDriver) -> None:
    """Let messages come due while others end: never do more run than there is room for."""
    tasks = [Plain(key=f"{n}").on_queue("low").delay(1 + sim.rng.randrange(8)) for n in range(16)]
    worker = _worker(sim, driver, concurrency=3, max_tasks=15)
    running = asyncio.get_running_loop().create_task(worker.start())
    await asyncio.sleep(0.5)
    await _put(sim, driver, *tasks)
    await asyncio.wait_for(running, 1000)
    want(len(LOG.runs) == 15, "max_tasks", f"{len(LOG.runs)} ran, not 15")
    crowds = [sum(one.began <= run.began < one.began + 1 for one in LOG.runs) for run in LOG.runs]
    want(max(crowds) <= 3, "concurrency", f"{max(crowds)} ran at once, not 3")


async def _handed_back(sim: Simulation, driver: MemoryDriver) -> None:
    [task_id] = await _put(sim, driver, Long(key="long").on_queue("low"))
    worker = _worker(sim, driver)
    running = asyncio.get_running_loop().create_task(worker.start())
    await asyncio.sleep(1)
    worker.stop()
    stopped = now()
    await asyncio.wait_for(running, 1000)
    want(29 <= now() - stopped <= 31, "shutdown", f"took {now() - stopped} s, not 30")
    stored = await driver.find(task_id)
    told = None if stored is None else (stored.state.value, stored.attempts, stored.crashes)
    want(told == ("ready", 0, 0), "shutdown", f"an interrupted attempt is not handed back: {told}")
    want(LOG.hooks == [], "shutdown", "failed() of an interrupted attempt ran")


async def _hurried(sim: Simulation, driver: MemoryDriver) -> None:
    """Ask twice: the second time, what runs is handed back at once."""
    [task_id] = await _put(sim, driver, Long(key="long").on_queue("low"))
    worker = _worker(sim, driver)
    running = asyncio.get_running_loop().create_task(worker.start())
    await asyncio.sleep(1)
    worker.stop()
    await asyncio.sleep(1)
    worker.stop()
    stopped = now()
    await asyncio.wait_for(running, 1000)
    want(now() - stopped < 1, "shutdown", f"took {now() - stopped} s when asked twice")
    stored = await driver.find(task_id)
    told = None if stored is None else (stored.state.value, stored.attempts, stored.crashes)
    want(told == ("ready", 0, 0), "shutdown", f"an interrupted attempt is not handed back: {told}")


async def _in_time(sim: Simulation, driver: MemoryDriver) -> None:
    [task_id] = await _put(sim, driver, TooLong(key="short").with_options(timeout=60).on_queue("low"))
    worker = _worker(sim, driver)
    running = asyncio.get_running_loop().create_task(worker.start())
    await asyncio.sleep(1)
    worker.stop()
    await asyncio.wait_for(running, 1000)
    want(await driver.find(task_id) is None, "shutdown", "what ended in time is not settled")


def _refused() -> None:
    """A time limit of 0 is refused; it is not no limit."""
    try:
        Plain(key="none").with_options(timeout=0)
    except ValueError:
        return
    want(False, "settings", "timeout=0 was taken")


async def _woken(sim: Simulation, driver: MemoryDriver) -> None:
    worker = _worker(sim, driver)
    running = asyncio.get_running_loop().create_task(worker.start())
    await asyncio.sleep(5)
    due: list[float] = []
    for name in ("low", "high", "low"):
        due += (now(), now() + 7)
        await _put(sim, driver, Plain(key="now").on_queue(name), Plain(key="later").on_queue(name).delay(7))
        await asyncio.sleep(20)
    began = [run.began for run in LOG.runs]
    worker.stop()
    await asyncio.wait_for(running, 1000)
    prompt = len(began) == len(due) and all(0 <= b - d < 0.1 for b, d in zip(began, due, strict=True))
    want(prompt, "wakes", f"ran at {began}, due at {due}")


async def _cut_off(sim: Simulation, driver: Frail) -> None:
    """Let the backend be away, for a while again and again, then for good: a worker asks now and then, and gives up."""
    running = asyncio.get_running_loop().create_task(_worker(sim, driver).start())
    await asyncio.sleep(1)
    for n in range(3):
        await _put(sim, driver, Plain(key=f"{n}").on_queue("low"))
        driver.away, driver.asked = True, 0
        await asyncio.sleep(50)
        want(0 < driver.asked < 200, "outage", f"asked {driver.asked} times in 50 s")
        driver.away = False
        await asyncio.sleep(50)
        want([run.key for run in LOG.runs[n:]] == [str(n)], "outage", f"after outage {n} there ran {LOG.runs[n:]}")
    driver.away, began = True, now()
    await asyncio.wait([running], timeout=500)
    want(running.done(), "outage", "a worker whose backend is away for good goes on")
    want(isinstance(running.exception(), DriverUnavailable), "outage", f"it ended with {running.exception()!r}")
    want(60 <= now() - began <= 60 + 25 + 10, "outage", f"it gave up after {now() - began} s, not 60")


async def _newer(sim: Simulation, driver: MemoryDriver) -> None:
    """A body of a later version waits for a later worker: nothing of it is counted, and it comes again."""
    message = MessageFactory(clock=sim.clock).message(Plain(key="newer").on_queue("low"))
    await driver.enqueue([replace(message, body=message.body[:1] + bytes((WIRE_VERSION + 1,)) + message.body[2:])])
    for _ in range(3):
        await asyncio.wait_for(_worker(sim, driver, burst=True).start(), 1000)
        stored = await driver.find(message.id)
        told = None if stored is None else (stored.state.value, stored.attempts, stored.crashes)
        want(told == ("scheduled", 0, 0), "versions", f"a message of a later version is {told}")
        await asyncio.sleep(3600)


async def _poison(sim: Simulation, driver: MemoryDriver) -> None:
    """A body that can't be read is put aside at once, and the rest runs."""
    message = MessageFactory(clock=sim.clock).message(Plain(key="bad").on_queue("low"))
    await driver.enqueue([replace(message, body=b"garbage")])
    await _put(sim, driver, Plain(key="good").on_queue("low"))
    await asyncio.wait_for(_worker(sim, driver, burst=True).start(), 1000)
    stored = await driver.find(message.id)
    told = None if stored is None else (stored.reason, stored.attempts, stored.crashes)
    want(told == (DeadReason.UNDECODABLE, 0, 0), "poison", f"garbage is {told}")
    want([run.key for run in LOG.runs] == ["good"], "poison", "the rest did not run")
