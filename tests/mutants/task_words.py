"""Workloads on what a task says of itself: how old it may be, and which failures of it are retried."""

from datetime import UTC, datetime, timedelta
from typing import Any

from asynctasq.errors import DispatchError
from asynctasq.testing import Simulation
from tests.mutants.oracle import want
from tests.mutants.tasks import LOG, Watched, now

__all__ = ["Aging", "aged", "policed"]


class Aging(Watched):
    """Fails in no time."""

    max_attempts = 9
    retry_delay = [20, 40]
    expires = 60

    async def execute(self) -> str:
        await self.run(0)
        raise ValueError(f"{self.key} never works")


class Told(Watched):
    """Works, and knows its dispatch."""

    async def execute(self) -> str:
        await self.run(0)
        LOG.odd.append(f"{self.key} {self.dispatched_at:%H:%M:%S}")
        return self.key


class Picky(Watched):
    """Retries what the connection is to blame for, but no refusal."""

    fails: str
    max_attempts = 2
    retry_delay = 5
    retry_on = (OSError, KeyError)
    give_up_on = (ConnectionRefusedError,)

    async def execute(self) -> str:
        await self.run(0)
        raise {"refused": ConnectionRefusedError, "missing": FileNotFoundError, "key": KeyError, "value": ValueError}[
            self.fails
        ]


async def aged(sim: Simulation) -> None:
    """Let messages grow old, to the microsecond, before workers whose clocks are wrong; drive one again."""
    LOG.clear()
    began = now()
    await Aging(key="old").dispatch()
    await Aging(key="almost").with_options(expires=60.000001).dispatch()
    await Aging(key="late").with_options(expires=30).delay(29.999999).dispatch()
    await Told(key="told").at(datetime.now(UTC) - timedelta(days=9999)).dispatch()
    at = datetime.fromtimestamp(sim.queue.clock.now() + 25, UTC)
    await Told(key="later").at(at).dispatch()
    await sim.settle()
    _compare("old", began, [0, 20])
    _compare("almost", began, [0, 20, 60])
    _compare("late", began, [29.999999])
    _compare("told", began, [0])
    _compare("later", began, [25])
    odd = sorted(LOG.odd)
    want(odd == ["later 00:00:00", "told 00:00:00"], "dispatched_at", f"tasks say {odd}")
    told = sorted(LOG.hooks)
    want(
        told == [(key, "TaskExpiredError") for key in ("almost", "late", "old")], "expiry", f"failed() was told {told}"
    )
    LOG.clear()
    again = now()
    await sim.queue.driver.redrive("work", limit=10)
    await sim.settle()
    _compare("old", again, [0, 20])


def _compare(key: str, began: float, starts_s: list[float]) -> None:
    ran = [round(run.began - began, 6) for run in LOG.of(key)]
    want(ran == starts_s, "expiry", f"{key} ran at {ran}, not at {starts_s}")


async def policed(sim: Simulation) -> None:
    """Let tasks fail in ways that are retried and ways that are not; refuse what would not travel."""
    LOG.clear()
    expected = {"refused": (1, 0), "missing": (2, 1), "key": (2, 1), "value": (1, 0)}
    for fails in expected:
        await Picky(key=fails, fails=fails).dispatch()
    await _changed(Picky(key="changed", fails="refused"))
    await sim.settle()
    for key, (runs, asked) in expected.items():
        seen = len(LOG.of(key)), LOG.asked.count(key)
        want(seen == (runs, asked), "retry types", f"{key}: {seen} runs and questions, not {runs, asked}")


async def _changed(task: Any) -> None:
    task.fails = "key"
    try:
        await task.dispatch()
    except DispatchError:
        return
    want(False, "arguments", "an attribute that was assigned later did not travel, and nothing was said")
