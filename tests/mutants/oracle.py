"""What a workload must come to, worked out from what its tasks say; exact to the microsecond where no fault fired."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from asynctasq.codec.arguments import unpack_result
from asynctasq.tasks.base import BaseTask
from asynctasq.testing import Simulation
from asynctasq.testing.engine.store import FakeStore
from asynctasq.testing.simulation.checks import PropertyBroken
from tests.mutants.tasks import LOG, Run

MICROSECOND = 1e-6
NAMELESS = ("TaskTimeoutError", "UnserializableValue")
"""Errors that are not the task's own, and say nothing of its key."""
HAIR = 0.1 * MICROSECOND
"""What the sum of some floats may be off by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Seconds from the end of one run to the start of the next: exactly `least`, or anything up to `most`."""

    least: float
    most: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """One dispatch and what comes of it.

    `attempts` are the numbers of its runs in order, `waits` lie between them, `takes` is how long each lasts, or
    `lasts` if they differ.
    `ends` is "done" or why it is a dead letter. `fragile`: a fault may cost it an attempt, as a worker that stands
    still makes a task run out of time. `child_of` is the key of what dispatches it: where faults have made that a dead
    letter, there is nothing to expect.
    """

    key: str
    task: BaseTask[Any] | None = None
    task_id: str | None = None
    delay: float = 0.0
    takes: float = 1.0
    lasts: tuple[float, ...] = ()
    attempts: tuple[int, ...] = (1,)
    waits: tuple[Wait, ...] = ()
    ends: str = "done"
    hooks: int = 0
    asked: int = 0
    counted: int = 0
    error: str = ""
    result: str | None = None
    fragile: bool = False
    child_of: str = ""


def want(condition: bool, name: str, text: str) -> None:
    """Fail the run unless `condition`; `name` is what was promised."""
    if not condition:
        raise PropertyBroken(name, f"{name}: {text}")


def begin(sim: Simulation, part: str) -> None:
    """Draw what follows under a name of its own: shrunk to nothing, a part lets the others draw what they drew."""
    sim.rng = sim._engine.tape.random(part)


async def judge(sim: Simulation, expected: Sequence[Expected], base: float, *, exact: bool) -> None:
    """Compare what the log and the queue show with what is expected of dispatches at `base`."""
    store = sim.queue._engine.store
    for one in expected:
        runs = [run for run in LOG.of(one.key) if run.began >= base - HAIR]
        if not exact and (one.fragile or await _died(one.child_of, expected, store)):
            continue
        _judge_runs(one, runs, exact=exact)
        if exact:
            _judge_metadata(one, runs, datetime.fromtimestamp(sim.clock.now(), UTC))
        _judge_times(one, runs, base, exact=exact)
        if exact:
            _judge_chance(one, runs, chance=bool(sim.seed))
        _judge_hooks(one, exact=exact)
        await _judge_end(one, store)
    want(not LOG.odd, "instances", f"{LOG.odd}")
    want(store.pending == 0, "nothing left", f"{store.pending} messages are left")


async def _died(key: str, expected: Sequence[Expected], store: FakeStore) -> bool:
    """Say whether what was dispatched under this key is a dead letter."""
    ids = [one.task_id for one in expected if one.key == key and one.task_id is not None]
    found = [await store.find(task_id) for task_id in ids]
    return any(message is not None and message.reason is not None for message in found)


def _judge_runs(one: Expected, runs: Sequence[Run], *, exact: bool) -> None:
    numbers = [run.attempt for run in runs]
    if exact:
        want(numbers == list(one.attempts), "attempts", f"{one.key}: {numbers}, not {list(one.attempts)}")
    else:
        want(set(numbers) == set(one.attempts), "attempts", f"{one.key}: {numbers}, not {set(one.attempts)}")


def _judge_metadata(one: Expected, runs: Sequence[Run], latest: datetime) -> None:
    want(all(run.itself for run in runs), "current_task", f"{one.key} took itself for another task")
    instants = {run.dispatched_at for run in runs}
    [instant] = instants if len(instants) == 1 else [None]
    fits = instant is not None and instant.tzinfo is UTC and instant <= latest
    want(fits, "dispatched_at", f"{one.key}: {instants}, not one instant before {latest}")


def _judge_times(one: Expected, runs: Sequence[Run], base: float, *, exact: bool) -> None:
    if exact:
        earliest = latest = base + one.delay
        lasts = one.lasts or (one.takes,) * len(runs)
        for run, takes, wait in zip(runs, lasts, (*one.waits, Wait(least=0)), strict=True):
            fits = earliest - HAIR <= run.began <= latest + MICROSECOND + HAIR
            want(fits, "times", f"{one.key} attempt {run.attempt} at {run.began}, not {earliest} to {latest}")
            ended = run.began + takes
            earliest, latest = ended + wait.least, ended + (wait.least if wait.most is None else wait.most)
        return
    want(runs[0].began >= base + one.delay - HAIR, "times", f"{one.key} began at {runs[0].began}, which is early")
    if len(set(one.attempts)) < len(one.attempts):
        return
    for number, wait in zip(one.attempts[1:], one.waits, strict=True):
        ends = [run.ended for run in runs if run.attempt == number - 1 and run.ended is not None]
        starts = [run.began for run in runs if run.attempt == number]
        early = ends and min(starts) < min(ends) + wait.least - HAIR
        want(not early, "times", f"{one.key} attempt {number} came at {min(starts)}, less than {wait} after {ends}")


def _judge_chance(one: Expected, runs: Sequence[Run], *, chance: bool) -> None:
    """Tell of waits that should be spread by chance, of which more than one is as long as it may be; without, any that
    is not.
    """
    lasts = one.lasts or (one.takes,) * len(runs)
    spread = [
        (later.began - earlier.began - takes, wait.most)
        for (earlier, later), takes, wait in zip(pairwise(runs), lasts, one.waits, strict=False)
        if wait.most is not None and wait.most > max(wait.least, 1)
    ]
    longest = [most for waited, most in spread if waited >= most - 2 * MICROSECOND]
    want(chance or len(longest) == len(spread), "jitter", f"{one.key} did not wait as long as it may: {spread}")
    want(not chance or len(longest) < 2, "jitter", f"{one.key} waited {longest}, more than once the most there is")


def _judge_hooks(one: Expected, *, exact: bool) -> None:
    hooks = sum(key == one.key for key, _ in LOG.hooks)
    asked = LOG.asked.count(one.key)
    if exact:
        want(hooks == one.hooks, "hooks", f"failed() of {one.key} ran {hooks} times, not {one.hooks}")
        want(asked == one.asked, "hooks", f"should_retry() of {one.key} was asked {asked} times, not {one.asked}")
        kinds = {kind for key, kind in LOG.hooks if key == one.key}
        of = "WorkerCrashedError" if one.error == "ChildCrashed" else one.error
        want(kinds <= {of}, "hooks", f"failed() of {one.key} was told of {kinds}, not of {of}")
        numbers = [attempt for key, attempt in LOG.told if key == one.key]
        want(set(numbers) <= {one.attempts[-1]}, "hooks", f"failed() of {one.key} took itself for attempt {numbers}")
    else:
        want(bool(hooks) == bool(one.hooks), "hooks", f"failed() of {one.key} ran {hooks} times, not {one.hooks}")
        want(bool(asked) == bool(one.asked), "hooks", f"should_retry() of {one.key} was asked {asked} times")


async def _judge_end(one: Expected, store: FakeStore) -> None:
    assert one.task_id is not None
    message = await store.find(one.task_id)
    if one.ends == "done":
        want(message is None, "ends", f"{one.key} should be done, it is {message}")
        data = await store.fetch_result(one.task_id)
        result = None if data is None else unpack_result(data, str)
        want(result == one.result, "results", f"{one.key} returned {result!r}, not {one.result!r}")
        return
    reason = None if message is None or message.reason is None else message.reason.value
    want(reason == one.ends, "ends", f"{one.key} should be dead: {one.ends}, it is {reason}")
    assert message is not None
    kind = "" if message.error is None else message.error.type
    text = "" if message.error is None else message.error.message
    want(kind.endswith(one.error), "dead letters", f"{one.key} died of {kind!r}, not of {one.error}")
    told = message.error is not None and kind.rpartition(".")[2] in message.error.traceback
    want(told, "dead letters", f"{one.key} died without a traceback that says of what")
    want(one.key in text or one.error in NAMELESS, "dead letters", f"{one.key} died saying {text!r}")
    want(message.attempts == one.counted, "dead letters", f"{one.key}: {message.attempts} counted, not {one.counted}")
