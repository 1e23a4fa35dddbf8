"""What each end of an attempt means for its message, its hooks and its retries; in virtual time."""
# pyright: reportPrivateUsage=false
# The metadata that the guide promises to a running task have private names.

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asynctasq.codec.envelope import decode_envelope, encode_envelope
from asynctasq.core.runtime import SimulatedRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import (
    BadSignature,
    Reject,
    TaskTimeoutError,
    UndecodableBody,
    UnknownTask,
    UnserializableValue,
    UnsupportedVersion,
)
from asynctasq.kernel.messages import DeadReason, Message, State, StoredMessage
from asynctasq.queue import MessageFactory
from asynctasq.tasks import AsyncProcessTask, AsyncTask, BaseTask, SyncProcessTask, SyncTask
from asynctasq.tasks.application import Application
from asynctasq.tasks.options import Duration
from asynctasq.testing import FakeQueue, VirtualClock
from asynctasq.testing.loop import SimulationLoop
from tests.effort import examples

SEEN: list[tuple[str, object, int, object]] = []
INSTANCES: list[object] = []
RAN: Counter[str] = Counter()
NOT_OURS = [b"", b"\xc1", b"\xc1\x01\x00", b"\xc1\x01\x00\xc1", b"cos\nsystem\n(S'id'\ntR.", b"{}", b"\xc1\x01\x07rest"]


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    SEEN.clear()
    INSTANCES.clear()
    RAN.clear()


def look(hook: str, task: BaseTask[Any]) -> None:
    SEEN.append((hook, task._task_id, task._current_attempt, task._dispatched_at))
    INSTANCES.append(task)


class Fails(AsyncTask[None]):
    retry_delay: ClassVar[Duration | Sequence[Duration]] = 5

    async def execute(self) -> None:
        look("execute", self)
        raise ValueError("no")

    def should_retry(self, exception: Exception) -> bool | Awaitable[bool]:
        look("should_retry", self)
        return True

    def failed(self, exception: Exception) -> Any:
        look("failed", self)


class FailsOnce(Fails):
    max_attempts = 1


class FailedAsync(FailsOnce):
    async def failed(self, exception: Exception) -> None:
        await asyncio.sleep(1)
        look("failed", self)


class FailedRaises(FailsOnce):
    def failed(self, exception: Exception) -> None:
        look("failed", self)
        raise RuntimeError("the hook breaks")


class FailedExits(FailsOnce):
    def failed(self, exception: Exception) -> None:
        look("failed", self)
        raise SystemExit(3)


class FailedHangs(FailsOnce):
    async def failed(self, exception: Exception) -> None:
        look("failed", self)
        await asyncio.sleep(3600)


class Raises(AsyncTask[None]):
    max_attempts = 2
    retry_delay = 5

    def __init__(self, error: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.error = error

    async def execute(self) -> None:
        RAN["execute"] += 1
        raise ERRORS[self.error]


class RaisesInThread(SyncTask[None]):
    max_attempts = 2
    retry_delay = 5

    def __init__(self, error: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.error = error

    def execute(self) -> None:
        RAN["execute"] += 1
        raise ERRORS[self.error]


class RaisesInProcess(SyncProcessTask[None]):
    max_attempts = 2
    retry_delay = 5

    def __init__(self, error: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.error = error

    def execute(self) -> None:
        RAN["execute"] += 1
        raise ERRORS[self.error]


class RaisesInAsyncProcess(AsyncProcessTask[None]):
    max_attempts = 2
    retry_delay = 5

    def __init__(self, error: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.error = error

    async def execute(self) -> None:
        RAN["execute"] += 1
        raise ERRORS[self.error]


ERRORS: dict[str, BaseException] = {
    "cancelled": asyncio.CancelledError(),
    "exit": SystemExit(1),
    "interrupt": KeyboardInterrupt(),
    "stop": StopIteration(1),
    "generator": GeneratorExit(),
    "undecodable": UndecodableBody("another one"),
    "unknown": UnknownTask("another one"),
    "signature": BadSignature("another one"),
    "version": UnsupportedVersion(9),
}
MODES = (Raises, RaisesInThread, RaisesInProcess, RaisesInAsyncProcess)


class Slow(AsyncTask[None]):
    max_attempts = 1
    timeout = 2

    async def execute(self) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            RAN["finally"] += 1


class Rejects(Fails):
    async def execute(self) -> None:
        look("execute", self)
        raise Reject("never")


class KeepsLock(AsyncTask[object]):
    keep_result = True

    async def execute(self) -> object:
        RAN["execute"] += 1
        return object()


class Fine(AsyncTask[None]):
    async def execute(self) -> None:
        RAN["fine"] += 1


def run(task: BaseTask[Any]) -> FakeQueue:
    with FakeQueue() as queue:
        task.dispatch_sync()
        queue.run_until_idle_sync()
    return queue


def hooks() -> list[str]:
    return [hook for hook, *_ in SEEN]


# -- hooks ----------------------------------------------------------------------------------------


def test_should_retry_is_asked_only_while_attempts_remain() -> None:
    run(Fails())

    assert hooks() == ["execute", "should_retry", "execute", "should_retry", "execute", "failed"]


@pytest.mark.parametrize("task", [FailsOnce, FailedAsync, FailedRaises, FailedExits, FailedHangs])
def test_failed_runs_once_and_the_dead_letter_comes_whatever_it_does(task: type[Fails]) -> None:
    queue = run(task())

    queue.assert_failed(task, with_=ValueError, attempts=1)
    assert hooks() == ["execute", "failed"]
    assert queue.clock.elapsed.total_seconds() <= 30, "the hook has a time limit of its own"


def test_failed_runs_before_the_dead_letter_is_there() -> None:
    depths: list[int] = []

    class Looks(FailsOnce):
        async def failed(self, exception: Exception) -> None:
            depths.append((await queue.driver.depth("default")).dead)

    with FakeQueue() as queue:
        Looks().dispatch_sync()
        queue.run_until_idle_sync()

    assert depths == [0]


def test_hooks_see_the_instance_and_the_metadata_of_their_attempt() -> None:
    queue = run(Fails())

    by_attempt = [{fact[1:] for fact in SEEN if fact[2] == attempt} for attempt in range(3)]
    assert [len(facts) for facts in by_attempt] == [1, 1, 1]
    assert {fact[1] for fact in SEEN} == {queue.dispatched()[0].task_id}
    assert INSTANCES[0] is INSTANCES[1] is not INSTANCES[2]
    assert INSTANCES[4] is INSTANCES[5]


# -- what user code raises ------------------------------------------------------------------------


@pytest.mark.parametrize("error", list(ERRORS))
@pytest.mark.parametrize("mode", MODES)
def test_whatever_is_raised_is_a_failed_attempt(mode: type[Raises], error: str) -> None:
    with FakeQueue() as queue:
        mode(error).dispatch_sync()
        Fine().dispatch_sync()
        queue.run_until_idle_sync()

    queue.assert_failed(mode, attempts=2)
    queue.assert_completed(Fine)
    assert RAN["execute"] == 2


def test_a_time_limit_cancels_an_async_task() -> None:
    queue = run(Slow())

    queue.assert_failed(Slow, with_=TaskTimeoutError)
    assert RAN["finally"] == 1
    assert queue.clock.elapsed.total_seconds() == 2


def test_a_reject_ends_it_at_once() -> None:
    run(Rejects()).assert_failed(Rejects, with_=Reject, attempts=1)

    assert hooks() == ["execute", "failed"]


def test_a_result_that_can_not_be_kept_fails_loud_and_runs_once() -> None:
    run(KeepsLock()).assert_failed(KeepsLock, with_=UnserializableValue, attempts=1)

    assert RAN["execute"] == 1


# -- bodies ---------------------------------------------------------------------------------------


def left_of(*bodies: bytes, application: Application | None = None) -> list[StoredMessage]:
    """Run these bodies among good tasks; all good ones complete; return what is left."""
    RAN.clear()
    clock = VirtualClock()
    driver = MemoryDriver(clock=clock)
    worker = Worker(
        driver,
        settings=WorkerSettings(application=application or Application(), handle_signals=False, burst=True),
        runtime=SimulatedRuntime(clock=clock, rng=Random(1), name="w"),
    )
    good = [MessageFactory(clock=clock).message(Fine()) for _ in range(2)]
    bad = [Message(id=f"bad-{n}", queue="default", body=body) for n, body in enumerate(bodies)]

    async def program() -> list[StoredMessage]:
        await driver.enqueue([good[0], *bad, good[1]])
        await worker.start()
        return (await driver.list_messages("default")).messages

    left = SimulationLoop(clock=clock).run(program())
    assert RAN["fine"] == 2
    return left


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5))
@example(NOT_OURS)
@example([b"\xc1\x01\x00" + b"\x91" * 5000, b"\xc1\x01\x00\xdd\xff\xff\xff\xff"])
def test_random_bodies_are_dead_letters_and_all_else_runs(bodies: list[bytes]) -> None:
    for message in left_of(*bodies):
        newer = len(message.body) > 1 and message.body[0] == 0xC1 and message.body[1] > 1
        assert message.state is (State.SCHEDULED if newer else State.DEAD)
        assert newer or message.reason is DeadReason.UNDECODABLE


def test_a_body_of_a_newer_version_is_left_for_a_newer_worker() -> None:
    [message] = left_of(b"\xc1\x02whatever")

    assert (message.state, message.attempts, message.crashes) == (State.SCHEDULED, 0, 0)


@pytest.mark.parametrize("text", ["raise ValueError('no')", "raise SystemExit(2)", "1 +", "import no_such_module"])
def test_a_module_that_can_not_be_imported_makes_a_dead_letter(tmp_path: Path, text: str) -> None:
    task = "from asynctasq import AsyncTask\nclass Task(AsyncTask[None]):\n    async def execute(self): ...\n"
    (tmp_path / "broken_module_of_tasks.py").write_text(task + text)
    envelope = decode_envelope(MessageFactory().message(Fine()).body)
    renamed = encode_envelope(replace(envelope, task="broken_module_of_tasks:Task"))
    sys.path.insert(0, str(tmp_path))
    try:
        [message] = left_of(renamed, application=Application((), tmp_path))
    finally:
        sys.path.remove(str(tmp_path))

    assert (message.state, message.reason) == (State.DEAD, DeadReason.UNKNOWN_TASK)
    assert message.error is not None
    assert "can't be imported" in message.error.message
