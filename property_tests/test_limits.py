"""Limits under many seeds: crashes and lost replies let no limit be exceeded, and lose neither a token nor a task."""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import pytest

from asynctasq import AsyncTask
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.limits import ConcurrencyLimit, RateLimit
from asynctasq.testing import Simulation, simulate
from asynctasq.testing.clock import EPOCH
from asynctasq.testing.faults import Faults, Latency

AT_ONCE, STARTS, PER_S = 2, 5, 20.0
FAULTS = Faults(crash=0.02, lost_reply=0.02, fail_before=0.02, fail_after=0.02, stop=0.01)


STARTED: list[float] = []
"""When `execute` was entered: an attempt whose token is lost by then is started for the ledger only."""
ENTERED: list[tuple[str, float]] = []
"""The same, with the task's id."""


class Limited(AsyncTask[None]):
    number: int
    s: float
    retry_delay = 5
    max_crashes = 1000
    limits = [ConcurrencyLimit("one:{self.s}", AT_ONCE), RateLimit("api", STARTS, per=PER_S)]

    async def execute(self) -> None:
        at = asyncio.get_running_loop().time()  # the loop's time is that of the store
        STARTED.append(at)
        ENTERED.append((self.task_id or "", at))
        await asyncio.sleep(self.s)
        if self.number % 7 == 3 and self.attempt == 1:
            raise ValueError("once")


class Free(AsyncTask[None]):
    async def execute(self) -> None: ...


def attempts(ledger: Sequence[Entry], ids: Collection[str]) -> Iterator[tuple[Entry, float]]:
    """Return the beginning of each attempt of these tasks, and when it ended or its worker died."""
    running: dict[tuple[str, str], Entry] = {}
    for entry in ledger:
        if entry.kind is Kind.STARTED and entry.message_id in ids:
            running[entry.message_id, entry.token] = entry
        elif entry.kind is Kind.ENDED:
            if (start := running.pop((entry.message_id, entry.token), None)) is not None:
                yield start, entry.at
        elif entry.kind is Kind.CRASHED:
            for key in [key for key, start in running.items() if start.worker == entry.worker]:
                yield running.pop(key), entry.at


def entered(start: Entry, until: float) -> tuple[float, float] | None:
    """Return from when to when `execute` of an attempt ran; an attempt may find a token lost before that."""
    epoch = EPOCH.timestamp()
    found = [at for task_id, at in ENTERED if task_id == start.message_id and start.at - 1e-6 <= epoch + at <= until]
    return (epoch + found[0], until) if found else None


def judge(sim: Simulation) -> None:
    """Fail if ever too many ran at once, or started in a window; if a token is lost, or something waits still."""
    ledger, texts = sim.queue.ledger, {r.task_id: str(r.arguments.get("s")) for r in sim.queue.dispatched(Limited)}
    for first in STARTED:
        assert sum(first <= at < first + PER_S - 1e-6 for at in STARTED) <= STARTS, "too many starts in a window"
    ran = [
        (texts[start.message_id], *times)
        for start, until in attempts(ledger, texts)
        if (times := entered(start, until))
    ]
    for text, at, _ in ran:
        at_once = sum(other == text and begun <= at < until - 1e-6 for other, begun, until in ran)
        assert at_once <= AT_ONCE, "too many attempts at once"
    rows = sim._engine.store._rows
    tokens = Counter(one.rpartition(":")[0] for one in rows if one.startswith("limit:token"))
    assert sorted(tokens.values()) == [AT_ONCE, AT_ONCE, AT_ONCE, STARTS], "tokens are lost, or doubled"
    assert not [one for one in rows if one in texts], "all have run"


async def _run(sim: Simulation) -> None:
    STARTED.clear()
    ENTERED.clear()
    for number in range(24):
        await Limited(number=number, s=(0.1, 3.0, 50.0)[number % 3]).dispatch()
    for _ in range(5):
        await Free().dispatch()
    await sim.settle()
    judge(sim)


@simulate(runs=20, concurrency=3, faults=FAULTS)
async def test_no_limit_is_exceeded_whoever_crashes(sim: Simulation) -> None:
    await _run(sim)


@pytest.mark.slow
@simulate(runs=40, concurrency=3, faults=[FAULTS])
async def test_no_limit_is_exceeded_under_many_seeds(sim: Simulation) -> None:
    await _run(sim)


@pytest.mark.slow
@simulate(runs=25, workers=4, concurrency=2, lease_s=6, faults=Faults(latency=Latency(), crash=0.01))
async def test_no_limit_is_exceeded_on_a_slow_network(sim: Simulation) -> None:
    await _run(sim)
