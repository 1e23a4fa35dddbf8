"""The tasks of the hunt, and the log they keep: what ran, when, in virtual time. Nothing here asks the queue."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from uuid import NAMESPACE_URL, uuid5

from asynctasq.core.current_task import current_task
from asynctasq.core.lanes.process_pool import ChildCrashed
from asynctasq.errors import Reject, Retry, Snooze
from asynctasq.tasks import AsyncTask, SyncTask
from asynctasq.tasks.base import AsyncProcessTask, BaseTask


@dataclass(slots=True)
class Run:
    """One execution: when its code began, and when it ended by itself.

    `itself`: whether `current_task()` was the task that ran, whenever it was looked at.
    """

    key: str
    attempt: int
    began: float
    dispatched_at: datetime | None = None
    ended: float | None = None
    itself: bool = True

    def end(self, task: BaseTask[str]) -> None:
        """Note that the code ends now."""
        self.ended = now()
        self.itself = self.itself and current_task() is task


@dataclass(slots=True)
class Log:
    """What the code of the tasks has seen of itself in one simulated run.

    `built` counts constructions, `told` says for each `failed` the number of the attempt it takes for its own,
    `odd` is what tasks have seen that can't be.
    """

    loop: asyncio.AbstractEventLoop | None = None
    runs: list[Run] = field(default_factory=list[Run])
    hooks: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    asked: list[str] = field(default_factory=list[str])
    told: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    built: dict[str, int] = field(default_factory=dict[str, int])
    odd: list[str] = field(default_factory=list[str])

    def clear(self) -> None:
        """Forget everything: another simulated run begins, in the loop that runs now."""
        self.loop = asyncio.get_running_loop()
        self.runs.clear()
        self.hooks.clear()
        self.asked.clear()
        self.told.clear()
        self.built.clear()
        self.odd.clear()

    def of(self, key: str) -> list[Run]:
        """Return the executions of one dispatch."""
        return [run for run in self.runs if run.key == key]

    def begin(self, key: str, task: BaseTask[str]) -> Run:
        """Note that an execution begins now, and what it knows of itself."""
        run = Run(key, task.attempt, now(), task._dispatched_at, itself=current_task() is task)
        self.runs.append(run)
        return run

    def hook(self, key: str, task: BaseTask[str], exception: Exception) -> None:
        """Note that `failed` is called."""
        self.hooks.append((key, type(exception).__name__))
        self.told.append((key, task.attempt))


LOG = Log()


def now() -> float:
    """Return virtual seconds since the simulation began; in blocking tasks too, which see no running loop."""
    assert LOG.loop is not None, "a run clears the log first"
    return LOG.loop.time()


def child_id(run: str) -> str:
    """Return the id that a parent gives to its child in this run of it."""
    return str(uuid5(NAMESPACE_URL, run))


class Watched(AsyncTask[str]):
    """Notes its runs and hooks."""

    key: str
    queue = "work"

    async def run(self, seconds: float = 1.0) -> None:
        """Take some time."""
        run = LOG.begin(self.key, self)
        await asyncio.sleep(seconds)
        run.end(self)

    async def should_retry(self, exception: Exception) -> bool:
        LOG.asked.append(self.key)
        return True

    async def failed(self, exception: Exception) -> None:
        LOG.hook(self.key, self, exception)


class Plain(Watched):
    keep_result = 3600

    async def execute(self) -> str:
        await self.run()
        return f"{self.key} done"


class Flaky(Watched):
    """Fails until its attempt is `good`."""

    good: int
    max_attempts = 4
    retry_delay = [5, 20, 60]

    async def execute(self) -> str:
        await self.run()
        if self.attempt < self.good:
            raise ValueError(f"{self.key} is not good yet")
        return self.key


class AtOnce(Watched):
    """Is retried without any delay."""

    max_attempts = 2
    retry_delay = 0

    async def execute(self) -> str:
        await self.run()
        if self.attempt == 1:
            raise ValueError(f"{self.key} works the second time")
        return self.key


class Hopeless(Watched):
    max_attempts = 3
    retry_delay = 7

    async def execute(self) -> str:
        await self.run()
        raise ValueError(f"{self.key} never works")


class Growing(Watched):
    """Waits anything up to 4, 8, 16, 20, 20, 20 seconds."""

    max_attempts = 7
    retry_delay = 4
    retry_delay_max = 20
    retry_strategy = "exponential"

    async def execute(self) -> str:
        await self.run()
        raise ValueError(f"{self.key} never works")


class Rejects(Watched):
    async def execute(self) -> str:
        await self.run()
        raise Reject(f"{self.key} is refused")


class Snoozes(Watched):
    max_attempts = 1

    async def execute(self) -> str:
        await self.run()
        if len(LOG.of(self.key)) == 1:
            raise Snooze(30)
        return self.key


class AsksAgain(Watched):
    max_attempts = 2
    retry_delay = 50

    async def execute(self) -> str:
        await self.run()
        if self.attempt == 1:
            raise Retry("sooner than the policy says", after=3)
        return self.key


class AsksAgainAtOnce(Watched):
    max_attempts = 2
    retry_delay = 50

    async def execute(self) -> str:
        await self.run()
        if self.attempt == 1:
            raise Retry("at once", after=0)
        return self.key


class AsksTooOften(Watched):
    """Wants another attempt after its last one."""

    max_attempts = 2
    retry_delay = 2

    async def execute(self) -> str:
        await self.run()
        raise Retry(f"{self.key} wants more", after=None)


class Once(Watched):
    max_attempts = 0

    async def execute(self) -> str:
        await self.run()
        raise ValueError(f"{self.key} never works")


class Choosy(Watched):
    async def execute(self) -> str:
        await self.run()
        raise KeyError(self.key)

    async def should_retry(self, exception: Exception) -> bool:
        LOG.asked.append(self.key)
        for _ in range(5):
            with suppress(asyncio.CancelledError):  # as careless code does
                await asyncio.sleep(0)
        return not isinstance(exception, KeyError)


class TooLong(Watched):
    max_attempts = 2
    retry_delay = 4
    timeout = 2

    async def execute(self) -> str:
        await self.run(seconds=20)
        return self.key


class Long(Watched):
    """Lives through three renewals of its lease."""

    max_attempts = 1

    async def execute(self) -> str:
        await self.run(seconds=70)
        return self.key


class Endless(Watched):
    """Runs for as long as it is let, once."""

    max_attempts = 1

    async def execute(self) -> str:
        await self.run(seconds=1e6)
        return self.key


class Careless(Watched):
    """Fails, and does not mind being cancelled while `should_retry` or `failed` takes its time."""

    asked_s: float
    told_s: float

    async def execute(self) -> str:
        await self.run()
        raise KeyError(self.key)

    async def should_retry(self, exception: Exception) -> bool:
        await _deaf_sleep(self.asked_s)
        return False

    async def failed(self, exception: Exception) -> None:
        LOG.hook(self.key, self, exception)
        await _deaf_sleep(self.told_s)


async def _deaf_sleep(seconds: float) -> None:
    until = now() + seconds
    while now() < until:
        with suppress(asyncio.CancelledError):  # as careless code does
            await asyncio.sleep(until - now())


class Fragile(Watched):
    """Its constructor fails when it is first called in a worker; a dispatch is the first call of all."""

    retry_delay = 3

    def __init__(self, key: str, breaks: str) -> None:
        super().__init__()
        self.key = key
        LOG.built[key] = LOG.built.get(key, 0) + 1
        if LOG.built[key] == 2:
            raise CONSTRUCTOR_ERRORS[breaks](f"{key} can't be made yet")

    async def execute(self) -> str:
        await self.run()
        return self.key


CONSTRUCTOR_ERRORS: dict[str, type[BaseException]] = {
    error.__name__: error for error in (TypeError, ValueError, LookupError, SystemExit, asyncio.CancelledError)
}


class Parent(Watched):
    async def execute(self) -> str:
        run = len(LOG.of(self.key)) + 1
        await self.run()
        child = Child(key=f"{self.key} child").delay(5)
        await child.with_options(task_id=child_id(f"{self.key} {run}")).dispatch()
        return self.key


class Child(Watched):
    async def execute(self) -> str:
        await self.run()
        return self.key


class BadHook(Watched):
    max_attempts = 1

    async def execute(self) -> str:
        await self.run()
        raise ValueError(f"{self.key} never works")

    async def failed(self, exception: Exception) -> None:
        LOG.hook(self.key, self, exception)
        raise RuntimeError("the hook fails too")


class ChildDies(Watched):
    """Its child process dies twice, then it works; `good` runs are needed."""

    good: int
    max_attempts = 1

    async def execute(self) -> str:
        await self.run()
        if len(LOG.of(self.key)) < self.good:
            raise ChildCrashed(f"{self.key} took its process down")
        return self.key


class Blocking(SyncTask[str]):
    key: str
    queue = "work"
    keep_result = 3600

    def execute(self) -> str:
        LOG.begin(self.key, self).end(self)
        return f"{self.key} done"


class Offloaded(AsyncProcessTask[str]):
    key: str
    queue = "work"
    keep_result = 3600

    async def execute(self) -> str:
        LOG.begin(self.key, self).end(self)
        return f"{self.key} done"


class Named:
    """Takes one argument that it must have."""

    queue = "work"

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key


class Thread(Named, SyncTask[str]):
    def execute(self) -> str:
        LOG.begin(self.key, self).end(self)
        return self.key


class InChild(Named, AsyncProcessTask[str]):
    async def execute(self) -> str:
        LOG.begin(self.key, self).end(self)
        return self.key
