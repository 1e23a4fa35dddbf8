"""Workloads in which tasks are cancelled: at exact instants, in every state, and while a reserve is under way."""

import asyncio
from contextlib import suppress

import asynctasq
from asynctasq.errors import TaskCancelledError
from asynctasq.kernel.ledger import Kind
from asynctasq.kernel.messages import State
from asynctasq.tasks import AsyncTask
from asynctasq.testing import Simulation
from tests.mutants.oracle import want
from tests.mutants.tasks import LOG, now

__all__ = ["Victim", "cancelled", "cancelled_meanwhile", "cancelled_under_faults"]

seen: list[tuple[str, str, bool, float]] = []


class Victim(AsyncTask[str]):
    """Sleeps so long; what it sees of itself is noted."""

    keep_result = True
    max_attempts = 2
    retry_delay = 50
    key: str
    seconds: float
    fails: str = ""

    async def execute(self) -> str:
        self._note("runs")
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self._note("interrupted")
            raise
        if self.fails == "execute":
            raise ValueError(self.key)
        return self.key

    async def cancelled(self) -> None:
        self._note("hook")
        if self.fails == "hook":
            raise ValueError(self.key)

    def _note(self, what: str) -> None:
        seen.append((self.key, what, self.is_cancelled, round(now(), 6)))


async def cancelled(sim: Simulation) -> None:
    """Cancel a task in each state, each at its instant; nothing else happens."""
    seen.clear()
    LOG.clear()
    began = now()
    long = await Victim(key="long", seconds=500).dispatch()
    again = await Victim(key="again", seconds=500).dispatch()
    rude = await Victim(key="rude", seconds=500, fails="hook").dispatch()
    retried = await Victim(key="retried", seconds=1, fails="execute").dispatch()
    later = await Victim(key="later", seconds=1).delay(100).dispatch()
    done = await Victim(key="done", seconds=1).dispatch()
    dead = await Victim(key="dead", seconds=1, fails="execute").with_options(max_attempts=1).dispatch()
    settling = asyncio.create_task(sim.settle())
    result = asyncio.create_task(long.result())
    answers: list[str] = []
    await asyncio.sleep(17)
    for victim in (long, later, retried, done, dead, long, rude):
        answers.append((await victim.cancel()).value)
    with suppress(TaskCancelledError):
        await result
    want(round(now() - began, 6) == 17, "cancel wakes", f"who waits for the result was told at {now() - began:g}")
    await asyncio.sleep(6)  # a worker hears of the second one as well
    answers.append((await again.cancel()).value)
    states = [(await victim.status()).state for victim in (long, later, done, dead)]
    await settling

    expected = ["running", "queued", "queued", "nothing", "nothing", "running", "running", "running"]
    want(answers == expected, "cancel says", f"{answers}")
    expected_states = [State.CANCELLED, State.CANCELLED, State.COMPLETED, State.DEAD]
    want(states == expected_states, "status of cancelled", f"{states}")
    for key, at in (("long", 17), ("rude", 17), ("again", 23)):
        found = [(what, flag, round(when - began, 6)) for name, what, flag, when in seen if name == key]
        wanted = [("runs", False, 0), ("interrupted", True, at), ("hook", True, at)]
        want(found == wanted, "cancelled attempt", f"{key}: {found}")
    want(not [one for one in seen if one[0] == "later"], "cancelled attempt", "what waited has run")
    want(len([one for one in seen if one[0] == "retried"]) == 1, "cancelled attempt", "a cancelled retry has run")
    raised = [entry.message_id for entry in sim.queue.ledger if entry.detail == "cancelled raised ValueError"]
    want(raised == [rude], "cancelled hook", f"of its error {raised} are told")
    sim.queue.assert_cancelled(Victim, times=5)


async def cancelled_meanwhile(sim: Simulation) -> None:
    """Cancel a task whose lease is on its way to its worker."""
    seen.clear()
    LOG.clear()
    began = now()
    handle = await Victim(key="reserved", seconds=500).dispatch()
    await Victim(key="beside", seconds=40).dispatch()
    settling = asyncio.create_task(sim.settle())
    await asyncio.sleep(1)
    await handle.cancel()
    await settling

    ends = [round(when - began, 6) for _, what, _, when in seen if what == "interrupted"]
    want(all(at < 8 for at in ends), "cancelled attempt", f"it ended at {ends}, when its lease was renewed")


async def cancelled_under_faults(sim: Simulation) -> None:
    """Cancel tasks as they end by themselves; whatever happens, those that had run hear of it, and no others."""
    seen.clear()
    LOG.clear()
    handles = [await Victim(key=f"{number}", seconds=number % 3, fails="execute").dispatch() for number in range(6)]
    settling = asyncio.create_task(sim.settle())
    answers: dict[str, set[str]] = {}
    for second in range(3):
        for handle in handles[second::3]:
            answers.setdefault(handle, set()).add((await asynctasq.cancel(handle)).value)
        await asyncio.sleep(1)
    await settling

    ledger = sim.queue.ledger
    removed = {entry.message_id: entry.token for entry in ledger if entry.kind is Kind.REMOVED}
    began = {(entry.message_id, entry.token) for entry in ledger if entry.kind is Kind.STARTED}
    told = [entry.message_id for entry in ledger if entry.kind is Kind.HOOK and entry.detail == "cancelled"]
    for handle in handles:
        had_run = (str(handle), removed.get(handle, "?")) in began
        calm = not [entry for entry in ledger if entry.kind in (Kind.CRASHED, Kind.FAULT)]
        if calm:
            want(told.count(handle) == had_run, "cancelled hook", f"{handle} had run: {had_run}, told {told}")
        want(told.count(handle) <= had_run, "cancelled hook", f"{handle} had run: {had_run}, told {told}")
        stored = await sim.queue.driver.find(handle)  # type: ignore[attr-defined] # pyright: ignore
        want((handle in removed) == (stored is None), "cancelled message", f"{handle}: {answers[handle]}, {stored}")
