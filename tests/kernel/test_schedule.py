"""What a ticker does when it becomes visible, tested by table and against counting one tick after the other."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asynctasq.kernel.ledger import Entry, Kind, check
from asynctasq.kernel.schedule import (
    RUN_ALL_MAX,
    CronRule,
    EveryRule,
    Misfire,
    ScheduleDefinition,
    Ticker,
    code_of,
    current_code,
    every_after,
    is_of_schedule,
    jitter_of,
    plan_ticks,
    seconds_between,
    tick_id,
    ticker_id,
)

NOW = 1_700_000_000.0
MINUTE = EveryRule(period_s=60)


def definition(misfire: Misfire = "run_once", *, jitter_s: float = 0.0, name: str = "report") -> ScheduleDefinition:
    return ScheduleDefinition(
        name=name, queue="default", rule=MINUTE, misfire=misfire, jitter_s=jitter_s, template=b"template"
    )


def every(period_s: float):
    return lambda after: every_after(EveryRule(period_s=period_s), after)


def minutes_after(count: float) -> float:
    return 1_699_999_980.0 + 60 * count  # a whole minute


def plan(ticker: Ticker, now: float, **options):
    return plan_ticks(ticker, now=now, enqueued_at=options.pop("enqueued_at", now), next_tick=every(60), **options)


def test_a_new_ticker_waits_for_the_first_tick_after_it_was_enqueued() -> None:
    planned = plan(Ticker(definition=definition()), minutes_after(0) + 7, enqueued_at=minutes_after(0) + 5)

    assert planned.ticks == ()
    assert planned.ticker == Ticker(definition=definition(), next_at=minutes_after(1))
    assert planned.delay_s == 53


def test_a_tick_at_the_instant_of_the_enqueueing_is_not_the_first() -> None:
    planned = plan(Ticker(definition=definition()), minutes_after(0))

    assert planned.ticker is not None
    assert planned.ticker.next_at == minutes_after(1)


def test_a_new_ticker_that_nobody_ran_for_long_has_missed_ticks() -> None:
    planned = plan(Ticker(definition=definition("run_all")), minutes_after(3), enqueued_at=minutes_after(0))

    assert [tick.nominal_at for tick in planned.ticks] == [minutes_after(1), minutes_after(2), minutes_after(3)]


@pytest.mark.parametrize("misfire", ["run_once", "run_all", "skip"])
def test_a_tick_in_time_is_run_under_every_policy(misfire: Misfire) -> None:
    ticker = Ticker(definition=definition(misfire), next_at=minutes_after(1), last_at=minutes_after(0))

    planned = plan(ticker, minutes_after(1) + 0.25)

    assert [(tick.nominal_at, tick.delay_s) for tick in planned.ticks] == [(minutes_after(1), 0.0)]
    assert planned.ticker == Ticker(definition=definition(misfire), next_at=minutes_after(2), last_at=minutes_after(1))
    assert planned.delay_s == 59.75


@pytest.mark.parametrize(
    ("misfire", "late_s", "expected"),
    [
        ("run_once", 150, [3]),
        ("run_all", 150, [1, 2, 3]),
        ("skip", 150, [3]),  # the third is half a minute late
        ("run_once", 0, [1]),
        ("skip", 0, [1]),
    ],
)
def test_missed_ticks_follow_the_policy(misfire: Misfire, late_s: float, expected: list[int]) -> None:
    ticker = Ticker(definition=definition(misfire), next_at=minutes_after(1))

    planned = plan(ticker, minutes_after(1) + late_s)

    assert [tick.nominal_at for tick in planned.ticks] == [minutes_after(count) for count in expected]


def test_skip_leaves_out_a_tick_that_is_more_than_a_minute_late() -> None:
    hourly = replace(definition("skip"), rule=EveryRule(period_s=3600))
    due = 3600.0 * 480_000
    ticker = Ticker(definition=hourly, next_at=due, last_at=due - 3600)

    planned = plan_ticks(ticker, now=due + 61, enqueued_at=due, next_tick=every(3600))

    assert planned.ticks == ()
    assert planned.ticker == Ticker(definition=hourly, next_at=due + 3600, last_at=due - 3600)


def test_run_all_runs_the_latest_hundred() -> None:
    ticker = Ticker(definition=definition("run_all"), next_at=minutes_after(0))

    planned = plan(ticker, minutes_after(500_000))

    assert [tick.nominal_at for tick in planned.ticks] == [
        minutes_after(500_000 - RUN_ALL_MAX + 1 + number) for number in range(RUN_ALL_MAX)
    ]


def test_a_clock_set_back_runs_no_tick_again() -> None:
    ticker = Ticker(definition=definition("run_all"), next_at=minutes_after(61), last_at=minutes_after(60))

    planned = plan(ticker, minutes_after(1))

    assert planned.ticks == ()
    assert planned.ticker == ticker


def test_a_paused_schedule_passes_over_what_is_due() -> None:
    ticker = Ticker(definition=definition("run_all"), next_at=minutes_after(1), last_at=minutes_after(0))

    planned = plan(ticker, minutes_after(5), paused=True)

    assert planned.ticks == ()
    assert planned.ticker == Ticker(
        definition=definition("run_all"), next_at=minutes_after(6), last_at=minutes_after(0)
    )


def test_what_is_due_runs_by_the_old_rule_and_it_goes_on_by_the_new_one() -> None:
    changed = replace(definition(jitter_s=0), rule=EveryRule(period_s=600), template=b"changed")
    ticker = Ticker(definition=definition(), next_at=minutes_after(1))

    planned = plan(ticker, minutes_after(1) + 1, successor=(changed, every(600)))

    assert [tick.nominal_at for tick in planned.ticks] == [minutes_after(1)]
    assert planned.ticker is not None
    assert planned.ticker.definition == changed
    assert planned.ticker.next_at == every(600)(minutes_after(1) + 1)


def test_a_new_rule_counts_before_anything_is_due() -> None:
    changed = replace(definition(), rule=EveryRule(period_s=1))
    ticker = Ticker(definition=definition(), next_at=minutes_after(10))

    planned = plan(ticker, minutes_after(1), successor=(changed, every(1)))

    assert planned.ticks == ()
    assert planned.ticker == Ticker(definition=changed, next_at=minutes_after(1) + 1)


def test_a_schedule_without_a_tick_ends() -> None:
    planned = plan_ticks(Ticker(definition=definition()), now=NOW, enqueued_at=NOW, next_tick=lambda _: None)

    assert (planned.ticks, planned.ticker) == ((), None)


def test_the_last_tick_of_a_schedule_runs() -> None:
    ticker = Ticker(definition=definition(), next_at=NOW)

    planned = plan_ticks(ticker, now=NOW, enqueued_at=NOW, next_tick=lambda _: None)

    assert ([tick.nominal_at for tick in planned.ticks], planned.ticker) == ([NOW], None)


@given(
    period_s=st.integers(1, 400).map(lambda tenths: 1 + tenths / 10),
    wakes=st.lists(st.floats(0, 500), min_size=1, max_size=30),
)
@example(period_s=20.0, wakes=[1.94921875, 60.0, 0.0])  # an instant that is a tick but for the last bit of a float
def test_run_all_runs_each_tick_once_however_late_it_is_woken(period_s: float, wakes: list[float]) -> None:
    rule = EveryRule(period_s=period_s)
    own, now = replace(definition("run_all"), rule=rule), NOW
    ticker, ran = Ticker(definition=own), list[float]()
    for wake_s in wakes:
        planned = plan_ticks(ticker, now=now, enqueued_at=NOW, next_tick=every(period_s))
        assert planned.ticker is not None
        ran += [tick.nominal_at for tick in planned.ticks]
        ticker, now = planned.ticker, now + min(planned.delay_s + wake_s, RUN_ALL_MAX * period_s)

    expected, at = list[float](), every(period_s)(NOW)
    while at < (ticker.next_at or 0):
        expected.append(at)
        at = every(period_s)(at)
    assert ran == expected
    assert all(earlier < later for earlier, later in pairwise(ran))


@given(misfire=st.sampled_from(["run_once", "skip"]), late_s=st.floats(0, 1e7), first=st.integers(0, 100))
def test_at_most_one_run_makes_up_for_all_that_was_missed(misfire: Misfire, late_s: float, first: int) -> None:
    now = minutes_after(first) + late_s

    planned = plan(Ticker(definition=definition(misfire), next_at=minutes_after(first)), now)

    assert len(planned.ticks) == 1, "a tick of every minute is never a minute late"
    assert now - 60 < planned.ticks[0].nominal_at <= now
    assert planned.ticker is not None
    assert planned.ticker.next_at == every(60)(now)


@given(instant=st.integers(0, 10**11), jitter_s=st.floats(0, 1e6), name=st.text(max_size=20))
def test_jitter_is_never_before_the_instant_nor_beyond_its_limit(instant: int, jitter_s: float, name: str) -> None:
    assert 0 <= jitter_of(name, float(instant), jitter_s) <= jitter_s
    assert jitter_of(name, float(instant), jitter_s) == jitter_of(name, float(instant), jitter_s)


def test_jitter_spreads_ticks_and_schedules() -> None:
    offsets = [jitter_of("report", minutes_after(count), 60) for count in range(200)]

    assert max(offsets) > 50
    assert min(offsets) < 10
    assert jitter_of("other", minutes_after(0), 60) != offsets[0]


def test_jitter_puts_off_the_run_and_not_the_ticker() -> None:
    own = definition(jitter_s=50)
    at = minutes_after(1)

    planned = plan(Ticker(definition=own, next_at=at), at + 1)

    [tick] = planned.ticks
    assert tick.delay_s == pytest.approx(max(0.0, jitter_of("report", at, 50) - 1), abs=1e-6)
    assert (tick.nominal_at, planned.delay_s) == (at, 59)


@given(period_s=st.integers(1_000_000, 10**13).map(lambda us: us / 1e6), after=st.floats(0, 1e11))
@example(period_s=457.987369, after=4311363024.0)
def test_every_ticks_at_multiples_of_its_period(period_s: float, after: float) -> None:
    at = every(period_s)(after)

    assert at > after - 1e-6
    assert seconds_between(after, at) <= round(period_s * 1e6) / 1e6
    if at < 2**32:  # from the year 2106 on, floats are almost a microsecond apart
        assert round(at * 1e6) % round(period_s * 1e6) == 0


def test_differences_of_instants_are_whole_microseconds() -> None:
    assert seconds_between(1_577_836_800.1, 1_577_836_801.3) == 1.2


def test_ids_follow_from_name_and_instant_alone() -> None:
    assert ticker_id("report") == ticker_id("report") != ticker_id("other")
    assert tick_id("report", NOW) == tick_id("report", NOW) != tick_id("report", NOW + 60)
    assert is_of_schedule(ticker_id("report"))
    assert not is_of_schedule(tick_id("report", NOW))


def test_code_is_the_same_whatever_the_order() -> None:
    first, second = definition(), definition(name="other")

    assert code_of([first, second]) == code_of([second, first])
    for other in (
        replace(first, rule=CronRule(expression="* * * * *", tz="UTC")),
        replace(first, misfire="skip"),
        replace(first, jitter_s=1.0),
        replace(first, template=b"arguments"),
    ):
        assert code_of([other, second]) != code_of([first, second])


@pytest.mark.parametrize(
    ("codes", "on_duty", "expected"),
    [
        (["a"], {"a"}, "a"),
        (["a", "b"], {"a", "b"}, "b"),  # while old and new run side by side, or an old one restarts
        (["a", "b"], {"a"}, "a"),  # rolled back
        (["a", "b", "c"], {"a", "b"}, "b"),
        (["a"], set(), None),
        ([], {"a"}, None),
    ],
)
def test_the_code_seen_first_the_latest_is_current_if_it_is_on_duty(
    codes: list[str], on_duty: set[str], expected: str | None
) -> None:
    assert current_code(codes, on_duty) == expected


def test_rules_are_shown_as_they_are_written() -> None:
    assert str(CronRule(expression="0 3 * * *", tz="UTC")) == "0 3 * * *"
    assert str(EveryRule(period_s=90)) == "every 90 s"


def test_the_ledger_judges_no_ticker_which_has_many_lives_under_one_id() -> None:
    lives = [
        Entry(
            at=float(at), kind=kind, message_id=ticker_id("report"), worker="w", attempt=1, token=str(at), detail=detail
        )
        for at in range(3)
        for kind, detail in ((Kind.RESERVED, ""), (Kind.SETTLED, "complete"))
    ]

    assert check(lives, exact=True) == []
