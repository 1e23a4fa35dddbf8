"""The workloads of the hunt: the mixed one, dead letters driven again, and what single faults may cost."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from asynctasq.kernel.ledger import Kind
from asynctasq.kernel.messages import DeadReason
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
    Careless,
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
        _of(Growing(key="growing"), attempts=(1, 2, 3, 4, 5, 6, 7), waits=_growing(), asked=6, counted=7, **died),
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
        Expected(key="parent child", task_id=child_id("parent 1"), delay=6, child_of="parent"),
        _of(Plain(key="delayed").delay(FRACTION), delay=FRACTION, result="delayed done"),
    ]
    return found


def _growing() -> tuple[Wait, ...]:
    return tuple(Wait(least=0, most=most) for most in (4, 8, 16, 20, 20, 20))


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


async def taken_over_meanwhile(sim: Simulation) -> None:
    """Take a message from a worker that does not hear of it: it may not tell `failed` of what is no longer its own."""
    LOG.clear()
    where = sim.rng.random() < 0.5
    await Careless(key="careless", asked_s=15 if where else 0, told_s=0 if where else 15).dispatch()
    await sim.settle()
    number = 1 if where else 2  # the second time it had begun before the lease was lost
    want(LOG.hooks == [("careless", "KeyError")] * number, "lost leases", f"hooks: {LOG.hooks}, not {number}")


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
