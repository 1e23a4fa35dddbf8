"""Drawn tasks with drawn options, run without faults; a plain model says what they come to, to the microsecond."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar, Final

from asynctasq.core.lanes.process_pool import ChildCrashed
from asynctasq.errors import Reject, Retry, Snooze, UnserializableValue
from asynctasq.tasks import AsyncProcessTask, AsyncTask, BaseTask, SyncProcessTask, SyncTask
from asynctasq.tasks.options import Duration
from asynctasq.testing import Simulation
from property_tests.plain_model import ceil_us, is_asked, sequel
from tests.mutants.oracle import Expected, Wait, begin, judge, want
from tests.mutants.tasks import CONSTRUCTOR_ERRORS, LOG, Fragile, Run, now

TASKS: Final = 9
NEVER_S: Final = 10_000_000
"""Longer than any hook or attempt is let."""
KEPT_S: Final = 10_000_000
RUN_S: Final = 1.0
LIMIT_S: Final = 1.5

Script = list[list[str]]
"""For each run, what it does and what `should_retry` answers."""

ANSWERS: Final = {"yes": True, "yes, in words": "yes", "no": False, "no, without a word": None}
OUTCOMES: Final = {
    "returns": "returned",
    "returns an object": "returned",
    "raises": "raised",
    "raises for a cause": "raised",
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
    "raises for a cause": ValueError,
    "times out by itself": TimeoutError,
    "is cancelled": asyncio.CancelledError,
    "leaves": SystemExit,
    "returns an object": UnserializableValue,
    "rejects": Reject,
    "child dies": ChildCrashed,
}
SOON_NS: Final = 2_500_000_000


class ByScript:
    """Does what its script says, run by run; `last` is how its `failed` behaves."""

    key: str
    script: Script
    last: str
    queue: ClassVar[str] = "work"
    retry_delay: ClassVar[Duration | Sequence[Duration]] = 3

    def does(self) -> str:
        """Return what the next run does."""
        return self.script[len(LOG.of(self.key))][0]

    def act(self, does: str) -> Any:
        """Do it, once the time it takes is over."""
        match does:
            case "returns":
                return f"{self.key} done"
            case "returns an object":
                return object()
            case "snoozes":
                raise Snooze(SOON_NS / 1e9)
            case "asks again" | "asks again soon":
                raise Retry(self.key, after=SOON_NS / 1e9 if does == "asks again soon" else None)
        raise ERRORS[does](f"{self.key} {does}") from KeyError("the cause") if does == "raises for a cause" else None

    def begin(self) -> Run:
        """Note that a run begins, on the task as well."""
        assert isinstance(self, BaseTask)
        run = LOG.begin(self.key, self)
        self.noted = len(LOG.of(self.key))
        return run

    def look(self) -> None:
        """Look from a hook for what the run has noted: it is there, unless that was in a child."""
        assert isinstance(self, BaseTask)
        wanted = None if isinstance(self, AsyncProcessTask | SyncProcessTask) else len(LOG.of(self.key))
        noted = vars(self).get("noted")
        if noted != wanted:
            LOG.odd.append(f"a hook of {self.key} finds {noted} noted, not {wanted}")
        in_loop = asyncio._get_running_loop() is not None
        if in_loop == isinstance(self, Blocking):
            LOG.odd.append(f"a hook of {self.key} runs {'in' if in_loop else 'outside of'} the event loop")

    def answer(self) -> Any:
        """Answer `should_retry` as the script says."""
        LOG.asked.append(self.key)
        self.look()
        answer = self.script[len(LOG.of(self.key)) - 1][1]
        if answer == "breaks":
            raise RuntimeError("should_retry has a fault of its own")
        return ANSWERS[answer]

    def tell(self, exception: Exception) -> None:
        """Note that `failed` is called, and break it as told."""
        assert isinstance(self, BaseTask)
        LOG.hook(self.key, self, exception)
        self.look()
        if self.last == "breaks":
            raise RuntimeError("failed() has a fault of its own")


class InLoop(ByScript):
    """Takes virtual time; its hooks are async."""

    async def execute(self) -> Any:
        assert isinstance(self, BaseTask)
        does, run = self.does(), self.begin()
        await asyncio.sleep(NEVER_S if does == "runs on" else RUN_S)
        run.end(self)
        return self.act(does)

    async def should_retry(self, exception: Exception) -> Any:
        return self.answer()

    async def failed(self, exception: Exception) -> None:
        self.tell(exception)
        if self.last == "hangs":
            await asyncio.sleep(NEVER_S)


class Blocking(ByScript):
    """Takes no virtual time, as blocking code in a simulation; its hooks are not async."""

    def execute(self) -> Any:
        assert isinstance(self, BaseTask)
        does = self.does()
        self.begin().end(self)
        return self.act(does)

    def should_retry(self, exception: Exception) -> Any:
        return self.answer()

    def failed(self, exception: Exception) -> None:
        self.tell(exception)


class Scripted(InLoop, AsyncTask[str]):
    pass


class ScriptedList(InLoop, AsyncTask[str]):
    retry_delay = [timedelta(days=1, seconds=2), 1.2345678]


class ScriptedGrowing(InLoop, AsyncTask[str]):
    retry_delay = timedelta(milliseconds=1500)
    retry_delay_max = timedelta(minutes=1)
    retry_strategy = "exponential"


class ScriptedThread(Blocking, SyncTask[str]):
    pass


class ScriptedChild(InLoop, AsyncProcessTask[str]):
    pass


class ScriptedBlockingChild(Blocking, SyncProcessTask[str]):
    pass


FIXED: Final = ("fixed", 3_000_000_000)
FAMILIES: Final[Sequence[tuple[type[Any], tuple[Any, ...]]]] = (
    (Scripted, FIXED),
    (ScriptedThread, FIXED),
    (ScriptedChild, FIXED),
    (ScriptedBlockingChild, FIXED),
    *[(ScriptedList, ("list", (86_402_000_000_000, 1_234_567_800)))] * 3,
    *[(ScriptedGrowing, ("jittered", 1_500_000_000, 60_000_000_000))] * 2,
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
    breaks = _pick(sim, tuple(CONSTRUCTOR_ERRORS))
    expected.append(Expected(key=breaks, task=Fragile(breaks, breaks), attempts=(2,), delay=3, asked=1))
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
    begin(sim, key)
    family, waits = _pick(sim, FAMILIES)
    timeout = _pick(sim, (LIMIT_S, timedelta(seconds=LIMIT_S), None))
    takes = 0.0 if issubclass(family, Blocking) else RUN_S
    runs_on = ("runs on",) if timeout is not None and takes else ()
    others = ("snoozes", "rejects", "times out by itself", "is cancelled", "leaves", "child dies", *runs_on)
    does = ("returns", *["raises", "raises for a cause"] * 2, "returns an object", "asks again", "asks again soon")
    script = [[_pick(sim, (*does, *others)), _pick(sim, (*["yes"] * 3, *ANSWERS, "breaks"))] for _ in range(12)] + [
        ["returns", "yes"]
    ]
    policy: dict[str, Any] = {"max_attempts": _pick(sim, (6, 6, 6, 3, 1, 0)), "max_crashes": _pick(sim, (3, 1, 4))}
    kept = _pick(sim, (None, KEPT_S, timedelta(seconds=KEPT_S)))
    task = family(key=key, script=script, last=_pick(sim, ("fine", "breaks", "hangs" if takes else "fine")))
    task = task.with_options(timeout=timeout, keep_result=kept, **policy)
    delay, delay_ns = _pick(sim, ((None, 0), *DURATIONS))
    again, again_ns = _pick(sim, (*[(None, 0)] * 6, *DURATIONS, (0, 0)))
    task = task if delay is None else task.delay(delay)
    task = task if again is None else task.retry_after(again)
    if again is not None:
        waits = ("jittered", again_ns, waits[2]) if waits[0] == "jittered" else ("fixed", again_ns)
    one = Expected(key=key, task=task, delay=ceil_us(delay_ns) / 1e6, takes=takes)
    return _foretold(one, script, {**policy, "waits": waits}, kept=kept is not None)


def _foretold(one: Expected, script: Script, policy: dict[str, Any], *, kept: bool) -> Expected:
    """Follow the script through the model to its end."""
    attempts: list[int] = []
    pauses: list[Wait] = []
    lasts: list[float] = []
    asked, grant = 0, {"attempt": 1, "crashes": 0}
    for does, answer in script:
        attempts.append(grant["attempt"])
        lasts.append(LIMIT_S if does == "runs on" else one.takes)
        outcome = OUTCOMES[does]
        if is_asked(outcome, grant, policy):
            asked += 1
            outcome = "refused" if answer.startswith("no") else outcome
        elif does == "returns an object" and (kept or isinstance(one.task, AsyncProcessTask | SyncProcessTask)):
            outcome = "refused"  # it can't travel; nobody is asked
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
