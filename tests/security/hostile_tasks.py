"""Tasks that misbehave, and innocent ones; in a module of their own, so that child processes can import it."""

import os
from collections import Counter
from typing import Any, NoReturn

from asynctasq.errors import Snooze
from asynctasq.tasks import AsyncProcessTask, AsyncTask, SyncProcessTask, SyncTask
from tests.security.hostile_children import FORGED_REPLY, frame, send

RAN: Counter[str] = Counter()
BUILDING = [False]
"""Whether constructors may misbehave: not at the dispatch."""


def leave(*_: object, **__: object) -> NoReturn:
    raise SystemExit(7)


def interrupt(*_: object, **__: object) -> NoReturn:
    raise KeyboardInterrupt


class TextExits(Exception):
    __str__ = __repr__ = leave


class TextInterrupts(Exception):
    __str__ = __repr__ = interrupt


class ArgumentExits:
    __repr__ = __str__ = __reduce__ = __eq__ = leave
    __hash__ = None  # type: ignore[assignment]


class Innocent(AsyncTask[None]):
    async def execute(self) -> None:
        RAN[self._task_id or ""] += 1


class Fails:
    """What the classes below have in common: few attempts, without a pause."""

    max_attempts = 2
    retry_delay = 0


class ToFloat(Fails, AsyncTask[float]):
    def __init__(self, text: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.text = text

    async def execute(self) -> float:
        return float(self.text)


class LargeResult(AsyncTask[bytes]):
    """Fits every limit of ours, not the packets of a MariaDB as it comes."""

    keep_result = True

    async def execute(self) -> bytes:
        return os.urandom(9_000_000)


class RaisesHuge(Fails, AsyncTask[None]):
    async def execute(self) -> None:
        raise ValueError("x" * 100_000_000)


class RaisesHugeInThread(Fails, SyncTask[None]):
    def execute(self) -> None:
        raise ValueError("\x1b" * 20_000_000)


class RaisesHugeInChild(Fails, SyncProcessTask[None]):
    def execute(self) -> None:
        raise ValueError("x" * 100_000_000)


class RaisesExitingText(Fails, AsyncTask[None]):
    async def execute(self) -> None:
        raise TextExits


class RaisesInterruptingText(Fails, AsyncTask[None]):
    async def execute(self) -> None:
        raise TextInterrupts


class RaisesExitingArgumentInChild(Fails, AsyncProcessTask[None]):
    async def execute(self) -> None:
        raise ValueError(ArgumentExits())


class HooksExit(Fails, AsyncTask[None]):
    async def execute(self) -> None:
        raise ValueError("no")

    def should_retry(self, exception: Exception) -> bool:
        raise TextExits

    async def failed(self, exception: Exception) -> None:
        raise TextInterrupts


class ConstructorExits(Fails, AsyncTask[None]):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if BUILDING[0]:
            leave()

    async def execute(self) -> None: ...


class ConstructorInterrupts(Fails, AsyncTask[None]):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if BUILDING[0]:
            interrupt()

    async def execute(self) -> None: ...


class ExitsElsewhere:
    """Its constructor exits in every process but the one that dispatched it."""

    def __init__(self, dispatched_by: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dispatched_by = dispatched_by
        if dispatched_by != os.getpid():
            leave()


class ConstructorExitsInChild(Fails, ExitsElsewhere, SyncProcessTask[None]):
    def execute(self) -> None: ...


class AnswersForItself(Fails, SyncProcessTask[None]):
    """Writes to the pipe of its child process what an answer to another request looks like."""

    max_crashes = 1

    def execute(self) -> None:
        send(frame(FORGED_REPLY))


class ConstructorExitsInWorker(Fails, ExitsElsewhere, AsyncTask[None]):
    async def execute(self) -> None: ...


class SnoozesForEver(AsyncTask[None]):
    async def execute(self) -> None:
        raise Snooze(0)
