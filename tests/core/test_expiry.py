"""A message that is too old starts no attempt: judged at exact instants, by the driver's clock, told once."""

import asyncio
import logging
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from asynctasq import AsyncProcessTask, AsyncTask, Retry, Snooze, SyncProcessTask, SyncTask, current_task, task
from asynctasq.core.task_factory import TaskFactory
from asynctasq.errors import DispatchError, TaskDefinitionError, TaskExpiredError, WorkerCrashedError
from asynctasq.kernel.ledger import Kind, check
from asynctasq.kernel.messages import DeadReason, Message, StoredMessage
from asynctasq.tasks import BaseTask
from asynctasq.tasks.definition import options_of
from asynctasq.tasks.options import Duration
from asynctasq.testing import Crash, FakeQueue, Simulation, SkewClock, simulate

HOUR_S = 3600
RAN: list[str] = []
TOLD: list[BaseException] = []


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()
    TOLD.clear()


class Price(AsyncTask[None]):
    expires: ClassVar[Duration | None] = 60

    async def execute(self) -> None:
        RAN.append(self.task_id)

    async def failed(self, exception: Exception) -> None:
        TOLD.append(exception)


class InThread(SyncTask[None]):
    expires = timedelta(minutes=1)

    def execute(self) -> None: ...

    def failed(self, exception: Exception) -> None:
        TOLD.append(exception)


class InLoopOfChild(AsyncProcessTask[None]):
    expires = 60

    async def execute(self) -> None: ...

    def failed(self, exception: Exception) -> None:
        TOLD.append(exception)


class InChild(SyncProcessTask[None]):
    expires = 60

    def execute(self) -> None: ...

    async def failed(self, exception: Exception) -> None:
        TOLD.append(exception)


KINDS: list[type[BaseTask[Any]]] = [Price, InThread, InLoopOfChild, InChild]


def waited(built: BaseTask[Any], seconds: float, **choices: Any) -> FakeQueue:
    """Dispatch a task, start workers only after so long, and return the queue, idle."""
    with FakeQueue(**choices) as queue:
        built.dispatch_sync()
        advance(queue, seconds)
        queue.run_until_idle_sync()
        assert check(queue.ledger) == []
    return queue


def advance(queue: FakeQueue, seconds: float) -> None:
    """Let time pass in which no worker looks."""
    queue._engine.run_sync(queue._engine.waits.until_clock(queue.clock.monotonic() + seconds))


def stored_of(queue: FakeQueue) -> StoredMessage:
    async def find() -> StoredMessage | None:
        return await queue.driver.find(queue.dispatched()[0].task_id)  # type: ignore[attr-defined, no-any-return]

    stored = queue._engine.run_sync(find())
    assert stored is not None
    return stored


@pytest.mark.parametrize("kind", KINDS)
def test_an_attempt_may_start_until_the_last_microsecond(kind: type[BaseTask[Any]]) -> None:
    queue = waited(kind(), 59.999999)

    queue.assert_completed(kind)
    assert TOLD == []


@pytest.mark.parametrize("kind", KINDS)
def test_at_its_expiry_a_message_is_a_dead_letter_and_failed_is_told_once(kind: type[BaseTask[Any]]) -> None:
    queue = waited(kind(), 60)

    queue.assert_expired(kind, times=1)
    queue.assert_failed_hook(kind)
    [told] = TOLD
    assert isinstance(told, TaskExpiredError)
    assert f"{kind.__qualname__} has expired: 60 s after its dispatch attempt 1 had not started" in str(told)
    assert RAN == []


def test_a_dead_letter_that_expired_says_so_and_counts_no_attempt() -> None:
    with FakeQueue() as queue:
        Price().dispatch_sync()
        advance(queue, 60)
        queue.run_until_idle_sync()

        stored = stored_of(queue)

    assert (stored.reason, stored.attempts, stored.crashes) == (DeadReason.EXPIRED, 0, 0)
    assert stored.error is not None
    assert stored.error.type.endswith("TaskExpiredError")


def test_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="asynctasq"):
        queue = waited(Price(), 60)

    assert f"message {queue.dispatched()[0].task_id} becomes a dead letter: " in caplog.text
    assert "Price has expired" in caplog.text


class Retried(Price):
    retry_delay = 25
    max_attempts = 9

    async def execute(self) -> None:
        RAN.append(self.task_id)
        raise ConnectionError


def test_a_retry_that_would_come_too_late_expires() -> None:
    queue = waited(Retried(), 0)

    queue.assert_retried_at([25, 50])
    queue.assert_expired(Retried)
    queue.assert_failed(Retried, with_=TaskExpiredError, attempts=3)
    assert [type(error) for error in TOLD] == [TaskExpiredError]
    assert queue.clock.elapsed == timedelta(seconds=75)
    assert "attempt 4 had not started" in str(TOLD[0])


class Says(Price):
    def __init__(self, what: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.what = what

    async def execute(self) -> None:
        RAN.append(self.what)
        raise Retry(after=60) if self.what == "retry" else Snooze(60)


@pytest.mark.parametrize("what", ["retry", "snooze"])
def test_what_a_task_asks_for_expires_as_well(what: str) -> None:
    queue = waited(Says(what), 0)

    queue.assert_expired(Says)
    assert [what] == RAN


class Long(Price):
    async def execute(self) -> None:
        await asyncio.sleep(HOUR_S)


def test_a_running_attempt_is_not_cut() -> None:
    queue = waited(Long(), 59)

    queue.assert_completed(Long)


def test_what_crashed_and_has_expired_meanwhile_runs_no_more() -> None:
    with FakeQueue(faults=Crash(at="mid_attempt", task=Long)) as queue:
        Long().with_options(expires=20).dispatch_sync()

        queue.run_until_idle_sync()

    queue.assert_expired(Long)
    assert [type(error) for error in TOLD] == [TaskExpiredError]


def test_what_crashed_too_often_is_given_up_as_such() -> None:
    with FakeQueue(faults=Crash(at="mid_attempt", task=Long)) as queue:
        Long().with_options(expires=20, max_crashes=1).dispatch_sync()

        queue.run_until_idle_sync()

    assert [type(error) for error in TOLD] == [WorkerCrashedError]


@pytest.mark.parametrize("wrong_s", [-HOUR_S, HOUR_S])
def test_a_worker_whose_clock_is_wrong_decides_rightly(wrong_s: float) -> None:
    skew = SkewClock(worker="w1", seconds=wrong_s)

    young, old = waited(Price(), 59.999999, faults=skew), waited(Price(), 60, faults=skew)

    young.assert_completed(Price)
    old.assert_expired(Price)


def test_a_message_whose_task_is_unknown_expires_all_the_same() -> None:
    with FakeQueue() as queue:
        body = _renamed(queue)
        queue._engine.run_sync(queue.driver.enqueue([Message(id="m", queue="default", body=body)]))
        advance(queue, 60)

        queue.run_until_idle_sync()

        assert [entry.detail for entry in queue.ledger if entry.kind is Kind.SETTLED] == ["bury: expired"]
        assert TOLD == []


def _renamed(queue: FakeQueue) -> bytes:
    from dataclasses import replace

    from asynctasq.codec.envelope import decode_envelope, encode_envelope
    from asynctasq.queue import MessageFactory

    envelope = decode_envelope(MessageFactory(clock=queue.clock).message(Price()).body)
    return encode_envelope(replace(envelope, task="asynctasq.nowhere:Price"))


def test_a_redriven_message_has_all_its_time_again() -> None:
    with FakeQueue() as queue:
        Price().dispatch_sync()
        advance(queue, 60)
        queue.run_until_idle_sync()
        queue.assert_expired(Price)
        advance(queue, HOUR_S)

        queue._engine.run_sync(queue.driver.redrive("default", limit=1))
        advance(queue, 59)
        queue.run_until_idle_sync()

        queue.assert_completed(Price)


class AlwaysLate(Price):
    pass


def test_the_time_that_an_import_takes_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    find = TaskFactory.find

    async def find_slowly(self: TaskFactory, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(5)
        return await find(self, *args, **kwargs)

    monkeypatch.setattr(TaskFactory, "find", find_slowly)
    with FakeQueue() as queue:
        Price().with_options(expires=5).dispatch_sync()
        AlwaysLate().with_options(expires=5.000001).dispatch_sync()

        queue.run_until_idle_sync()

        queue.assert_expired(Price)
        queue.assert_completed(AlwaysLate)


@simulate(runs=20, faults=SkewClock(worker="w1", seconds=7200))
async def test_a_simulation_honours_it_under_any_schedule(sim: Simulation) -> None:
    young = await Price().delay(59.999999).dispatch()
    late = await Retried().dispatch()

    await sim.settle()

    sim.queue.assert_completed(young)
    sim.queue.assert_expired(late)


# -- where it is written -----------------------------------------------------------------------------


@pytest.mark.parametrize("expires", [0, -1, timedelta(0), "soon", True, float("nan"), 1e10])
def test_an_expiry_that_could_not_work_is_refused_when_the_class_is_made(expires: Any) -> None:
    with pytest.raises(TaskDefinitionError, match="expires must be"):
        task(expires=expires)(function)


async def function() -> None:
    RAN.append(current_task().task_id)


def test_no_expiry_is_what_zero_is_not() -> None:
    with pytest.raises(
        TaskDefinitionError, match=r"more than 0 seconds, not 0; a task that never expires has expires ="
    ):
        task(expires=0)(function)


def test_a_function_and_one_dispatch_may_expire() -> None:
    made = task(expires=timedelta(minutes=2))(function)

    assert options_of(made()).expires_s == 120.0
    assert options_of(made().with_options(expires=5)).expires_s == 5.0
    assert options_of(made().with_options(max_attempts=5)).expires_s == 120.0


@pytest.mark.parametrize(("delay_s", "expires_s"), [(60, 60), (61, 60), (1e-6, 1e-7)])
def test_a_delay_that_is_not_shorter_is_refused_at_the_dispatch(delay_s: float, expires_s: float) -> None:
    with FakeQueue() as queue:
        with pytest.raises(DispatchError, match="so it could never run; give it a longer `expires` or a shorter delay"):
            Price().with_options(expires=expires_s).delay(delay_s).dispatch_sync()

        queue.assert_nothing_dispatched()


def test_a_shorter_delay_is_part_of_its_time() -> None:
    queue = waited(Price().delay(59.999999), 0)

    queue.assert_completed(Price)


# -- what a test reads -------------------------------------------------------------------------------


def test_a_drain_counts_what_expired_apart_from_what_failed() -> None:
    with FakeQueue() as queue:
        Price().dispatch_sync()
        advance(queue, 60)

        result = queue.drain_sync()

    assert (result.expired, result.failed, result.succeeded) == (1, 0, 0)


def test_the_history_of_an_expired_task_reads_well() -> None:
    queue = waited(Retried(), 0)

    [sent] = queue.dispatched()
    history = queue.history(sent.task_id)
    assert (history.expired, history.failed, history.completed) == (True, True, False)
    assert isinstance(history.exception, TaskExpiredError)
    lines = str(history).splitlines()
    assert lines[0].endswith("bury: expired")
    assert lines[-1] == "  expired before attempt 4 could start hooks: failed"


def test_an_assertion_on_what_did_not_expire_shows_what_it_did() -> None:
    queue = waited(Price(), 0)

    with pytest.raises(AssertionError, match=r"expected Price to expire; 0 did\n.*complete"):
        queue.assert_expired(Price)


def test_perform_never_expires() -> None:
    with FakeQueue() as queue:
        assert queue.perform_sync(Price().with_options(expires=1e-6)).completed
