"""The workload of the hunt for schedules: ticks, misfires, pauses and deploys, each judged by counting."""

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from asynctasq.core.schedule_messages import ScheduledTask, ScheduleMessages
from asynctasq.core.schedule_operator import ScheduleOperator
from asynctasq.kernel.ledger import Kind
from asynctasq.kernel.schedule import PREFIX
from asynctasq.tasks.base import AsyncTask
from asynctasq.tasks.schedules import Cron, Every, Schedule, next_tick_of
from asynctasq.testing import Simulation
from asynctasq.testing.clock import EPOCH
from asynctasq.testing.simulation.checks import PropertyBroken

__all__ = ["scheduled", "scheduled_under_faults"]

START = EPOCH.timestamp()


@dataclass(slots=True)
class Seen:
    """What ran: which ticks of which schedule, and what was seen of a wrong one."""

    now: Any = None
    ticks: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    early: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])

    def of(self, name: str) -> list[float]:
        """Return the seconds since the start of the ticks that ran, in order."""
        return sorted(at - START for task, at in self.ticks if task == name)


seen = Seen()


class Ticked(AsyncTask[None]):
    """Notes the tick that it runs."""

    name: str

    async def execute(self) -> None:
        tick = self.scheduled_for
        want("a tick is told to its task", tick is not None)
        assert tick is not None
        if tick.timestamp() > seen.now():
            seen.early.append((self.name, tick.timestamp()))
        seen.ticks.append((self.name, tick.timestamp()))


def want(name: str, held: bool, text: str = "") -> None:
    """Fail the run by the name of what is wrong."""
    if not held:
        raise PropertyBroken(name, text)


def code(**schedules: Schedule) -> tuple[ScheduledTask, ...]:
    """Return what one version of an application schedules, by name."""
    return tuple(
        ScheduledTask(task=Ticked, schedule=replace(schedule, arguments={"name": name}), name=name)
        for name, schedule in schedules.items()
    )


def start(sim: Simulation, schedules: tuple[ScheduledTask, ...], count: int = 1) -> list[str]:
    """Start workers of this code."""
    engine = sim._engine
    engine.options = replace(engine.options, schedules=schedules, schedule_check_s=60.0)
    engine.store.has_own_messages = True
    return [engine.start_worker() for _ in range(count)]


def prepare(sim: Simulation) -> None:
    seen.now, seen.ticks, seen.early = sim.clock.now, [], []


def judge_once(sim: Simulation) -> None:
    """Judge what holds in every run: nothing early, nothing twice."""
    want("no tick before its instant", not seen.early, str(seen.early))
    stored = Counter(record.task_id for record in sim.queue.dispatched())
    want("each tick is one message", len(stored) == len(set(seen.ticks)), f"{len(stored)}, {len(set(seen.ticks))}")
    want("no tick is stored twice", all(count == 1 for count in stored.values()), str(stored.most_common(1)))


def multiples(period: int, since: float, until: float) -> list[float]:
    """Return the multiples of a period since the epoch, in seconds since the start, after one and up to another."""
    first = -int(START) % period
    return [float(at) for at in range(first, int(until) + 1, period) if at > since]


async def scheduled(sim: Simulation) -> None:
    """Nothing strikes, so that all is as exact as the clock."""
    prepare(sim)
    judge_daylight_saving()
    await _missed(sim)
    await _deployed(sim)
    judge_once(sim)


async def _missed(sim: Simulation) -> None:
    """For ten minutes no worker takes anything: each policy makes up for that in its own way."""
    schedules = code(
        once=Every(minutes=2),
        all=Every(minutes=2, misfire="run_all"),
        skip=Every(minutes=9, misfire="skip"),
        spread=Every(minutes=2, jitter=100),
    )
    start(sim, schedules, 2)
    await sim.queue.advance(seconds=301)
    await sim._engine.waits.until_clock(sim._engine.clock.monotonic() + 600)
    await sim.queue.advance(seconds=299)
    until = sim.clock.now() - START
    want("run_all runs every tick", seen.of("all") == multiples(120, 0, until), str(seen.of("all")))
    once = [at for at in multiples(120, 0, until) if at <= 301 or at >= 840]
    want("run_once makes up once", seen.of("once") == once, str(seen.of("once")))
    want("skip makes up for nothing", seen.of("skip") == [1080.0], str(seen.of("skip")))
    put_off = [entry for entry in sim.queue.ledger if entry.kind is Kind.DISPATCHED and entry.due_at > entry.at]
    want("jitter puts runs off", len(put_off) > 2, str(len(put_off)))
    tickers = [message_id for message_id in sim._engine.store._rows if message_id.startswith(f"{PREFIX}ticker")]
    want("one ticker for each schedule", len(tickers) == 4, str(tickers))


async def _deployed(sim: Simulation) -> None:
    """New code takes over from old code, which restarts meanwhile; one schedule is paused."""
    seldom, often = Every(weeks=4), Every(minutes=4)
    old = code(kept=often, moved=often, gone=often, hurried=seldom, dropped=seldom)
    new = code(kept=often, moved=Every(minutes=6), fresh=often, hurried=often)
    first = start(sim, old, 2)
    await sim.queue.advance(minutes=3)
    paused = sim.clock.now() - START
    operator = ScheduleOperator(sim.queue.driver, ScheduleMessages(), {})
    await operator.pause("moved")
    start(sim, new, 2)
    await sim.queue.advance(minutes=1)
    start(sim, old)
    await sim.queue.advance(minutes=20)
    since = sim.clock.now() - START
    want("paused stays paused when the code changes", not _after("moved", paused), str(_after("moved", paused)))
    await operator.resume("moved")
    for name in first:
        sim._engine.request_stop(name)
    await sim.queue.advance(minutes=24)
    until = sim.clock.now() - START
    want("the new rule holds", _after("moved", since) == multiples(360, since, until), str(_after("moved", since)))
    for name in ("gone", "once"):
        want("what left the code has ended", not _after(name, since), str(_after(name, since)))
    names = [view.name for view in await operator.views()]
    want("what is to run next year has ended as well", names == sorted(item.name for item in new), str(names))
    for name in ("kept", "fresh", "hurried"):
        want("a schedule goes on through a deploy", _after(name, since) == multiples(240, since, until), name)


def _after(name: str, since: float) -> list[float]:
    return [at for at in seen.of(name) if at > since]


async def scheduled_under_faults(sim: Simulation) -> None:
    """Whatever strikes: each tick is one message, which is not early, and none is missing."""
    prepare(sim)
    start(sim, code(all=Every(minutes=5, misfire="run_all"), spread=Every(minutes=7, jitter=60, misfire="run_all")))
    await sim.queue.advance(minutes=40)
    sim.faults.stop()
    await sim.queue.advance(minutes=11)
    await sim.settle()
    until = sim.clock.now() - START
    judge_once(sim)
    for name, period in (("all", 300), ("spread", 420)):
        found = sorted(set(seen.of(name)))
        want("no tick is lost", found == multiples(period, 0, until - 60), f"{name}: {found}")


def judge_daylight_saving() -> None:
    """Judge that a time is run once a day, also where the clock leaves it out or shows it twice."""
    next_tick_of.cache_clear()  # a defect may have been planted since
    berlin, next_tick = ZoneInfo("Europe/Berlin"), next_tick_of(Cron("30 2 * * *", tz="Europe/Berlin").rule)
    for day, times in (("2024-03-30", ["02:30", "03:00", "02:30"]), ("2024-10-26", ["02:30", "02:30", "02:30"])):
        at: float | None = datetime.fromisoformat(f"{day}T00:00").replace(tzinfo=UTC).timestamp()
        shown: list[str] = []
        while at is not None and len(shown) < 3:
            at = next_tick(at)
            shown.append("" if at is None else datetime.fromtimestamp(at, berlin).strftime("%H:%M"))
        want("one run a day through a change of the clock", shown == times, f"{day}: {shown}")
