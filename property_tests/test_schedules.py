"""Schedules under thousands of seeds: crashes, lost replies and lost leases neither lose a tick nor double one."""

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from asynctasq import AsyncTask, Cron, Every, current_task, task
from asynctasq.core.schedule_messages import ScheduledTask
from asynctasq.testing import Simulation, simulate
from asynctasq.testing.clock import EPOCH
from asynctasq.testing.faults import Faults

START = EPOCH.timestamp()
MINUTE_S = 60.0


@task(schedule=Every(minutes=7, misfire="run_all"), max_attempts=5, retry_delay=1)
async def often() -> None:
    note(current_task())


@task(schedule=Cron("*/20 * * * *", tz="Europe/Berlin", jitter=100, misfire="run_all"), max_attempts=5, retry_delay=1)
async def spread() -> None:
    note(current_task())


ran: list[tuple[str, float]] = []


early: list[tuple[str, float]] = []


def note(running: Any) -> None:
    """Note which tick runs, and whether it runs before its time."""
    assert running is not None
    assert running.scheduled_for is not None
    tick = type(running).__name__, running.scheduled_for.timestamp()
    ran.append(tick)
    if START + asyncio.get_running_loop().time() < tick[1]:  # the loop's time is that of the store
        early.append(tick)


def dispatched_ticks(sim: Simulation) -> Counter[str]:
    """Return how often each message of a tick was stored, by its id, which follows from the tick alone."""
    return Counter(record.task_id for record in sim.queue.dispatched())


def multiples(period_s: float, *, until_s: float, since_s: float = 0.0) -> set[float]:
    """Return the ticks of a period after one instant and up to another, by counting."""
    first = int((START + since_s) // period_s) + 1
    last = int((START + until_s) // period_s)
    return {number * period_s for number in range(first, last + 1)}


@pytest.mark.slow
@simulate(runs=100, schedules=[often, spread], lease_s=20.0)
async def test_every_tick_is_run_whoever_crashes(sim: Simulation) -> None:
    await judge_an_hour(sim)


@pytest.mark.slow
@simulate(
    runs=100, schedules=[often, spread], lease_s=20.0, faults=Faults(clock_skew=3600, crash=0.01, must_fire=False)
)
async def test_a_clock_that_is_wrong_by_an_hour_changes_nothing(sim: Simulation) -> None:
    await judge_an_hour(sim)


async def judge_an_hour(sim: Simulation) -> None:
    """Let an hour pass under faults; judge that each tick ran, was stored once, and none was early."""
    ran.clear()
    early.clear()

    await sim.queue.advance(hours=1)
    sim.faults.stop()
    await sim.queue.advance(minutes=31)
    await sim.settle()

    assert max(dispatched_ticks(sim).values()) == 1, "no tick was stored twice"
    assert len(dispatched_ticks(sim)) == len(set(ran)), "each message is one tick, and ran"
    assert early == []
    for name, period_s in (("often", 7 * MINUTE_S), ("spread", 20 * MINUTE_S)):
        found = {at for task_name, at in ran if task_name == name}
        expected = multiples(period_s, until_s=91 * MINUTE_S)
        assert found == expected, f"{name}: missing {expected - found}, beyond {found - expected}"


class Report(AsyncTask[None]):
    async def execute(self) -> None:
        note(self)


class New(AsyncTask[None]):
    async def execute(self) -> None:
        note(self)


class Gone(AsyncTask[None]):
    async def execute(self) -> None:
        note(self)


def code(**schedules: Every) -> tuple[ScheduledTask, ...]:
    """Return what one version of an application schedules."""
    classes: dict[str, type[AsyncTask[None]]] = {"Report": Report, "New": New, "Gone": Gone}
    return tuple(ScheduledTask(task=classes[name], schedule=every, name=name) for name, every in schedules.items())


OLD = code(Report=Every(minutes=4, misfire="run_all"), Gone=Every(minutes=4, misfire="run_all"))
NEW = code(Report=Every(minutes=6, misfire="run_all"), New=Every(minutes=8, misfire="run_all"))
TROUBLE = Faults(crash=0.01, lost_reply=0.02, fail_before=0.02, fail_after=0.02, latency=0.05, must_fire=False)


def start(sim: Simulation, schedules: tuple[ScheduledTask, ...], count: int) -> list[str]:
    """Start workers of this code, as a deploy does; those that replace crashed ones have it from now on, too."""
    engine = sim._engine
    engine.options = replace(engine.options, schedules=schedules, schedule_check_s=60.0)
    engine.store.has_own_messages = True
    return [engine.start_worker() for _ in range(count)]


def ticks_of(name: str, *, after_s: float) -> set[float]:
    """Return at which seconds the ticks of a task lie that are after an instant."""
    return {at for task_name, at in ran if task_name == name and at > START + after_s}


def are_of(ticks: set[float], period_s: float) -> bool:
    """Say whether all lie at multiples of a period."""
    return all(at % period_s == 0 for at in ticks)


def elapsed_s(sim: Simulation) -> float:
    return sim.clock.now() - START


async def deploy(sim: Simulation) -> float:
    """Replace the old code by the new one, with old workers that restart meanwhile; return when the last one ended."""
    ran.clear()
    engine = sim._engine
    old = start(sim, OLD, 2)
    await sim.queue.advance(minutes=9)
    new = start(sim, NEW, 1)
    await sim.queue.advance(minutes=sim.rng.randint(1, 5))
    engine.request_stop(old[0])
    restarted = start(sim, OLD, 1)  # an old worker that was killed and comes again
    start(sim, NEW, 1)
    await sim.queue.advance(minutes=sim.rng.randint(2, 20))
    for name in list(engine.workers):
        if name in (*old, *restarted) or (name not in new and sim.rng.random() < 0.3):
            engine.request_stop(name, immediate=True)
    return elapsed_s(sim)


@pytest.mark.slow
@simulate(runs=60, workers=1, faults=(), lease_s=20.0)
async def test_what_the_new_code_says_holds_once_the_old_workers_are_gone(sim: Simulation) -> None:
    ended_s = await deploy(sim)
    at_new_times = {at for at in ticks_of("Report", after_s=0) if at % 240}
    sim.sometimes("the new rule took effect while old workers ran", bool(at_new_times))
    start(sim, NEW, 1)
    await sim.queue.advance(minutes=25)
    await sim.settle()

    assert max(dispatched_ticks(sim).values()) == 1
    settled_s = ended_s + 90  # a check, and the restart of a worker
    assert ticks_of("Gone", after_s=settled_s) == set()
    assert ticks_of("Report", after_s=settled_s) == multiples(360, since_s=settled_s, until_s=elapsed_s(sim))
    assert ticks_of("New", after_s=0) == multiples(480, since_s=540, until_s=elapsed_s(sim)), "no old worker ended it"


@pytest.mark.slow
@simulate(runs=60, workers=1, faults=(), lease_s=20.0)
async def test_an_old_worker_does_not_put_its_schedules_back(sim: Simulation) -> None:
    await deploy(sim)

    at_new_times = [at for at in ticks_of("Report", after_s=0) if at % 240]
    if at_new_times:
        assert are_of(ticks_of("Report", after_s=min(at_new_times) - START), 360), "old ticks after the first new one"
    assert ticks_of("Gone", after_s=9 * 60 + 300) == set(), "it has ended since five minutes at the latest"
    assert max(dispatched_ticks(sim).values()) == 1


@pytest.mark.slow
@simulate(runs=60, workers=1, faults=TROUBLE, lease_s=20.0)
async def test_a_deploy_under_faults_ends_with_the_new_code(sim: Simulation) -> None:
    await deploy(sim)
    sim.faults.stop()
    start(sim, NEW, 1)
    await sim.queue.advance(minutes=5)
    since_s = elapsed_s(sim)
    await sim.queue.advance(minutes=25)
    await sim.settle()

    assert max(dispatched_ticks(sim).values()) == 1
    assert ticks_of("Gone", after_s=since_s) == set()
    for name, period_s in (("Report", 360), ("New", 480)):
        assert ticks_of(name, after_s=since_s) == multiples(period_s, since_s=since_s, until_s=elapsed_s(sim))


@pytest.mark.slow
@simulate(runs=40, workers=1, faults=(), lease_s=20.0)
async def test_a_rollback_brings_the_old_schedules_back(sim: Simulation) -> None:
    ran.clear()
    engine = sim._engine
    start(sim, OLD, 2)
    await sim.queue.advance(minutes=5)
    for name in list(engine.workers):
        engine.request_stop(name)
    new = start(sim, NEW, 2)
    await sim.queue.advance(minutes=sim.rng.randint(5, 15))
    back = start(sim, OLD, 2)
    for name in new:
        engine.request_stop(name) if sim.rng.random() < 0.5 else engine.crash(name, "in the test")
    for name in list(engine.workers):
        if name not in back:
            engine.request_stop(name)
    # A killed worker is off duty after three checks; the lease that it held, and the next check of others, follow.
    await sim.queue.advance(minutes=5)
    since_s = elapsed_s(sim)
    await sim.queue.advance(minutes=25)
    await sim.settle()

    assert ticks_of("New", after_s=since_s) == set()
    for name in ("Report", "Gone"):
        assert ticks_of(name, after_s=since_s) == multiples(240, since_s=since_s, until_s=elapsed_s(sim))
    assert max(dispatched_ticks(sim).values()) == 1
