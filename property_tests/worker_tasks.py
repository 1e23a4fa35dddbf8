"""The tasks of the worker's machine: each run does what its script says next, and is noted outside of the queue."""

import asyncio
from dataclasses import dataclass, field
from uuid import NAMESPACE_URL, uuid5

from asynctasq.core.processes import ChildCrashed
from asynctasq.errors import Reject, Retry, Snooze
from asynctasq.tasks import AsyncTask, SyncTask

__all__ = ["AGAIN_S", "LIST_S", "LOG", "SNOOZE_S", "TAKES_S", "TIMEOUT_S", "Acts", "ActsByList", "Blocks", "Child"]

TAKES_S = 1.0
TIMEOUT_S = 3.0
SNOOZE_S = 30.0
AGAIN_S = 2.0
LIST_S = [5.0, 20.0]


@dataclass
class Log:
    """What user code has seen: by key, the attempt and virtual time of each run; hooks; questions."""

    runs: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    hooks: dict[str, list[str]] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    def clear(self) -> None:
        self.runs.clear()
        self.hooks.clear()
        self.asked.clear()

    def begin(self, key: str, attempt: int) -> int:
        """Note a run; return how many there were before it."""
        runs = self.runs.setdefault(key, [])
        runs.append((attempt, asyncio.get_running_loop().time()))
        return len(runs) - 1


LOG = Log()


class Acts(AsyncTask[str]):
    """Plays its script, an act a run; then it succeeds."""

    key: str
    acts: list[str]
    hook_breaks: bool
    queue = "work"

    async def execute(self) -> str:
        run = LOG.begin(self.key, self.attempt)
        act = self.acts[run] if run < len(self.acts) else "succeed"
        await asyncio.sleep(1000 if act == "overrun" else TAKES_S)
        match act:
            case "fail":
                raise ValueError(self.key)
            case "refuse":
                raise KeyError(self.key)
            case "snooze":
                raise Snooze(SNOOZE_S)
            case "again":
                raise Retry(self.key, after_s=AGAIN_S)
            case "reject":
                raise Reject(self.key)
            case "die":
                raise ChildCrashed(self.key)
            case "child":
                child = Child(key=f"{self.key} child").with_options(task_id=uuid5(NAMESPACE_URL, f"{self.key} {run}"))
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
        await asyncio.sleep(TAKES_S)
        return self.key


class Blocks(SyncTask[str]):
    """Runs in a thread, where there are any, and fails once."""

    key: str
    queue = "work"
    retry_delay = 7

    def execute(self) -> str:
        LOG.runs.setdefault(self.key, []).append((self.attempt, -1.0))
        if self.attempt == 1:
            raise ValueError(self.key)
        return self.key
