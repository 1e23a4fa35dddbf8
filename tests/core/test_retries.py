"""How often a task runs and when again: attempts, delays, should_retry, Retry, Snooze and Reject."""

import asyncio
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from asynctasq import Reject, Retry, Snooze
from asynctasq.kernel.ledger import check
from asynctasq.kernel.messages import DeadReason, StoredMessage
from asynctasq.tasks import AsyncProcessTask, AsyncTask, BaseTask, SyncProcessTask, SyncTask
from asynctasq.testing import FakeQueue

ASKED: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_asked() -> None:
    ASKED.clear()


class Fails(AsyncTask[None]):
    retry_delay = 10

    async def execute(self) -> None:
        raise ValueError("no luck")


class FailsBlocking(SyncTask[None]):
    retry_delay = 10

    def execute(self) -> None:
        raise ValueError("no luck")


class FailsInChild(AsyncProcessTask[None]):
    retry_delay = 10

    async def execute(self) -> None:
        raise ValueError("no luck")


class FailsBlockingInChild(SyncProcessTask[None]):
    retry_delay = 10

    def execute(self) -> None:
        raise ValueError("no luck")


FAILING = [Fails, FailsBlocking, FailsInChild, FailsBlockingInChild]


def run(task: BaseTask[Any]) -> FakeQueue:
    with FakeQueue() as queue:
        task.dispatch_sync()
        queue.run_until_idle_sync()
    assert check(queue.ledger) == []
    return queue


def attempts(queue: FakeQueue) -> list[int]:
    [sent] = queue.dispatched()
    return [attempt.number for attempt in queue.history(sent.task_id).attempts]


def dead(task: BaseTask[Any]) -> StoredMessage:
    """Run a task to its dead letter and return that."""

    async def find() -> StoredMessage | None:
        return await queue.driver.find(task_id)  # type: ignore[attr-defined, no-any-return]

    with FakeQueue() as queue:
        task_id = task.dispatch_sync()
        queue.run_until_idle_sync()
        stored = queue._engine.run_sync(find())
    assert stored is not None
    return stored


@pytest.mark.parametrize("kind", FAILING)
@pytest.mark.parametrize(("max_attempts", "runs"), [(0, [1]), (1, [1]), (2, [1, 2]), (3, [1, 2, 3])])
def test_max_attempts_counts_every_run_and_zero_means_once(
    kind: type[BaseTask[Any]], max_attempts: int, runs: list[int]
) -> None:
    queue = run(kind().with_options(max_attempts=max_attempts))

    assert attempts(queue) == runs
    queue.assert_failed(kind, with_=ValueError, attempts=len(runs))


@pytest.mark.parametrize("kind", FAILING)
def test_a_dead_letter_keeps_what_was_raised_and_how_often_it_ran(kind: type[BaseTask[Any]]) -> None:
    stored = dead(kind().with_options(max_attempts=2))

    assert (stored.reason, stored.attempts, stored.crashes) == (DeadReason.FAILED, 2, 0)
    assert stored.error is not None
    assert (stored.error.type, stored.error.message) == ("ValueError", "no luck")
    assert 'raise ValueError("no luck")' in stored.error.traceback


def test_fixed_delays_are_the_classs() -> None:
    run(Fails()).assert_retried_at([10, 20])


def test_a_dispatchs_own_delay_is_kept_at_every_retry() -> None:
    run(Fails().retry_after(1.5).with_options(max_attempts=4)).assert_retried_at([1.5, 3, 4.5])


def test_no_delay_at_all_retries_at_once() -> None:
    run(Fails().retry_after(0)).assert_retried_at([0, 0])


class Listed(Fails):
    retry_delay = [1, timedelta(seconds=10), 100]
    max_attempts = 6


def test_a_list_gives_each_retry_its_delay_and_repeats_the_last() -> None:
    run(Listed()).assert_retried_at([1, 11, 111, 211, 311])


class Exponential(Fails):
    retry_delay = 8
    retry_strategy = "exponential"
    retry_delay_max = 20
    max_attempts = 5


def waits_of(seed: int) -> list[float]:
    with FakeQueue(seed=seed) as queue:
        Exponential().dispatch_sync()
        queue.run_until_idle_sync()
        [sent] = queue.dispatched()
        starts = [0.0, *queue.history(sent.task_id).retried_at_s]
    return [round(later - earlier, 6) for earlier, later in pairwise(starts)]


def test_without_a_seed_exponential_delays_are_the_plain_ones() -> None:
    assert waits_of(seed=0) == [8, 16, 20, 20]


def test_exponential_delays_are_jittered_below_a_growing_and_capped_bound() -> None:
    for seed in range(1, 6):
        waits = waits_of(seed)

        assert all(0 <= wait <= bound for wait, bound in zip(waits, [8, 16, 20, 20], strict=True))
        assert len(set(waits)) == 4


def test_a_delayed_task_starts_when_it_is_due() -> None:
    queue = run(Fails().delay(timedelta(hours=1)).with_options(max_attempts=1))

    [sent] = queue.dispatched()
    assert queue.history(sent.task_id).attempts[0].started_at_s == 3600


# -- should_retry --------------------------------------------------------------------------------


class Asks(Fails):
    def should_retry(self, exception: Exception) -> bool:
        ASKED.append((self.attempt, type(exception), str(exception)))
        return self.attempt < 2


class AsksLater(Fails):
    async def should_retry(self, exception: Exception) -> bool:
        await asyncio.sleep(1)
        ASKED.append((self.attempt, type(exception), str(exception)))
        return self.attempt < 2


class AsksInChild(FailsBlockingInChild):
    def should_retry(self, exception: Exception) -> bool:
        ASKED.append((self.attempt, type(exception), str(exception)))
        return self.attempt < 2


class AsksInThread(FailsBlocking):
    async def should_retry(self, exception: Exception) -> bool:
        ASKED.append((self.attempt, type(exception), str(exception)))
        return self.attempt < 2


@pytest.mark.parametrize("kind", [Asks, AsksLater, AsksInChild, AsksInThread])
def test_should_retry_decides_and_may_be_async(kind: type[BaseTask[Any]]) -> None:
    queue = run(kind().with_options(max_attempts=5))

    assert [(1, ValueError, "no luck"), (2, ValueError, "no luck")] == ASKED
    queue.assert_failed(kind, attempts=2)


@pytest.mark.parametrize(("max_attempts", "asked"), [(0, 0), (1, 0), (2, 1)])
def test_should_retry_is_asked_only_while_attempts_remain(max_attempts: int, asked: int) -> None:
    run(Asks().with_options(max_attempts=max_attempts))

    assert len(ASKED) == asked


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt, asyncio.CancelledError, StopIteration])
def test_a_should_retry_that_raises_means_yes_and_is_told(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    class Breaks(Fails):
        def should_retry(self, exception: Exception) -> bool:
            raise error("broken hook")

    queue = run(Breaks())

    assert attempts(queue) == [1, 2, 3]
    assert caplog.text.count("should_retry of") == 2
    [sent] = queue.dispatched()
    assert queue.history(sent.task_id).hooks[0] == f"should_retry raised {error.__name__}"


def test_a_should_retry_that_hangs_means_yes_after_its_time_limit(caplog: pytest.LogCaptureFixture) -> None:
    class Hangs(Fails):
        async def should_retry(self, exception: Exception) -> bool:
            await asyncio.sleep(10_000)
            return False

    run(Hangs().with_options(max_attempts=2)).assert_retried_at([40])
    assert "TimeoutError" in caplog.text


# -- signals -------------------------------------------------------------------------------------


class Signals(AsyncTask[None]):
    """Raises what the module's SIGNALS say, one an attempt, then completes."""

    retry_delay = 10
    max_attempts = 3

    def should_retry(self, exception: Exception) -> bool:
        ASKED.append(exception)
        return False

    async def execute(self) -> None:
        if SIGNALS:
            raise SIGNALS.pop(0)


class SignalsInThread(SyncTask[None]):
    retry_delay = 10
    max_attempts = 3

    def execute(self) -> None:
        if SIGNALS:
            raise SIGNALS.pop(0)


class SignalsInChild(SyncProcessTask[None]):
    retry_delay = 10
    max_attempts = 3

    def execute(self) -> None:
        if SIGNALS:
            raise SIGNALS.pop(0)


SIGNALS: list[Exception] = []
SIGNALLING = [Signals, SignalsInThread, SignalsInChild]


@pytest.mark.parametrize("kind", SIGNALLING)
def test_retry_runs_again_after_its_own_delay_without_asking(kind: type[BaseTask[Any]]) -> None:
    SIGNALS[:] = [Retry("busy", after=3), Retry("busy")]

    queue = run(kind())

    queue.assert_retried_at([3, 13])
    queue.assert_completed(kind)
    assert ASKED == []


@pytest.mark.parametrize("kind", SIGNALLING)
def test_retry_counts_and_ends_as_a_dead_letter(kind: type[BaseTask[Any]]) -> None:
    SIGNALS[:] = [Retry("busy", after=1) for _ in range(9)]

    run(kind()).assert_failed(kind, with_=Retry, attempts=3)


@pytest.mark.parametrize("kind", SIGNALLING)
def test_snooze_runs_again_later_and_is_not_counted(kind: type[BaseTask[Any]]) -> None:
    SIGNALS[:] = [Snooze(5) for _ in range(10)]

    queue = run(kind())

    assert attempts(queue) == [1] * 11
    queue.assert_retried_at([5.0 * number for number in range(1, 11)])
    queue.assert_completed(kind)


@pytest.mark.parametrize("kind", SIGNALLING)
def test_reject_gives_up_at_once(kind: type[BaseTask[Any]]) -> None:
    SIGNALS[:] = [Reject("never")]

    stored = dead(kind())

    assert (stored.reason, stored.attempts) == (DeadReason.REJECTED, 1)
    assert stored.error is not None
    assert stored.error.message == "never"


@pytest.mark.parametrize("signal", [Retry("x", after=-5), Snooze(-5)])
def test_a_signal_with_a_delay_in_the_past_means_at_once(signal: Exception) -> None:
    SIGNALS[:] = [signal]

    run(Signals()).assert_retried_at([0])


@pytest.mark.parametrize("delay_s", [float("nan"), float("inf"), 1e300, "5", None.__class__, True, timedelta.max])
def test_an_impossible_delay_is_an_error_of_the_task_that_made_the_signal(delay_s: Any) -> None:
    with pytest.raises(ValueError, match="must be a number of seconds or a timedelta, a hundred years at most"):
        Snooze(delay_s)
    with pytest.raises(ValueError, match="must be a number of seconds or a timedelta, a hundred years at most"):
        Retry(after=delay_s)
