"""What a FakeQueue runs, when, with what counts, and what can be asserted of it."""

import asyncio
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from asynctasq.errors import Reject, Snooze
from asynctasq.kernel.messages import Complete
from asynctasq.tasks import AsyncTask, SyncProcessTask, SyncTask, task
from asynctasq.testing import FakeQueue, NotIdle
from tests.testing.simulation.failing import failure

RAN: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


@task
async def note(name: str) -> str:
    RAN.append(name)
    return name.upper()


@task
async def note_after(name: str, seconds: float) -> None:
    await asyncio.sleep(seconds)
    RAN.append(name)


class Flaky(AsyncTask[str]):
    """Fails `failures` times, then succeeds."""

    retry_delay = (60, 120)

    def __init__(self, failures: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.failures = failures

    async def execute(self) -> str:
        RAN.append(self.attempt)
        if self.attempt <= self.failures:
            raise ValueError(f"failure {self.attempt}")
        return "done"

    async def failed(self, exception: Exception) -> None:
        RAN.append("failed")


class Hourly(Flaky):
    max_attempts = 100
    retry_delay = 3600


class Parent(AsyncTask[None]):
    async def execute(self) -> None:
        RAN.append("parent")
        await note.dispatch("child")


class Endless(AsyncTask[None]):
    async def execute(self) -> None:
        raise Snooze(3600)


class Thread(SyncTask[int]):
    def execute(self) -> int:
        RAN.append("thread")
        note.dispatch_sync("from a thread")
        return 1


class Doubled(SyncProcessTask[int]):
    number: int

    def __init__(self, number: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.number = number

    def execute(self) -> int:
        return 2 * self.number


class Child(SyncProcessTask[None]):
    def __init__(self, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path

    def execute(self) -> None:
        Path(self.path).write_text(str(os.getpid()))


@task
async def wall() -> None:
    RAN.append(datetime.now(UTC))


# -- run_due, advance, run_until_idle --------------------------------------------------------------


async def test_run_due_runs_what_is_due_and_nothing_else(queue: FakeQueue) -> None:
    await note.dispatch("now")
    await note("later").delay(10).dispatch()

    result = await queue.run_due()

    assert RAN == ["now"]
    assert (result.succeeded, result.virtual_elapsed) == (1, timedelta())


async def test_run_due_runs_what_tasks_dispatch_meanwhile(queue: FakeQueue) -> None:
    await Parent().dispatch()

    result = await queue.run_due()

    assert RAN == ["parent", "child"]
    assert result.succeeded == 2
    queue.assert_dispatched(note, name="child")


async def test_run_due_moves_the_clock_as_far_as_tasks_sleep(queue: FakeQueue) -> None:
    await note_after.dispatch("slept", 7)

    result = await queue.run_due()

    assert result.virtual_elapsed == timedelta(seconds=7)


async def test_run_due_collects_errors_and_raises_none(queue: FakeQueue) -> None:
    await Flaky(1).dispatch()

    result = await queue.run_due()

    assert [str(error) for error in result.errors] == ["failure 1"]
    assert result.retried == 1


async def test_advance_runs_each_at_its_instant(queue: FakeQueue) -> None:
    first = await note("a").delay(60).dispatch()
    second = await note("b").delay(120).dispatch()

    result = await queue.advance(minutes=2)

    assert [queue.history(i).attempts[0].started_at_s for i in (first, second)] == [60.0, 120.0]
    assert result.virtual_elapsed == timedelta(minutes=2)


async def test_advance_stops_short_of_what_is_due_a_microsecond_later(queue: FakeQueue) -> None:
    await note("a").delay(60).dispatch()

    await queue.advance(timedelta(seconds=60) - timedelta(microseconds=1))
    assert RAN == []

    await queue.advance(timedelta(microseconds=1))
    assert RAN == ["a"]


async def test_advance_adds_its_units_up(queue: FakeQueue) -> None:
    await queue.advance(timedelta(seconds=1), seconds=1, minutes=1, hours=1, days=1)

    assert queue.clock.elapsed == timedelta(days=1, hours=1, minutes=1, seconds=2)


async def test_advance_never_goes_back(queue: FakeQueue) -> None:
    with pytest.raises(ValueError, match="never goes back"):
        await queue.advance(seconds=-1)


async def test_a_task_may_be_left_in_the_middle_by_advance_and_goes_on_with_the_next(queue: FakeQueue) -> None:
    await note_after.dispatch("slow", 10)

    await queue.advance(seconds=4)
    assert RAN == []

    await queue.advance(seconds=6)
    assert RAN == ["slow"]


async def test_run_until_idle_jumps_to_the_end(queue: FakeQueue) -> None:
    await Flaky(2).dispatch()
    await note("next week").delay(timedelta(days=7)).dispatch()

    result = await queue.run_until_idle()

    assert RAN == [1, 2, 3, "next week"]
    assert result.virtual_elapsed == timedelta(days=7)


async def test_run_until_idle_is_bounded_and_says_what_is_left(queue: FakeQueue) -> None:
    await Endless().dispatch()

    with pytest.raises(NotIdle, match=r"not idle after 86400 virtual seconds; still to do:\n.*Endless"):
        await queue.run_until_idle(virtual_s_max=86_400)


def test_a_retry_takes_few_steps_of_the_loop(queue: FakeQueue) -> None:
    """Else a year of hourly retries takes long: due, found, told, taken, run, settled, seen."""

    def steps(failures: int) -> int:
        before = queue._engine.loop.steps
        Hourly(failures).dispatch_sync()
        queue.run_until_idle_sync()
        return queue._engine.loop.steps - before

    assert (steps(30) - steps(10)) / 20 <= 7


async def test_an_idle_queue_is_idle_at_once(queue: FakeQueue) -> None:
    assert (await queue.run_until_idle()).virtual_elapsed == timedelta()


async def test_dead_letters_are_no_work(queue: FakeQueue) -> None:
    await Flaky(9).dispatch()

    result = await queue.run_until_idle()

    assert (result.retried, result.failed, result.succeeded) == (2, 1, 0)


# -- drain -----------------------------------------------------------------------------------------


async def test_drain_raises_the_first_error_with_a_note_on_where(queue: FakeQueue) -> None:
    task_id = await Flaky(9).dispatch()
    await note.dispatch("all run first")

    with pytest.raises(ValueError, match="failure 1") as caught:
        await queue.drain()

    assert caught.value.__notes__ == [f"raised by task {task_id}, attempt 1, at virtual second 0"]
    assert "all run first" in RAN


async def test_drain_collects_errors_when_told_to(queue: FakeQueue) -> None:
    await Flaky(9).dispatch()

    result = await queue.drain(errors="collect")

    assert [str(error) for error in result.errors] == ["failure 1"]


async def test_drain_limit_counts_attempts(queue: FakeQueue) -> None:
    for name in "abc":
        await note.dispatch(name)

    assert (await queue.drain(limit=2)).succeeded == 2
    assert (await queue.drain(limit=2)).succeeded == 1


async def test_drain_without_recursion_leaves_what_is_dispatched_meanwhile(queue: FakeQueue) -> None:
    await Parent().dispatch()

    assert (await queue.drain(recursion=False)).succeeded == 1
    assert RAN == ["parent"]
    assert (await queue.drain()).succeeded == 1
    assert RAN == ["parent", "child"]


@pytest.mark.parametrize(
    ("scheduled", "ran"),
    [
        (False, ["now"]),
        (timedelta(minutes=1), ["now", "minute"]),
        (True, ["now", "minute", "day"]),
    ],
)
async def test_drain_scheduled_says_how_far(queue: FakeQueue, scheduled: bool | timedelta, ran: list[str]) -> None:
    await note("day").delay(timedelta(days=1)).dispatch()
    await note("minute").delay(60).dispatch()
    await note.dispatch("now")

    result = await queue.drain(scheduled=scheduled)

    assert ran == RAN
    assert result.succeeded == len(ran)


async def test_drain_retries_due_leaves_those_of_the_future(queue: FakeQueue) -> None:
    await Flaky(1).dispatch()

    assert (await queue.drain(errors="collect")).retried == 1
    assert queue.clock.elapsed == timedelta()
    assert (await queue.drain(scheduled=True)).succeeded == 1


async def test_drain_retries_never_leaves_them_even_if_they_come_due(queue: FakeQueue) -> None:
    await Flaky(1).dispatch()

    await queue.drain(scheduled=timedelta(hours=1), retries="never", errors="collect")
    assert RAN == [1]

    await queue.run_due()
    assert RAN == [1, 2]


async def test_drain_retries_all_runs_them_and_leaves_scheduled_work(queue: FakeQueue) -> None:
    await Flaky(2).dispatch()
    await note("day").delay(timedelta(seconds=5)).dispatch()

    result = await queue.drain(retries="all", errors="collect")

    assert (result.retried, result.succeeded) == (2, 1)
    assert RAN == [1, 2, 3]


async def test_drain_counts_every_way_an_attempt_may_end(queue: FakeQueue) -> None:
    @task
    async def snooze_once() -> None:
        if "snoozed" not in RAN:
            RAN.append("snoozed")
            raise Snooze(5)

    @task
    async def reject() -> None:
        raise Reject("no use")

    await snooze_once.dispatch()
    await reject.dispatch()
    await Flaky(1).dispatch()

    result = await queue.drain(scheduled=True, errors="collect")

    counts = (result.succeeded, result.retried, result.failed, result.snoozed, result.crashed, result.handed_back)
    assert counts == (2, 1, 1, 1, 0, 0)


# -- perform ---------------------------------------------------------------------------------------


async def test_perform_runs_one_task_without_the_queue(queue: FakeQueue) -> None:
    performed = await queue.perform(note("a"))

    assert (performed.value, performed.completed) == ("A", True)
    queue.assert_nothing_dispatched()


@pytest.mark.parametrize("real_executors", [False, True])
def test_perform_gives_what_a_process_task_returned_though_nobody_keeps_it(real_executors: bool) -> None:
    with FakeQueue(real_executors=real_executors) as queue:
        performed = queue.perform_sync(Doubled(21))

    assert performed.value == 42
    assert performed.settlement == Complete()


async def test_perform_knows_its_attempt_and_when_it_would_run_again(queue: FakeQueue) -> None:
    performed = await queue.perform(Flaky(9), attempt=2)

    assert RAN == [2]
    assert isinstance(performed.exception, ValueError)
    assert performed.retry_in_s == 120.0
    assert not performed.failed


async def test_perform_calls_the_failed_hook_at_the_last_attempt(queue: FakeQueue) -> None:
    performed = await queue.perform(Flaky(9), attempt=3)

    assert performed.failed
    assert performed.retry_in_s is None
    assert RAN == [3, "failed"]


async def test_what_a_performed_task_dispatches_is_recorded(queue: FakeQueue) -> None:
    await queue.perform(Parent())

    queue.assert_dispatched(note, name="child", times=1)


# -- the sync twins --------------------------------------------------------------------------------


def test_every_way_to_run_has_a_sync_twin(queue: FakeQueue) -> None:
    note.dispatch_sync("due")
    assert queue.run_due_sync().succeeded == 1

    note("later").delay(60).dispatch_sync()
    assert queue.advance_sync(minutes=1).succeeded == 1

    Flaky(1).dispatch_sync()
    assert queue.run_until_idle_sync().succeeded == 1

    note("tomorrow").delay(timedelta(days=1)).dispatch_sync()
    assert queue.drain_sync(scheduled=True).succeeded == 1

    assert queue.perform_sync(note("alone")).value == "ALONE"


async def test_a_sync_twin_works_inside_a_foreign_running_loop(queue: FakeQueue) -> None:
    await note.dispatch("a")

    queue.run_due_sync()

    assert RAN == ["a"]
    assert asyncio.get_running_loop().time() > 0


def test_a_sync_twin_is_refused_inside_a_running_simulation(queue: FakeQueue) -> None:
    @task
    async def meddle() -> None:
        queue.run_due_sync()

    meddle.dispatch_sync()

    assert "await the method without _sync" in str(queue.run_due_sync().errors[0])


# -- history, timeline, assertions -----------------------------------------------------------------


async def test_history_tells_attempts_times_outcomes_exceptions_and_hooks(queue: FakeQueue) -> None:
    task_id = await Flaky(9).dispatch()
    await queue.run_until_idle()

    history = queue.history(task_id)

    assert [attempt.number for attempt in history.attempts] == [1, 2, 3]
    assert [attempt.started_at_s for attempt in history.attempts] == [0.0, 60.0, 180.0]
    assert [attempt.outcome for attempt in history.attempts] == ["failed"] * 3
    assert [attempt.settlement for attempt in history.attempts] == ["retry", "retry", "bury: failed"]
    assert [str(attempt.exception) for attempt in history.attempts] == [f"failure {n}" for n in (1, 2, 3)]
    assert history.attempts[2].hooks == ["failed"]
    assert (history.failed, history.completed) == (True, False)


def test_there_is_no_history_of_what_was_never_dispatched(queue: FakeQueue) -> None:
    with pytest.raises(KeyError, match="no task 'x' was dispatched here"):
        queue.history("x")


async def test_the_timeline_is_text_in_virtual_seconds(queue: FakeQueue) -> None:
    task_id = await Flaky(1).dispatch()
    await queue.run_until_idle()

    lines = queue.timeline().splitlines()

    assert lines[0].split() == ["0.000000", task_id[:8], "dispatched", f"{__name__}:Flaky"]
    assert any("60.000000 w1" in line and "attempt 2 started" in line for line in lines)


async def test_assert_completed_counts(queue: FakeQueue) -> None:
    await note.dispatch("a")
    assert "0 did" in failure(queue.assert_completed, note)
    await note.dispatch("b")
    await queue.run_due()

    queue.assert_completed(note)
    queue.assert_completed(note, times=2)
    assert "to complete 1 times; 2 did" in failure(queue.assert_completed, note, times=1)


async def test_assert_failed_looks_at_exception_and_attempts(queue: FakeQueue) -> None:
    await Flaky(9).dispatch()
    failure(queue.assert_failed, Flaky)
    await queue.run_until_idle()

    queue.assert_failed(Flaky, with_=ValueError, attempts=3)
    assert "with KeyError" in failure(queue.assert_failed, Flaky, with_=KeyError)
    text = failure(queue.assert_failed, Flaky, attempts=2)
    assert "after 2 attempts" in text
    assert "attempt 3 at 180s on w1: failed ValueError('failure 3') hooks: failed" in text


async def test_assert_retried_at_is_in_seconds_since_the_dispatch(queue: FakeQueue) -> None:
    await queue.advance(minutes=10)
    await Flaky(2).dispatch()
    await note.dispatch("not retried")
    await queue.run_until_idle()

    queue.assert_retried_at([60, 180])
    queue.assert_retried_at([60, 180], task=Flaky)
    queue.assert_retried_at([], task=note)
    assert "they were at [60.0, 180.0]" in failure(queue.assert_retried_at, [60])


async def test_assert_retried_at_asks_which_if_several_were(queue: FakeQueue) -> None:
    await Flaky(1).dispatch()
    await Flaky(2).dispatch()
    await queue.run_until_idle()

    assert "2 tasks were retried; say which with task=" in failure(queue.assert_retried_at, [60])


async def test_assert_failed_hook_counts_over_all_dispatches(queue: FakeQueue) -> None:
    await Flaky(9).dispatch()
    await Flaky(9).dispatch()
    await Flaky(1).dispatch()
    await queue.run_until_idle()

    queue.assert_failed_hook(Flaky, times=2)
    assert "to run 1 times; it ran 2 times" in failure(queue.assert_failed_hook, Flaky)


# -- queues, workers, executors, wall clock --------------------------------------------------------


def test_all_queues_are_served_unless_told() -> None:
    with FakeQueue() as queue:
        note("a").on_queue("one").dispatch_sync()
        note("b").on_queue("two").dispatch_sync()
        queue.run_due_sync()

    assert RAN == ["a", "b"]


def test_only_the_named_queues_are_served_in_their_order() -> None:
    with FakeQueue(queues="high,low", concurrency=1) as queue:
        for name in ("low", "other", "high"):
            note(name).on_queue(name).dispatch_sync()
        queue.drain_sync(scheduled=True)

        queue.assert_not_dispatched(note, ever=False, name="low")

    assert RAN == ["high", "low"]


@pytest.mark.parametrize(("workers", "concurrency", "elapsed_s"), [(1, 1, 40), (2, 1, 20), (1, 4, 10)])
def test_workers_and_concurrency_share_the_work(workers: int, concurrency: int, elapsed_s: int) -> None:
    with FakeQueue(workers=workers, concurrency=concurrency) as queue:
        for name in "abcd":
            note_after.dispatch_sync(name, 10)
        queue.run_until_idle_sync()

        assert queue.clock.elapsed == timedelta(seconds=elapsed_s)


def test_the_lease_is_as_long_as_told() -> None:
    from asynctasq.kernel.ledger import Kind

    with FakeQueue(lease_s=7) as queue:
        note.dispatch_sync("a")
        queue.run_due_sync()

    [reserved] = [entry for entry in queue.ledger if entry.kind is Kind.RESERVED]
    assert reserved.due_at - reserved.at == 7.0


def test_a_seed_chooses_another_schedule() -> None:
    orders = set()
    for seed in range(1, 9):
        RAN.clear()
        with FakeQueue(seed=seed, search="random") as queue:
            for name in "abcd":
                note.dispatch_sync(name)
            queue.run_due_sync()
        orders.add(tuple(RAN))

    assert len(orders) > 1


def test_sync_tasks_run_inline_and_may_dispatch(queue: FakeQueue) -> None:
    Thread().dispatch_sync()

    queue.run_due_sync()

    assert RAN == ["thread", "from a thread"]


def test_real_threads_and_processes_run_while_virtual_time_stands_still(tmp_path: Path) -> None:
    with FakeQueue(real_executors=True) as queue:
        Thread().dispatch_sync()
        Child(str(tmp_path / "pid")).dispatch_sync()
        result = queue.run_due_sync()

        assert result.errors == ()
        assert RAN == ["thread", "from a thread"]
        assert int((tmp_path / "pid").read_text()) != os.getpid()
        assert queue.clock.elapsed == timedelta()


def test_freeze_time_makes_user_code_follow_the_virtual_clock() -> None:
    with FakeQueue(freeze_time=True) as queue:
        wall().delay(3600).dispatch_sync()
        queue.run_until_idle_sync()

        [seen] = RAN
        assert seen == queue.clock.utc()
        assert time.time() == queue.clock.now()

    assert datetime.now(UTC) > RAN[0]


def test_the_driver_can_be_asked(queue: FakeQueue) -> None:
    note.dispatch_sync("a")

    depth = asyncio.run(queue.driver.depth("default"))

    assert depth.ready == 1
