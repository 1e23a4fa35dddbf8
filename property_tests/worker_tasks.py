"""The tasks of the worker's machine: each run does what its script says next, and is noted outside of the queue."""

import asyncio
from dataclasses import dataclass, field
from uuid import NAMESPACE_URL, uuid5

from asynctasq.core.lanes.process_pool import ChildCrashed
from asynctasq.errors import Reject, Retry, Snooze
from asynctasq.tasks import AsyncTask, SyncTask

__all__ = ["AGAIN_S", "LIST_S", "LOG", "SNOOZE_S", "TAKES_S", "Acts", "ActsByList", "Blocks", "Child"]

TAKES_S = {"long": 70.0}
"""By act; a second if it is not named. The long one lives through several renewals of its lease."""
SNOOZE_S = 30.0
AGAIN_S = {"again": 2.0, "at once": 0.0}
LIST_S = [5.0, 20.0]


@dataclass
class Log:
    """What user code has seen: by key, the attempt and virtual time of each run; those that came to their end."""

    runs: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    ended: dict[str, list[int]] = field(default_factory=dict)
    hooks: dict[str, list[str]] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    def clear(self) -> None:
        self.runs.clear()
        self.ended.clear()
        self.hooks.clear()
        self.asked.clear()

    def begin(self, key: str, attempt: int) -> int:
        """Note a run; return how many came to their end before it."""
        self.runs.setdefault(key, []).append((attempt, asyncio.get_running_loop().time()))
        return len(self.ended.get(key, []))

    def end(self, key: str, attempt: int) -> None:
        """Note that a run has come to its end."""
        self.ended.setdefault(key, []).append(attempt)


LOG = Log()


class Acts(AsyncTask[str]):
    """Plays its script, an act a run, one that was interrupted once more; then it succeeds."""

    key: str
    acts: list[str]
    hook_breaks: bool
    queue = "work"
    keep_result = 10**7

    async def execute(self) -> str:
        done = LOG.begin(self.key, self.attempt)
        act = self.acts[done] if done < len(self.acts) else "succeed"
        await asyncio.sleep(TAKES_S.get(act, 1.0))
        LOG.end(self.key, self.attempt)
        match act:
            case "fail":
                raise ValueError(self.key)
            case "refuse":
                raise KeyError(self.key)
            case "snooze":
                raise Snooze(SNOOZE_S)
            case "again" | "at once":
                raise Retry(self.key, after=AGAIN_S[act])
            case "reject":
                raise Reject(self.key)
            case "die":
                raise ChildCrashed(self.key)
            case "overrun":
                await asyncio.sleep(1000)
            case "child":
                child = Child(key=f"{self.key} child").with_options(task_id=uuid5(NAMESPACE_URL, f"{self.key} {done}"))
                await child.dispatch()
            case _:
                pass
        return self.key

    async def should_retry(self, exception: Exception) -> bool:
        LOG.asked[self.key] = LOG.asked.get(self.key, 0) + 1
        return not isinstance(exception, KeyError)

    async def failed(self, exception: Exception) -> None:
        LOG.hooks.setdefault(self.key, []).append(type(exception).__name__)
        if self.hook_breaks:
            raise RuntimeError("the hook fails too")


class ActsByList(Acts):
    """The same with a list of delays."""

    retry_delay = LIST_S


class Child(AsyncTask[str]):
    key: str
    queue = "work"

    async def execute(self) -> str:
        LOG.begin(self.key, self.attempt)
        await asyncio.sleep(1.0)
        return self.key


class Blocks(SyncTask[str]):
    """Runs in a thread, where there are any, and fails once."""

    key: str
    queue = "work"
    retry_delay = 7

    def execute(self) -> str:
        LOG.runs.setdefault(self.key, []).append((self.attempt, -1.0))
        LOG.end(self.key, self.attempt)
        if self.attempt == 1:
            raise ValueError(self.key)
        return self.key
