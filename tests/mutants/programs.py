"""The workloads of the hunt: the mixed one, dead letters driven again, and a worker's life on a driver of its own."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from asynctasq.core.surroundings import SimulatedSurroundings, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.kernel.messages import DeadReason
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


async def outage(sim: Simulation) -> None:
    """Let calls fail that have no effect: nothing runs twice."""
    LOG.clear()
    expected = await _dispatch([one for one in [*fine(), *doomed()] if one.takes < 10 and not one.fragile])
    expected = [one for one in expected if one.task is not None]
    await sim.settle()
    for one in expected:
        numbers = tuple(run.attempt for run in LOG.of(one.key))
        want(numbers == one.attempts, "outage", f"{one.key}: {numbers}, not {one.attempts}")


# -- a worker's life -------------------------------------------------------------------------------


async def life(sim: Simulation) -> None:
    """Try what ends a worker, what wakes it and in which order it takes things."""
    for part in (_burst, _max_tasks, _order, _weights, _handed_back, _in_time, _woken, _poison, _refused):
        LOG.clear()
        driver = MemoryDriver(clock=sim.clock)
        await part(sim, driver)
        await driver.close()


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
    tasks = [Plain(key=f"{name} {n}").on_queue(name) for n in range(25) for name in ("low", "high")]
    await _put(sim, driver, *tasks)
    await asyncio.wait_for(_worker(sim, driver, queues="high:1,low:1", burst=True, concurrency=1).start(), 1000)
    first = {run.key.partition(" ")[0] for run in LOG.runs[:22]}
    want(len(first) == 2 or sim.seed == 0, "weights", "one of two queues of equal weight waited 22 turns")


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


async def _in_time(sim: Simulation, driver: MemoryDriver) -> None:
    [task_id] = await _put(sim, driver, TooLong(key="short").with_options(timeout=60).on_queue("low"))
    worker = _worker(sim, driver)
    running = asyncio.get_running_loop().create_task(worker.start())
    await asyncio.sleep(1)
    worker.stop()
    await asyncio.wait_for(running, 1000)
    want(await driver.find(task_id) is None, "shutdown", "what ended in time is not settled")


async def _refused(sim: Simulation, driver: MemoryDriver) -> None:
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
    await _put(sim, driver, Plain(key="now").on_queue("low"), Plain(key="later").on_queue("high").delay(7))
    await asyncio.sleep(20)
    began = [run.began for run in LOG.runs]
    worker.stop()
    await asyncio.wait_for(running, 1000)
    want(len(began) == 2 and 6.9 < began[1] - began[0] < 7.1, "wakes", f"ran at {began}, due 7 s apart")


async def _poison(sim: Simulation, driver: MemoryDriver) -> None:
    """A body that can't be read is put aside at once, and the rest runs."""
    message = MessageFactory(clock=sim.clock).message(Plain(key="bad").on_queue("low"))
    await driver.enqueue([replace(message, body=b"garbage")])
    await _put(sim, driver, Plain(key="good").on_queue("low"))
    await asyncio.wait_for(_worker(sim, driver, burst=True).start(), 1000)
    stored = await driver.find(message.id)
    reason = None if stored is None or stored.reason is None else stored.reason.value
    want(reason == "undecodable", "poison", f"garbage is {reason}")
    want([run.key for run in LOG.runs] == ["good"], "poison", "the rest did not run")
