"""The workload of the hunt for limits: how many ran at once, how many started in any window, and whether all ran."""

import asyncio
from collections import Counter

from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.limits import ConcurrencyLimit, RateLimit
from asynctasq.tasks.base import AsyncTask
from asynctasq.testing import Simulation
from asynctasq.testing.simulation.checks import PropertyBroken

__all__ = ["limited", "limited_calmly"]

AT_ONCE = {"pair": 2, "shrunk": 2}
STARTS = (("brief", 3, 10.0), ("long", 6, 100.0))
WAIT_S_MAX = 1_600.0
"""Within so many seconds all have run; who waits is looked at again after 3,600 s only."""


class Timed(AsyncTask[None]):
    """Takes `s` seconds; `limit` says which of its limits are judged."""

    limit: str
    s: float
    max_crashes = 1_000
    retry_delay = 3

    async def execute(self) -> None:
        await asyncio.sleep(self.s)
        if self.s == 7 and self.attempt == 1:
            raise ValueError("once")


class Paired(Timed):
    limits = [
        ConcurrencyLimit("pair:{self.s}", AT_ONCE["pair"]),
        *(RateLimit(name, count, per=per_s) for name, count, per_s in STARTS),
    ]


class Before(Timed):
    limits = [ConcurrencyLimit("shrunk", 5)]


class After(Timed):
    limits = [ConcurrencyLimit("shrunk", AT_ONCE["shrunk"])]


class Unlimited(AsyncTask[None]):
    async def execute(self) -> None: ...


def want(name: str, held: bool, text: str = "") -> None:
    """Fail the run by the name of what is wrong."""
    if not held:
        raise PropertyBroken(name, text)


async def limited(sim: Simulation) -> None:
    """Whatever strikes: no limit is exceeded, and all run in time."""
    await _dispatch(sim, 14)
    await sim.settle(trouble=300.0)
    judge(sim)
    want(
        "all have run in time",
        sim.clock.now() - sim.queue.ledger[0].at < WAIT_S_MAX,
        f"{sim.clock.now() - sim.queue.ledger[0].at:g} s",
    )


async def limited_calmly(sim: Simulation) -> None:
    """Nothing strikes, so that limits are used to the full, and in order."""
    await _dispatch(sim, 14)
    for _ in range(5):
        await Before(limit="before", s=4.0).dispatch()
    await sim.settle()
    opened_at = sim.queue.ledger[0].at
    judge(sim)
    took_s = _last_start(sim, "Paired") - opened_at
    want(
        "a rate limit is used to the full",
        took_s < 320,
        str(took_s),
    )
    free = [entry for entry in sim.queue.ledger if entry.kind is Kind.STARTED and entry.detail.endswith("Unlimited")]
    want("who waits holds up nobody else", all(entry.at - opened_at < 1 for entry in free), str(len(free)))
    for number in range(8):
        await After(limit="shrunk", s=45.0 if number < 3 else 4.0).dispatch()
    shrunk_at = sim.clock.now()
    await sim.settle()
    judge(sim)
    took_s = _last_start(sim, "After") - shrunk_at
    want("the smaller limit is used to the full", 45 <= took_s < 66, str(took_s))  # who waits may change places


async def _dispatch(sim: Simulation, count: int) -> None:
    for number in range(count):
        await Paired(limit="pair", s=(0.5, 7.0, 45.0)[number % 3]).dispatch()
    for _ in range(3):
        await Unlimited().dispatch()


def _last_start(sim: Simulation, task: str) -> float:
    found = [one.at for one in sim.queue.ledger if one.kind is Kind.STARTED and one.detail.endswith(f":{task}")]
    return max(found, default=0.0)


def judge(sim: Simulation) -> None:
    """Judge what holds in every run."""
    ledger, tasks = sim.queue.ledger, {one.task_id: one for one in sim.queue.dispatched()}
    started = [one for one in ledger if one.kind is Kind.STARTED and one.message_id in tasks]
    starts = [entry.at for entry in started if entry.detail.endswith(":Paired")]
    for name, count, per_s in STARTS:
        most = max(sum(first <= at < first + per_s - 1e-6 for at in starts) for first in starts)
        want(f"the rate limit {name} holds", most <= count, f"{most} in {per_s:g} s")
    # What is interrupted may have found a token lost before its code began.
    ended = (entry for entry in ledger if entry.kind is Kind.ENDED)
    interrupted = {(entry.message_id, entry.token) for entry in ended if entry.detail == "interrupted"}
    running: dict[tuple[str, str], Entry] = {}
    for entry in ledger:
        key = entry.message_id, entry.token
        if entry.kind is Kind.STARTED and entry.message_id in tasks and key not in interrupted:
            running[key] = entry
        elif entry.kind is Kind.ENDED:
            running.pop(key, None)
        elif entry.kind is Kind.CRASHED:
            running = {held: start for held, start in running.items() if start.worker != entry.worker}
        most_at_once = Counter(_limit_of(tasks[message_id]) for message_id, _ in running)
        for (limit, _), number in most_at_once.items():
            want(f"the limit {limit} holds", number <= AT_ONCE.get(limit, number), f"{number} at once")
    rows = sim._engine.store._rows
    lines = [row.message.queue.rpartition(".")[2] for name, row in rows.items() if name.startswith("limit:wait")]
    want("each note is found", all(f"limit:look:{line}" in rows for line in lines), str(lines))
    # A crash or a lost reply leaves notes that nobody needs, until the next look at their line.
    disturbed = bool(sim._engine.stopping) or any(entry.kind in (Kind.CRASHED, Kind.LOST) for entry in ledger)
    want("nobody is said to wait who does not", not lines or disturbed, str(len(lines)))


def _limit_of(record: object) -> tuple[str, object]:
    arguments = getattr(record, "arguments", {})
    limit = str(arguments.get("limit"))
    return limit, arguments.get("s") if limit == "pair" else None
