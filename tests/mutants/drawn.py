"""Drawn tasks with drawn options, run without faults; a plain model says what they come to, to the microsecond."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar, Final

from asynctasq.core.processes import ChildCrashed
from asynctasq.errors import Reject, Retry, Snooze
from asynctasq.tasks.options import Duration
from asynctasq.testing import Simulation
from property_tests.plain_model import ceil_us, is_asked, sequel
from tests.mutants.oracle import Expected, Wait, judge, want
from tests.mutants.tasks import LOG, Watched, now

TASKS: Final = 6
NEVER_S: Final = 10_000_000
"""Longer than any hook or attempt is let."""
KEPT_S: Final = 10_000_000
RUN_S: Final = 1.0
LIMIT_S: Final = 1.5

Script = list[list[str]]
"""For each run, what it does and what `should_retry` answers."""

OUTCOMES: Final = {
    "returns": "returned",
    "raises": "raised",
    "times out by itself": "raised",
    "is cancelled": "raised",
    "leaves": "raised",
    "runs on": "raised",
    "asks again": "asked again",
    "asks again soon": "asked again",
    "snoozes": "snoozed",
    "rejects": "rejected",
    "child dies": "child died",
}
"""What each does is to the model."""

ERRORS: Final = {
    "raises": ValueError,
    "times out by itself": TimeoutError,
    "is cancelled": asyncio.CancelledError,
    "leaves": SystemExit,
    "rejects": Reject,
    "child dies": ChildCrashed,
}
SOON_NS: Final = 2_500_000_000


class Scripted(Watched):
    """Does what its script says, run by run; `last` is how its `failed` behaves."""

    script: Script
    last: str
    retry_delay: ClassVar[Duration | Sequence[Duration]] = 3

    async def execute(self) -> str:
        does = self.script[len(LOG.of(self.key))][0]
        await self.run(NEVER_S if does == "runs on" else RUN_S)
        match does:
            case "returns":
                return f"{self.key} done"
            case "snoozes":
                raise Snooze(SOON_NS / 1e9)
            case "asks again" | "asks again soon":
                raise Retry(self.key, after_s=SOON_NS / 1e9 if does == "asks again soon" else None)
        raise ERRORS[does](f"{self.key} {does}")

    async def should_retry(self, exception: Exception) -> bool:
        LOG.asked.append(self.key)
        answer = self.script[len(LOG.of(self.key)) - 1][1]
        if answer == "breaks":
            raise RuntimeError("should_retry has a fault of its own")
        return answer == "yes"

    async def failed(self, exception: Exception) -> None:
        LOG.hooks.append((self.key, type(exception).__name__))
        if self.last == "hangs":
            await asyncio.sleep(NEVER_S)
        if self.last == "breaks":
            raise RuntimeError("failed() has a fault of its own")


class ScriptedList(Scripted):
    retry_delay = [timedelta(seconds=4), 1.2345678, timedelta(days=1, seconds=2)]


class ScriptedGrowing(Scripted):
    retry_delay = timedelta(milliseconds=1500)
    retry_delay_max = timedelta(minutes=1)
    retry_strategy = "exponential"


FAMILIES: Final[Sequence[tuple[type[Scripted], tuple[Any, ...]]]] = (
    (Scripted, ("fixed", 3_000_000_000)),
    (ScriptedList, ("list", (4_000_000_000, 1_234_567_800, 86_402_000_000_000))),
    (ScriptedGrowing, ("jittered", 1_500_000_000, 60_000_000_000)),
)
DURATIONS: Final[Sequence[tuple[Any, int]]] = (
    (2, 2_000_000_000),
    (0.75, 750_000_000),
    (timedelta(milliseconds=250), 250_000_000),
    (timedelta(days=2), 172_800_000_000_000),
    (12.3456781, 12_345_678_100),
)


async def drawn(sim: Simulation) -> None:
    """Dispatch some drawn tasks, one of them twice, and compare what they come to."""
    LOG.clear()
    started = now()
    expected = [_drawn(sim, f"task {n}") for n in range(TASKS)]
    ids = [await one.task.dispatch() for one in expected if one.task is not None]
    twice = Scripted(key="twice", script=[["returns", "yes"]] * 2, last="fine")
    both = {await twice.dispatch(), await twice.dispatch()}
    await sim.settle()
    want(len(both) == len(LOG.of("twice")) == 2, "two dispatches", f"{both} ran {len(LOG.of('twice'))} times")
    expected = [replace(one, task_id=task_id) for one, task_id in zip(expected, ids, strict=True)]
    await judge(sim, expected, started, exact=True)


def _pick(sim: Simulation, values: Sequence[Any]) -> Any:
    return values[int(sim.rng.random() * len(values))]


def _drawn(sim: Simulation, key: str) -> Expected:
    """Return a task and what it comes to, by the model."""
    family, waits = _pick(sim, FAMILIES)
    timeout = _pick(sim, (LIMIT_S, timedelta(seconds=LIMIT_S), None))
    runs_on = () if timeout is None else ("runs on",)
    others = ("snoozes", "rejects", "times out by itself", "is cancelled", "leaves", "child dies", *runs_on)
    does = ("raises", "raises", "returns", "asks again", "asks again soon", *others)
    script = [[_pick(sim, does), _pick(sim, ("yes", "yes", "breaks", "no"))] for _ in range(12)] + [["returns", "yes"]]
    policy: dict[str, Any] = {"max_attempts": _pick(sim, (6, 3, 1, 0)), "max_crashes": _pick(sim, (3, 1, 4))}
    kept = _pick(sim, (None, KEPT_S, timedelta(seconds=KEPT_S)))
    task = family(key=key, script=script, last=_pick(sim, ("fine", "breaks", "hangs")))
    task = task.with_options(timeout=timeout, keep_result=kept, **policy)
    delay, delay_ns = _pick(sim, ((None, 0), *DURATIONS))
    again, again_ns = _pick(sim, ((None, 0), (None, 0), *DURATIONS, (0, 0)))
    task = task if delay is None else task.delay(delay)
    task = task if again is None else task.retry_after(again)
    if again is not None:
        waits = ("jittered", again_ns, waits[2]) if waits[0] == "jittered" else ("fixed", again_ns)
    one = Expected(key=key, task=task, delay=ceil_us(delay_ns) / 1e6, takes=RUN_S)
    return _foretold(one, script, {**policy, "waits": waits}, kept=kept is not None)


def _foretold(one: Expected, script: Script, policy: dict[str, Any], *, kept: bool) -> Expected:
    """Follow the script through the model to its end."""
    attempts: list[int] = []
    pauses: list[Wait] = []
    lasts: list[float] = []
    asked, grant = 0, {"attempt": 1, "crashes": 0}
    for does, answer in script:
        attempts.append(grant["attempt"])
        lasts.append(LIMIT_S if does == "runs on" else RUN_S)
        outcome = OUTCOMES[does]
        if is_asked(outcome, grant, policy):
            asked += 1
            outcome = "refused" if answer == "no" else outcome
        end = sequel(outcome, SOON_NS if does in ("asks again soon", "snoozes") else None, grant, policy)
        if end["event"] in ("COMPLETE", "BURY"):
            break
        grant = {"attempt": grant["attempt"] + end["attempts"], "crashes": grant["crashes"] + end["crashes"]}
        pauses.append(Wait(least=end["least"] / 1e6, most=end["most"] / 1e6))
    one = replace(one, attempts=tuple(attempts), waits=tuple(pauses), lasts=tuple(lasts), asked=asked)
    if end["event"] == "COMPLETE":
        return replace(one, result=f"{one.key} done" if kept else None)
    error = "TaskTimeoutError" if does == "runs on" else ERRORS.get(does, Retry).__name__
    counted = grant["attempt"] - 1 + end["attempts"]
    return replace(one, ends=end["reason"], hooks=1, counted=counted, error=error)
