"""Attempts, retries and crashes as a FakeQueue counts them, and work that nobody will ever do."""

import pytest

from asynctasq.tasks import AsyncTask, task
from asynctasq.testing import Crash, FakeQueue, NotIdle
from tests.testing.simulation.failing import failure


class Bad(AsyncTask[None]):
    max_attempts = 3
    retry_delay = 60

    async def execute(self) -> None:
        raise ValueError("no")


class Once(AsyncTask[None]):
    max_attempts = 1

    async def execute(self) -> None:
        raise ValueError("no")


@task
async def note(name: str) -> None:
    return None


# -- crashes are no attempts -----------------------------------------------------------------------


def test_a_crash_is_no_attempt_and_what_runs_after_it_is_no_retry() -> None:
    with FakeQueue(faults=Crash(at="before_settle", task=Bad, attempt=1)) as queue:
        task_id = Bad().dispatch_sync()
        queue.run_until_idle_sync()

    history = queue.history(task_id)
    assert [attempt.number for attempt in history.attempts] == [1, 1, 2, 3]
    assert history.attempts_made == 3
    queue.assert_failed(Bad, attempts=3)
    failure(queue.assert_failed, Bad, attempts=4)
    queue.assert_retried_at([90, 150])
    assert history.retried_at_s == [90.0, 150.0]


def test_a_retry_that_crashed_was_made_when_it_first_ran() -> None:
    with FakeQueue(faults=Crash(at="before_settle", task=Bad, attempt=2)) as queue:
        Bad().dispatch_sync()
        queue.run_until_idle_sync()

    queue.assert_retried_at([60, 150])


def test_where_only_a_crash_repeated_a_task_nothing_was_retried() -> None:
    with FakeQueue(faults=Crash(at="before_settle", task=note)) as queue:
        note.dispatch_sync("a")
        queue.run_until_idle_sync()

    queue.assert_retried_at([], task=note)


def test_what_was_dispatched_and_never_ran_made_no_attempt(queue: FakeQueue) -> None:
    assert queue.history(Bad().dispatch_sync()).attempts_made == 0


async def test_attempts_begin_anew_when_a_dead_letter_is_driven_again(queue: FakeQueue) -> None:
    task_id = await Bad().dispatch()
    await queue.run_until_idle()
    await queue.advance(seconds=80)
    await queue.driver.redrive("default", limit=1)
    await queue.run_due()

    history = queue.history(task_id)
    assert [attempt.number for attempt in history.attempts] == [1, 2, 3, 1]
    assert history.attempts_made == 1
    assert history.retried_at_s == [60.0, 120.0]

    await queue.advance(seconds=60)
    assert history.retried_at_s == [60.0, 120.0]
    assert queue.history(task_id).retried_at_s == [60.0, 120.0, 260.0]


async def test_a_dead_letter_driven_again_is_no_retry(queue: FakeQueue) -> None:
    task_id = await Once().dispatch()
    await queue.run_until_idle()
    await queue.driver.redrive("default", limit=1)
    await queue.run_until_idle()

    assert queue.history(task_id).retried_at_s == []
    queue.assert_failed(Once, attempts=1)


# -- one dispatch by its id ------------------------------------------------------------------------


def test_of_two_dispatches_each_is_named_by_its_id(queue: FakeQueue) -> None:
    first, second = Bad().dispatch_sync(), Bad().dispatch_sync()
    queue.run_until_idle_sync()

    queue.assert_retried_at([60, 120], task=first)
    assert "expected retries at [60] s" in failure(queue.assert_retried_at, [60], task=second)
    text = failure(queue.assert_retried_at, [60, 120], task=Bad)
    assert "2 dispatches of Bad were retried; say which by its id, task=TASK_ID" in text
    assert first in text
    assert second in text


def test_the_other_assertions_take_an_id_too(queue: FakeQueue) -> None:
    bad, good, waiting = Bad().dispatch_sync(), note.dispatch_sync("a"), note("b").delay(9_999).dispatch_sync()
    queue.advance_sync(minutes=5)

    queue.assert_completed(good)
    queue.assert_failed(bad, with_=ValueError, attempts=3)
    queue.assert_failed_hook(bad, times=1)
    assert f"expected task {waiting} to complete; 0 did" in failure(queue.assert_completed, waiting)


def test_an_id_that_nothing_has_is_told_of(queue: FakeQueue) -> None:
    with pytest.raises(KeyError, match="no task 'x' was dispatched here"):
        queue.assert_retried_at([], task="x")


# -- queues that nobody serves ---------------------------------------------------------------------


async def test_work_that_no_worker_serves_is_not_idle() -> None:
    async with FakeQueue(queues="default") as queue:
        await note.dispatch("a")
        await note("b").on_queue("emails").dispatch()

        with pytest.raises(NotIdle, match=r"no worker of this FakeQueue serves .*\(1 on 'emails'\).*queues='default'"):
            await queue.run_until_idle()

        queue.assert_completed(note, times=1)
        with pytest.raises(NotIdle, match="1 on 'emails'"):
            await queue.run_until_idle()


def test_drain_and_run_due_leave_alone_what_no_worker_serves() -> None:
    with FakeQueue(queues="default") as queue:
        note("b").on_queue("emails").dispatch_sync()

        assert queue.run_due_sync().succeeded == 0
        assert queue.drain_sync(scheduled=True).succeeded == 0


def test_a_strict_queue_says_which_queues_nobody_served() -> None:
    def leave_one() -> None:
        with FakeQueue(queues="default", strict=True) as queue:
            note("b").on_queue("emails").dispatch_sync()
            queue.run_due_sync()

    assert "no worker of this FakeQueue serves 'emails' (queues='default')" in failure(leave_one)
