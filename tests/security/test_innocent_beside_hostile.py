"""300 innocent tasks beside each hostile message, on real backends: they run once, and the hostile one is buried.

To add one, append a `Hostile` to `HOSTILE`: a name, a function that returns either a task to dispatch or the bytes of a
body to store, and the reason of the dead letter that must come of it. `drivers` limits it to backends where it is
hostile; a task's class goes into `hostile_tasks.py`, since child processes import it from there.
"""

import asyncio
import io
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from asynctasq.cli.output import AttemptLines
from asynctasq.codec.envelope import PLAIN_PREFIX
from asynctasq.codec.typed_msgpack import packb
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Driver, Inspectable, Migratable
from asynctasq.drivers.urls import create_driver, sqlite_url
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.messages import DeadReason, Message, StoredMessage
from asynctasq.queue import MessageFactory
from asynctasq.tasks import BaseTask
from asynctasq.tasks.application import Application
from asynctasq.testing.servers import Servers
from tests.security import hostile_tasks as tasks

INNOCENT = 300
WITHIN_S = 60.0
ERROR_BYTES_MAX = 21_000
"""Type, message and traceback as a store holds them."""
KINDS = ("sqlite", "redis", "postgres", "mysql")
HUGE = "x" * 5_000_000


def body(
    task: object = f"{tasks.__name__}:ToFloat",
    arguments: object = None,
    retry: object = 0.0,
    keep_result: object = None,
    max_crashes: object = 3,
) -> bytes:
    """Return a forged body, as one with access to the backend may write it."""
    packed = packb({"text": "no number"} if arguments is None else arguments)
    return PLAIN_PREFIX + packb([task, packed, 2, retry, 1.0, None, keep_result, max_crashes])


@dataclass(frozen=True)
class Hostile:
    """One thing to store in the middle of the innocent tasks."""

    name: str
    make: Callable[[], "BaseTask[Any] | bytes"]
    reason: DeadReason = DeadReason.FAILED
    drivers: Sequence[str] = KINDS


UNDECODABLE, UNKNOWN = DeadReason.UNDECODABLE, DeadReason.UNKNOWN_TASK
HOSTILE = [
    Hostile("retry after the end of time", lambda: body(retry=1e18), UNDECODABLE),
    Hostile("retry after the end of the calendar", lambda: body(retry=1e12), UNDECODABLE),
    Hostile("a result kept for ever", lambda: body(keep_result=1e18), UNDECODABLE),
    Hostile("a task's name of 5 MB", lambda: body(task=HUGE), UNDECODABLE),
    Hostile("an argument's name of 5 MB", lambda: body(arguments={HUGE: 1}), DeadReason.BAD_ARGUMENTS),
    Hostile("no envelope", lambda: b"\xc1\x01\x00\xff", UNDECODABLE),
    Hostile("a million empty lists", lambda: body(arguments={"text": [[]] * 1_000_000}), UNDECODABLE),
    Hostile("a class of the standard library", lambda: body(task="subprocess:Popen"), UNKNOWN),
    Hostile("a script of the project", lambda: body(task="tests.security.hostile_script:Gone"), UNKNOWN),
    Hostile("the set-up of the tests", lambda: body(task="tests.conftest:pytest_configure"), UNKNOWN),
    Hostile("an answer to another request from a child", tasks.AnswersForItself, DeadReason.CRASHED),
    Hostile("a message of 3 million characters", lambda: tasks.ToFloat("é" * 3_000_000)),
    Hostile("a message of control characters", lambda: tasks.ToFloat("\x00\x1b" * 100_000)),
    Hostile("a result larger than the backend takes", tasks.LargeResult, drivers=("mysql",)),
    Hostile("an error of 100 MB", tasks.RaisesHuge),
    Hostile("an error of 20 MB in a thread", tasks.RaisesHugeInThread),
    Hostile("an error of 100 MB in a child", tasks.RaisesHugeInChild),
    Hostile("an error whose text exits", tasks.RaisesExitingText),
    Hostile("an error whose text interrupts", tasks.RaisesInterruptingText),
    Hostile("an error in a child whose argument exits", tasks.RaisesExitingArgumentInChild),
    Hostile("hooks whose errors exit", tasks.HooksExit),
    Hostile("a constructor that exits", tasks.ConstructorExits),
    Hostile("a constructor that interrupts", tasks.ConstructorInterrupts),
    Hostile("a constructor that exits in a child", lambda: tasks.ConstructorExitsInChild(os.getpid())),
]


class Watch:
    """The worker's own output, and what it says has come to an end."""

    def __init__(self, *, as_json: bool) -> None:
        self.text = io.StringIO()
        self._output = AttemptLines(self.text, as_json=as_json)
        self._waiting: set[str] = set()
        self._done = asyncio.Event()

    def __call__(self, entry: Entry) -> None:
        if entry.kind is Kind.SETTLED and (entry.detail == "complete" or entry.detail.startswith("bury")):
            self._waiting.discard(entry.message_id)
            if not self._waiting:
                self._done.set()
        self._output(entry)

    def expect(self, messages: Sequence[Message]) -> None:
        self._waiting = {message.id for message in messages}
        self._done.clear()

    async def all_ended(self) -> None:
        async with asyncio.timeout(WITHIN_S):
            await self._done.wait()


@pytest.fixture(autouse=True)
def constructors_misbehave() -> Iterator[None]:
    tasks.RAN.clear()
    tasks.BUILDING[0] = False
    yield
    tasks.BUILDING[0] = False


def address(kind: str, servers: Servers, folder: Path) -> str:
    return sqlite_url(folder / "queue.db") if kind == "sqlite" else str(getattr(servers, kind)().url)


def innocent_messages(queue: str, count: int) -> list[Message]:
    return [MessageFactory().message(tasks.Innocent().on_queue(queue)) for _ in range(count)]


def message_of(hostile: Hostile, queue: str) -> Message:
    made = hostile.make()
    if isinstance(made, bytes):
        return Message(id=str(uuid.uuid4()), queue=queue, body=made)
    return MessageFactory().message(made.on_queue(queue))


async def work_beside(driver: Driver, hostile: Message, queue: str, watch: Watch) -> list[Message]:
    """Run them all, and one more when they have ended; return the innocent messages."""
    innocent = innocent_messages(queue, INNOCENT)
    if isinstance(driver, Migratable):
        await driver.migrate()
    await driver.open()
    await driver.enqueue([*innocent[: INNOCENT // 2], hostile, *innocent[INNOCENT // 2 :]])
    watch.expect([*innocent, hostile])
    settings = WorkerSettings(application=Application((), Path(__file__).parents[2]), handle_signals=False)
    worker = Worker(driver, queues=(queue,), settings=settings, runtime=ProductionRuntime(record=watch))
    tasks.BUILDING[0] = True
    running = asyncio.create_task(worker.start())
    try:
        await watch.all_ended()
        last = innocent_messages(queue, 1)
        watch.expect(last)
        await driver.enqueue(last)
        await watch.all_ended()
    finally:
        worker.stop()
        await running
    return [*innocent, *last]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
async def test_innocent_tasks_run_once_beside_it(
    kind: str, hostile: Hostile, tmp_path: Path, conformance_servers: Servers
) -> None:
    if kind not in hostile.drivers:
        pytest.skip(f"not hostile on {kind}")
    driver = create_driver(address(kind, conformance_servers, tmp_path))
    queue = f"q{uuid.uuid4().hex[:12]}"
    message = message_of(hostile, queue)
    watch = Watch(as_json=HOSTILE.index(hostile) % 2 == 0)

    innocent = await work_beside(driver, message, queue, watch)

    stored = await cast("Inspectable", driver).find(message.id)
    await driver.close()
    assert dict(tasks.RAN) == {each.id: 1 for each in innocent}
    check_dead_letter(stored, hostile.reason)
    assert len(watch.text.getvalue()) < 300 * (INNOCENT + 2) + 2 * ERROR_BYTES_MAX


def check_dead_letter(stored: StoredMessage | None, reason: DeadReason) -> None:
    assert stored is not None
    assert stored.reason is reason
    assert stored.attempts <= 2
    assert stored.error is not None
    assert stored.error.type
    assert len(stored.error.to_json()) < ERROR_BYTES_MAX
