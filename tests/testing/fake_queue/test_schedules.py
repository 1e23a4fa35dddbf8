"""A FakeQueue that keeps schedules going: ticks at exact instants, only if asked, and recorded as any dispatch."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from asynctasq import AsyncTask, Cron, Every, SyncTask, current_task, task
from asynctasq.testing import FakeQueue

RAN: list[tuple[str, datetime | None]] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    RAN.clear()


class Nightly(SyncTask[None]):
    schedule = Cron("30 2 * * *", tz="Europe/Berlin")

    def execute(self) -> None:
        RAN.append(("Nightly", self.scheduled_for))


class Flaky(AsyncTask[None]):
    schedule = Every(hours=1)
    retry_delay = 60

    async def execute(self) -> None:
        RAN.append(("Flaky", self.scheduled_for))
        if self.attempt == 1:
            raise ValueError("the first attempt fails")


@task(
    schedule=[
        Every(minutes=30, name="for a", arguments={"who": "a"}),
        Every(hours=1, name="for b", arguments={"who": "b"}),
    ]
)
async def greet(who: str) -> None:
    running = current_task()
    assert running is not None
    RAN.append((who, running.scheduled_for))


class Spread(AsyncTask[None]):
    schedule = Every(minutes=10, jitter=timedelta(minutes=5))

    async def execute(self) -> None:
        RAN.append(("Spread", self.scheduled_for))


class Unscheduled(AsyncTask[None]):
    async def execute(self) -> None:
        RAN.append(("Unscheduled", self.scheduled_for))


def utc(hour: int, minute: int = 0, day: int = 1) -> datetime:
    return datetime(2020, 1, day, hour, minute, tzinfo=UTC)


def test_no_schedule_runs_unless_it_is_asked_for() -> None:
    with FakeQueue() as queue:
        queue.advance_sync(days=2)

        assert RAN == []
        assert queue.dispatched() == []


def test_ticks_run_at_their_instants() -> None:
    with FakeQueue(schedules=[Nightly]) as queue:
        assert queue.advance_sync(hours=1, minutes=29, seconds=59).succeeded == 0
        assert queue.advance_sync(seconds=1).succeeded == 1
        queue.advance_sync(days=2)

    assert [("Nightly", utc(1, 30, day)) for day in (1, 2, 3)] == RAN
    assert {tick.astimezone(ZoneInfo("Europe/Berlin")).hour for _, tick in RAN if tick} == {2}


def test_the_clock_stands_at_the_tick_when_its_task_runs() -> None:
    with FakeQueue(schedules=[Nightly]) as queue:
        queue.advance_sync(days=1)

        [started] = [entry for entry in queue.ledger if entry.kind.value == "started"]
        assert started.at == utc(1, 30).timestamp()


def test_what_a_tick_dispatches_is_recorded() -> None:
    with FakeQueue(schedules=[greet]) as queue:
        queue.advance_sync(hours=1)

        assert sorted(record.arguments["who"] for record in queue.dispatched(greet)) == ["a", "a", "b"]
        assert all(isinstance(record.task_id, str) for record in queue.dispatched())


def test_a_retry_is_of_the_same_tick() -> None:
    with FakeQueue(schedules=[Flaky]) as queue:
        result = queue.advance_sync(hours=1, minutes=5)

    assert (result.retried, result.succeeded) == (1, 1)
    assert [("Flaky", utc(1)), ("Flaky", utc(1))] == RAN


def test_jitter_puts_runs_off_and_not_their_ticks() -> None:
    with FakeQueue(schedules=[Spread]) as queue:
        queue.advance_sync(hours=2)
        started = [entry.at for entry in queue.ledger if entry.kind.value == "started"]

    ticks = [tick.timestamp() for _, tick in RAN if tick]
    late = [at - tick for at, tick in zip(started, ticks, strict=True)]
    assert ticks == [utc(0).timestamp() + 600 * number for number in range(1, len(ticks) + 1)]
    assert all(0 <= seconds <= 300 for seconds in late)
    assert len({round(seconds) for seconds in late}) > 5


def test_a_queue_whose_tasks_have_all_run_is_idle() -> None:
    with FakeQueue(schedules=[Nightly], strict=True) as queue:
        queue.advance_sync(days=1)

        assert queue.run_until_idle_sync().virtual_elapsed == timedelta(0)


def test_a_dispatch_has_no_tick() -> None:
    with FakeQueue(schedules=[Nightly]) as queue:
        Nightly().dispatch_sync()
        queue.run_due_sync()

    assert RAN == [("Nightly", None)]


def test_all_imported_schedules_run_with_true() -> None:
    with FakeQueue(schedules=True, start=datetime(2024, 3, 30, 12, tzinfo=UTC)) as queue:
        queue.advance_sync(days=1)

        assert len(queue.dispatched(Nightly)) == 1, "also in the night in which the clock leaves out 02:30"
        assert len(queue.dispatched(greet)) == 72
        assert queue.dispatched(Unscheduled) == []


async def test_it_works_on_the_tests_own_loop() -> None:
    async with FakeQueue(schedules=[Flaky]) as queue:
        await queue.advance(hours=2, minutes=2)

    assert [tick for _, tick in RAN] == [utc(1), utc(1), utc(2), utc(2)]


def test_a_task_without_a_schedule_can_not_be_kept_going() -> None:
    with pytest.raises(ValueError, match="Unscheduled has no schedule"):
        FakeQueue(schedules=[Unscheduled])
