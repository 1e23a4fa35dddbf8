"""Where the ticks of `Cron` and `Every` lie, and that wrong ones are refused where they are written."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynctasq import AsyncTask, Cron, Every, task
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import TaskDefinitionError
from asynctasq.tasks.schedules import next_tick_of, schedules_in
from tests.effort import examples

BERLIN = "Europe/Berlin"
ZONES = (BERLIN, "America/New_York", "Australia/Adelaide", "America/Sao_Paulo", "Asia/Kathmandu", "UTC")
"""Without Lord Howe, the one place whose clock goes by half an hour; docs/reference/schedules.md tells of it."""
DAY_S = 86_400


def ticks(schedule: Cron | Every, after: str, count: int) -> list[str]:
    """Return the first ticks after an instant, in the schedule's own time zone."""
    next_tick, at = next_tick_of(schedule.rule), datetime.fromisoformat(after).timestamp()
    zone = ZoneInfo(schedule.tz) if isinstance(schedule, Cron) else UTC
    found: list[str] = []
    for _ in range(count):
        following = next_tick(at)
        assert following is not None
        found.append(datetime.fromtimestamp(following, zone).isoformat(timespec="minutes"))
        at = following
    return found


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        pytest.param(
            Cron("30 2 * * *", tz=BERLIN),
            "2024-03-30T12:00+00:00",
            ["2024-03-31T03:00+02:00", "2024-04-01T02:30+02:00"],
            id="a time that the clock leaves out is run when the gap ends",
        ),
        pytest.param(
            Cron("30 2 * * *", tz=BERLIN),
            "2024-10-26T12:00+00:00",
            ["2024-10-27T02:30+02:00", "2024-10-28T02:30+01:00"],
            id="a time that comes twice is run the first time",
        ),
        pytest.param(
            Cron("0,30 2,3 * * *", tz=BERLIN),
            "2024-03-30T12:00+00:00",
            ["2024-03-31T03:00+02:00", "2024-03-31T03:30+02:00", "2024-04-01T02:00+02:00"],
            id="all that the gap leaves out is one tick",
        ),
        pytest.param(
            Cron("30 * * * *", tz=BERLIN),
            "2024-10-27T00:00+00:00",
            ["2024-10-27T02:30+02:00", "2024-10-27T02:30+01:00", "2024-10-27T03:30+01:00"],
            id="every hour means every hour that passes",
        ),
        pytest.param(
            Cron("*/30 2 * * *", tz=BERLIN),
            "2024-03-30T12:00+00:00",
            ["2024-04-01T02:00+02:00", "2024-04-01T02:30+02:00"],
            id="with a star in the minutes, an hour left out has no tick",
        ),
        pytest.param(
            Cron("15 2 * * *", tz="Australia/Lord_Howe"),
            "2024-10-05T00:00+11:00",
            ["2024-10-05T02:15+10:30", "2024-10-06T02:30+11:00", "2024-10-07T02:15+11:00"],
            id="a gap of half an hour",
        ),
        pytest.param(
            Cron("0 0 * * *", tz="America/Sao_Paulo"),
            "2018-11-03T12:00-03:00",
            ["2018-11-04T01:00-02:00", "2018-11-05T00:00-02:00"],
            id="a day without a midnight",
        ),
        pytest.param(
            Cron("0 0 29 2 *"),
            "2024-03-01T00:00+00:00",
            ["2028-02-29T00:00+00:00", "2032-02-29T00:00+00:00"],
            id="leap day",
        ),
        pytest.param(
            Cron("0 12 29 2 *"), "2096-03-01T00:00+00:00", ["2104-02-29T12:00+00:00"], id="2100 has no leap day"
        ),
        pytest.param(
            Cron("0 9 * * MON-FRI"), "2024-03-01T10:00+00:00", ["2024-03-04T09:00+00:00"], id="from Friday to Monday"
        ),
        pytest.param(
            Cron("0 0 L * *"), "2024-02-01T00:00+00:00", ["2024-02-29T00:00+00:00"], id="last day of the month"
        ),
        pytest.param(
            Every(minutes=5), "2024-03-01T10:01+00:00", ["2024-03-01T10:05+00:00", "2024-03-01T10:10+00:00"], id="every"
        ),
        pytest.param(Every(days=1, hours=12), "1970-01-01T00:00+00:00", ["1970-01-02T12:00+00:00"], id="every, summed"),
    ],
)
def test_ticks_lie_where_the_rules_say(schedule: Cron | Every, after: str, expected: list[str]) -> None:
    assert ticks(schedule, after, len(expected)) == expected


def test_a_cron_expression_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="1000 characters"):
        Cron("1," * 1_000 + "1 * * * *")


def test_a_cron_expression_may_begin_with_seconds() -> None:
    next_tick = next_tick_of(Cron("*/20 * * * * *").rule)

    assert [next_tick(at) for at in (0.0, 19.5, 20.0, 59.9)] == [20.0, 20.0, 40.0, 60.0]


FIELDS = {
    "minutes": {"*": range(60), "*/15": range(0, 60, 15), "30": [30], "0,30": [0, 30], "15,45": [15, 45]},
    "hours": {"*": range(24), "*/3": range(0, 24, 3), "2": [2], "1-3": [1, 2, 3], "0": [0], "0,23": [0, 23]},
}


def exists(moment: datetime) -> bool:
    """Say whether the wall clock of its time zone ever shows this time."""
    return moment.astimezone(UTC).astimezone(moment.tzinfo).replace(tzinfo=None) == moment.replace(tzinfo=None)


def by_counting(expression: str, tz: str, start: datetime, days: int) -> list[float]:
    """Return the ticks of some days: by looking at each minute that passes, or at each that the wall clock names."""
    minute, hour, *_ = expression.split()
    minutes, hours, zone = FIELDS["minutes"][minute], FIELDS["hours"][hour], ZoneInfo(tz)
    if minute.startswith("*") or hour.startswith("*"):
        passing = (start + timedelta(minutes=number) for number in range(days * 24 * 60))
        local = ((at, at.astimezone(zone)) for at in passing)
        return [at.timestamp() for at, wall in local if wall.minute in minutes and wall.hour in hours]
    found: set[float] = set()
    for day in range(-1, days + 2):
        date = (start.astimezone(zone) + timedelta(days=day)).date()
        for wall in (datetime(date.year, date.month, date.day, h, m) for h in hours for m in minutes):
            later = (wall + timedelta(minutes=number) for number in range(200))
            found.add(next(at.timestamp() for moment in later if exists(at := moment.replace(tzinfo=zone))))
    return sorted(at for at in found if start.timestamp() <= at < start.timestamp() + days * DAY_S)


@settings(max_examples=examples(300), deadline=None)
@given(
    minute=st.sampled_from(sorted(FIELDS["minutes"])),
    hour=st.sampled_from(sorted(FIELDS["hours"])),
    tz=st.sampled_from(ZONES),
    day=st.one_of(
        st.sampled_from(
            ["2024-03-30", "2024-10-26", "2024-03-09", "2024-11-02", "2024-04-06", "2024-10-05", "2018-11-03"]
        ),
        st.dates(datetime(2010, 1, 1).date(), datetime(2030, 1, 1).date()).map(str),
    ),
)
def test_no_tick_is_skipped_or_doubled(minute: str, hour: str, tz: str, day: str) -> None:
    start, days = datetime.fromisoformat(f"{day}T00:00+00:00"), 3
    next_tick, expression = next_tick_of(Cron(f"{minute} {hour} * * *", tz=tz).rule), f"{minute} {hour} * * *"

    found, at = list[float](), next_tick(start.timestamp() - 1)
    while at is not None and at < start.timestamp() + days * DAY_S:
        found.append(at)
        at = next_tick(at)

    assert found == by_counting(expression, tz, start, days)
    assert all(earlier < later for earlier, later in pairwise(found))


@settings(max_examples=examples(200), deadline=None)
@given(after=st.floats(1.7e9, 1.74e9), tz=st.sampled_from(ZONES), hour=st.sampled_from(["2", "1-3", "*"]))
def test_the_next_tick_is_the_same_from_any_instant_before_it(after: float, tz: str, hour: str) -> None:
    next_tick = next_tick_of(Cron(f"15,45 {hour} * * *", tz=tz).rule)

    at = next_tick(after)

    assert at is not None
    assert at > after
    assert next_tick((after + at) / 2) == at or (after + at) / 2 >= at


def test_no_tick_comes_after_the_last_year() -> None:
    assert next_tick_of(Cron("0 0 1 1 *").rule)(253_402_300_799.0) is None


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "unknown time zone": (
        lambda: Cron("0 3 * * *", tz="Europe/Berln"),
        r"no time zone 'Europe/Berln'; did you mean 'Europe/Berlin'\?",
    ),
    "no time zone": (lambda: Cron("0 3 * * *", tz=""), "no time zone ''"),
    "path for a time zone": (lambda: Cron("0 3 * * *", tz="../../etc/passwd"), "no time zone"),
    "four fields": (lambda: Cron("0 3 * *"), "'0 3 \\* \\*' is wrong: wrong number of fields; write minute, hour"),
    "hour 24": (lambda: Cron("0 24 * * *"), "is wrong: bad hour"),
    "no such day": (lambda: Cron("0 0 31 4 *"), "bad day-of-month"),
    "never matches": (lambda: Cron("0 0 30 2 *"), "bad day-of-month"),
    "misfire": (
        lambda: Cron("0 3 * * *", misfire="once"),
        "misfire must be one of run_once, run_all, skip, not 'once'",
    ),  # type: ignore[arg-type]
    "jitter": (lambda: Every(minutes=5, jitter=-1), "jitter must be 0 or more seconds"),
    "name": (lambda: Every(minutes=5, name=""), "name of a schedule must be a text"),
    "arguments": (lambda: Every(minutes=5, arguments=[1]), "arguments must be a dict"),  # type: ignore[arg-type]
    "no period": (Every, "needs a period of a second or more, such as"),
    "short period": (lambda: Every(seconds=0.5), "needs a period of a second or more"),
    "negative period": (lambda: Every(minutes=-5), "must be 0 or more seconds"),
    "endless period": (lambda: Every(days=float("inf")), "must be 0 or more seconds"),
}


@pytest.mark.parametrize(("make", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_schedule_is_refused_where_it_is_written(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def _define(schedule: object, **attributes: object) -> type[Any]:
    async def execute(self: object) -> None: ...

    return type("Scheduled", (AsyncTask,), {"schedule": schedule, "execute": execute, **attributes})


def test_a_class_says_its_schedules() -> None:
    both = [Cron("0 3 * * *"), Every(minutes=5, name="often")]

    assert schedules_in(_define(both)) == tuple(both)
    assert schedules_in(_define(both[0])) == (both[0],)


def test_a_subclass_inherits_no_schedule() -> None:
    derived = type("Derived", (_define(Cron("0 3 * * *")),), {})

    assert schedules_in(derived) == ()


def test_a_decorated_function_may_have_schedules() -> None:
    @task(schedule=Every(minutes=5))
    def often() -> None: ...

    assert schedules_in(often.task_class) == (Every(minutes=5),)


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        ("0 3 * * *", r"Scheduled.schedule must be Cron\(...\), Every\(...\), or a list of them, not '0 3"),
        ([Cron("0 3 * * *"), 5], "must be Cron"),
        ([Cron("0 3 * * *"), Cron("0 4 * * *")], "has 2 schedules with no name; give each a name of its own"),
        ([Every(hours=1, name="a"), Every(hours=2, name="a")], "has 2 schedules with the name 'a'"),
    ],
)
def test_what_can_not_be_scheduled_is_refused_with_the_class(schedule: object, says: str) -> None:
    with pytest.raises(TaskDefinitionError, match=says):
        _define(schedule)


def test_a_scheduled_task_has_the_applications_driver() -> None:
    with pytest.raises(TaskDefinitionError, match="has a schedule and a driver of its own"):
        _define(Every(hours=1), _driver_override=MemoryDriver())


def test_a_field_of_that_name_is_the_users_own() -> None:
    class Plan(AsyncTask[None]):
        schedule: str = "nightly"  # type: ignore[assignment,misc]

        async def execute(self) -> None: ...

    assert schedules_in(Plan) == ()
    assert Plan(schedule="weekly").schedule == "weekly"
