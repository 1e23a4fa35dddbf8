"""Cancelling under thousands of seeds: crashes, lost replies and lost leases bring no cancelled task back."""

import asyncio
from collections import Counter

import pytest

import asynctasq
from asynctasq import AsyncTask
from asynctasq.errors import DriverUnavailable
from asynctasq.kernel.ledger import Kind
from asynctasq.kernel.messages import State
from asynctasq.tasks.cancellation import Cancellation
from asynctasq.testing import Simulation, simulate
from asynctasq.testing.faults import Faults

answers: list[tuple[str, Cancellation]] = []
hooks: Counter[str] = Counter()


class Works(AsyncTask[str]):
    keep_result = True
    max_attempts = 3
    retry_delay = 5
    seconds: float
    fails: bool

    async def execute(self) -> str:
        await asyncio.sleep(self.seconds)
        if self.fails:
            raise ValueError("no")
        return "done"

    async def failed(self, exception: Exception) -> None:
        await asyncio.sleep(1)

    async def cancelled(self) -> None:
        hooks[self.task_id] += 1
        await asyncio.sleep(0.5)


class Cancels(AsyncTask[None]):
    """Cancels another task, and asks again while no reply comes."""

    max_attempts = 5
    retry_delay = 1
    victim: str

    async def execute(self) -> None:
        await cancel(self.victim)


async def cancel(victim: str) -> None:
    while True:
        try:
            answers.append((victim, await asynctasq.cancel(victim)))
        except DriverUnavailable:
            await asyncio.sleep(0.5)
        else:
            return


async def judge_cancellations(sim: Simulation) -> None:
    """Cancel tasks at any instant of their lives; judge what became of them."""
    answers.clear()
    hooks.clear()
    victims = [
        await Works(seconds=sim.rng.choice([0.0, 1.0, 8.0, 90.0]), fails=sim.rng.random() < 0.4)
        .delay(sim.rng.choice([0, 0, 3]))
        .dispatch()
        for _ in range(6)
    ]
    for victim in victims:
        await Cancels(victim=victim).delay(sim.rng.choice([0, 1, 5, 8, 30, 100])).dispatch()
    settling = asyncio.create_task(sim.settle())
    await asyncio.sleep(sim.rng.choice([0.5, 4.0, 10.0]))
    await cancel(victims[0])
    await settling

    given = {victim: {answer for of, answer in answers if of == victim} for victim in victims}
    ended = {e.message_id: e.detail for e in sim.queue.ledger if e.kind is Kind.SETTLED and e.detail != "retry"}
    for victim, found in given.items():
        stored = await sim.queue.driver.find(victim)  # type: ignore[attr-defined] # pyright: ignore
        assert stored is None or stored.state is State.DEAD, "nothing but dead letters is left"
        cancelled = bool(found - {Cancellation.NOTHING})
        assert cancelled != (ended.get(victim, "").startswith(("complete", "bury"))), f"{found}, {ended.get(victim)}"
        assert len(found) == 1, f"one task, one answer: {found}"
        assert hooks[victim] <= (found == {Cancellation.RUNNING})
        sim.sometimes("a running task was cancelled", found == {Cancellation.RUNNING})
        sim.sometimes("a queued task was cancelled", found == {Cancellation.QUEUED})
        sim.sometimes("there was nothing to cancel", found == {Cancellation.NOTHING})
        sim.sometimes("the hook ran", hooks[victim] == 1)
    ended_late = {e.token for e in sim.queue.ledger if e.kind is Kind.LOST} & {
        e.token for e in sim.queue.ledger if e.kind is Kind.CANCELLED
    }
    sim.sometimes("a settlement came too late", bool(ended_late))


@pytest.mark.slow
@simulate(runs=200, workers=2, lease_s=20.0, faults=Faults(
    crash=0.01, lost_reply=0.02, fail_before=0.02, fail_after=0.02, latency=0.1, lease_expiry=0.02, must_fire=False
))  # fmt: skip
async def test_a_cancelled_task_stays_cancelled_whatever_happens(sim: Simulation) -> None:
    await judge_cancellations(sim)


@pytest.mark.slow
@simulate(runs=100, workers=3, lease_s=20.0, faults=Faults(duplicate=0.05, stop=0.05, latency=0.3, must_fire=False))
async def test_neither_doubled_leases_nor_restarts_bring_it_back(sim: Simulation) -> None:
    await judge_cancellations(sim)


@pytest.mark.slow
@simulate(runs=60, workers=2, faults=())
async def test_whatever_the_order_of_steps_every_hook_is_called(sim: Simulation) -> None:
    await judge_cancellations(sim)

    running = {victim for victim, answer in answers if answer is Cancellation.RUNNING}
    began = {(e.message_id, e.token) for e in sim.queue.ledger if e.kind is Kind.STARTED}
    removed = {e.message_id for e in sim.queue.ledger if e.kind is Kind.REMOVED and (e.message_id, e.token) in began}
    assert {victim for victim in running if hooks[victim]} == removed, "nothing of an attempt had run without its hook"
