"""At which instant a FakeQueue's clock begins, and what a task sees of it."""

import datetime as dt
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import freezegun
import pytest

from asynctasq import AsyncTask, task
from asynctasq.testing import FakeQueue, Simulation, simulate

BERLIN = ZoneInfo("Europe/Berlin")


@task
async def look() -> str:
    return dt.datetime.now(UTC).isoformat()


class Monthly(AsyncTask[str]):
    """Runs again a day later until the month is over."""

    async def execute(self) -> str:
        return dt.datetime.now(UTC).strftime("%Y-%m-%d")


def test_by_default_the_clock_begins_at_2020() -> None:
    with FakeQueue() as queue:
        assert queue.clock.utc() == datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "start",
    [datetime(2030, 1, 31, 12), datetime(2030, 1, 31, 12, tzinfo=UTC), datetime(2030, 1, 31, 13, tzinfo=BERLIN)],
)
def test_it_begins_where_start_says_in_utc_unless_that_says_otherwise(start: datetime) -> None:
    with FakeQueue(start=start) as queue:
        assert queue.clock.utc() == datetime(2030, 1, 31, 12, tzinfo=UTC)
        assert queue.clock.utc().utcoffset() == timedelta()


def test_freeze_time_chooses_the_instant_that_tasks_see() -> None:
    with FakeQueue(freeze_time=datetime(2030, 1, 31)) as queue:
        Monthly().delay(timedelta(days=1)).dispatch_sync()
        queue.run_until_idle_sync()

        assert queue.history(Monthly).value == "2030-02-01"


async def test_on_the_tests_own_loop_too() -> None:
    async with FakeQueue(freeze_time=datetime(2028, 2, 28)) as queue:
        await Monthly().delay(timedelta(days=1)).dispatch()
        await queue.run_until_idle()

    assert queue.history(Monthly).value == "2028-02-29"


def test_start_and_freeze_time_work_together() -> None:
    with FakeQueue(start=datetime(2030, 1, 31), freeze_time=True) as queue:
        Monthly().dispatch_sync()
        queue.run_until_idle_sync()

    assert queue.history(Monthly).value == "2030-01-31"


def test_an_hour_is_an_hour_where_clocks_are_changed() -> None:
    with FakeQueue(freeze_time=datetime(2030, 3, 31, 1, 30, tzinfo=BERLIN)) as queue:
        look().delay(3_600).dispatch_sync()
        queue.run_until_idle_sync()

        local = datetime.fromisoformat(str(queue.history(look).value)).astimezone(BERLIN)
        assert local.strftime("%H:%M") == "03:30"


@pytest.mark.parametrize(("fold", "then"), [(0, "02:30"), (1, "03:30")])
def test_which_of_two_equal_times_is_meant_is_said_by_fold(fold: int, then: str) -> None:
    with FakeQueue(start=datetime(2030, 10, 27, 2, 30, fold=fold, tzinfo=BERLIN)) as queue:
        queue.advance_sync(hours=1)

        assert queue.clock.utc().astimezone(BERLIN).strftime("%H:%M") == then


def test_inside_a_freeze_the_clock_begins_there() -> None:
    with freezegun.freeze_time("2030-01-01 12:00"), FakeQueue(freeze_time=True) as queue:
        look().dispatch_sync()
        look().delay(60).dispatch_sync()
        queue.run_until_idle_sync()

        seen = [queue.history(one.task_id).value for one in queue.dispatched(look)]
    assert seen == ["2030-01-01T12:00:00+00:00", "2030-01-01T12:01:00+00:00"]


def test_inside_a_freeze_an_instant_that_is_given_counts() -> None:
    with freezegun.freeze_time("2030-01-01"), FakeQueue(freeze_time=datetime(2031, 1, 1)) as queue:
        assert queue.clock.utc() == datetime(2031, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("wrong", ["2030-01-01", dt.date(2030, 1, 1), 0, 1.5, timedelta(1), None, object()])
def test_what_is_no_instant_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="freeze_time must be True, False or a datetime"):
        FakeQueue(freeze_time=wrong)
    if wrong is not None:
        with pytest.raises(TypeError, match="start must be a datetime"):
            FakeQueue(start=wrong)


def test_two_instants_are_refused() -> None:
    with pytest.raises(ValueError, match="two instants"):
        FakeQueue(start=datetime(2030, 1, 1), freeze_time=datetime(2031, 1, 1))


@simulate(runs=1)
async def test_in_a_simulation_the_clock_is_the_simulations(sim: Simulation) -> None:
    with pytest.raises(ValueError, match="in a simulation the clock is the simulation's"):
        async with FakeQueue(start=datetime(2030, 1, 1)):
            pass
