"""Plans of faults: what can be asked for, what is refused, how chance is turned into strikes."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from asynctasq.tasks import AsyncTask, task
from asynctasq.testing.faults import (
    Crash,
    Delay,
    ExpireLease,
    FailBefore,
    FaultPlan,
    Faults,
    Latency,
    LoseReply,
    SkewClock,
)
from asynctasq.testing.faults.kinds import as_list
from asynctasq.testing.faults.points import CRASH_POINTS
from asynctasq.testing.tape import Tape


class Mail(AsyncTask[None]):
    async def execute(self) -> None:
        return None


@task
async def note() -> None:
    return None


def test_a_point_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match=r"Crash\(at='before_lunch'\).*before_settle"):
        Crash(at="before_lunch")


def test_the_points_are_listed_in_order_and_the_nearest_is_named_first() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'before_settle'\?") as caught:
        Crash(at="before_setle")

    listed = str(caught.value).rpartition("one of ")[2].split(", ")
    assert listed == sorted(CRASH_POINTS)


@pytest.mark.parametrize("at", [None, 5, [], ""])
def test_a_point_that_resembles_none_is_refused_too(at: Any) -> None:
    with pytest.raises(ValueError, match="is no point; use one of"):
        Crash(at=at)


@pytest.mark.parametrize("at", sorted(CRASH_POINTS))
def test_a_worker_can_crash_at_every_point(at: str) -> None:
    assert str(Crash(at=at)) == f"Crash(at={at!r})"


def test_a_fault_names_its_conditions() -> None:
    fault = LoseReply(at="settle", task=Mail, attempt=2, worker="w1", nth=3)

    assert str(fault) == "LoseReply(at='settle', task='Mail', attempt=2, worker='w1', nth=3)"
    assert "task='note'" in str(Crash(at="before_start", task=note))


def test_a_task_instance_is_no_task() -> None:
    with pytest.raises(TypeError):
        Crash(at="before_start", task=Mail())  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan, math.inf, True, "0.1", None])
def test_a_rate_is_a_probability(rate: Any) -> None:
    with pytest.raises(ValueError, match=r"crash=.* is no probability"):
        Faults(crash=rate)
    with pytest.raises(ValueError, match=r"often=.* is no probability"):
        Latency(often=rate)


@pytest.mark.parametrize("kind", list(Faults().rates()))
def test_a_fault_that_always_strikes_is_refused_since_nothing_would_ever_end(kind: str) -> None:
    with pytest.raises(ValueError, match=f"{kind}=1.0 .*nothing could ever end"):
        Faults(**{kind: 1.0})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "rates", [{"crash": 0.5, "fail_before": 0.5}, {"crash": 0.4, "fail_after": 0.4, "lost_reply": 0.4}]
)
def test_faults_that_always_strike_together_are_refused_too(rates: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"crash, .* add up to 1.*nothing could ever end"):
        Faults(**rates)


def test_calls_may_all_take_long() -> None:
    assert Latency(often=1.0, rarely=1.0).often == 1.0


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "x", True])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("typical_s", lambda value: Latency(typical_s=value)),
        ("longest_s", lambda value: Latency(longest_s=value)),
        ("latency", lambda value: Faults(latency=value)),
        ("clock_skew", lambda value: Faults(clock_skew=value)),
        ("reply_timeout_s", lambda value: Faults(reply_timeout_s=value)),
        ("seconds", lambda value: Delay(at="settle:before", seconds=value)),
        ("seconds", lambda value: ExpireLease(seconds=value)),
    ],
)
def test_a_length_of_time_is_finite_and_not_below_nothing(name: str, make: Callable[[Any], object], value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be .*seconds"):
        make(value)


def test_a_worker_that_stands_still_for_no_time_does_not_stand_still() -> None:
    with pytest.raises(ValueError, match="seconds must be more than 0 seconds, not 0"):
        ExpireLease(seconds=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, "x", None])
def test_a_clock_is_wrong_by_seconds(value: Any) -> None:
    with pytest.raises(ValueError, match="seconds must be a number of seconds"):
        SkewClock(worker="w1", seconds=value)


@pytest.mark.parametrize("name", ["attempt", "nth"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "1", True])
def test_attempts_and_occasions_are_whole_numbers_from_one(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a whole number, 1 or more"):
        Crash(at="before_settle", **{name: value})


@pytest.mark.parametrize(
    "make", [lambda name: Crash(at="settle:before", worker=name), lambda name: SkewClock(worker=name, seconds=1)]
)
def test_a_worker_is_named(make: Callable[[Any], object]) -> None:
    with pytest.raises(ValueError, match="worker must be the name of a worker, such as 'w1', not 1"):
        make(1)


def test_seed_0_is_refused() -> None:
    with pytest.raises(ValueError, match="seed 0"):
        Faults(seed=0)


@pytest.mark.parametrize("seed", [1.5, "1", True, None])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(ValueError, match="seed must be a whole number"):
        Faults(seed=seed)


def test_a_number_for_latency_is_its_typical_length() -> None:
    assert Faults(latency=0.2).delays == Latency(typical_s=0.2)
    assert Faults(latency=Latency(often=1.0)).delays == Latency(often=1.0)
    assert Faults().delays is None


def test_scaling_multiplies_rates_up_to_certainty() -> None:
    scaled = Faults(crash=0.5, stop=0.1).scaled(crash=3.0, stop=0.0)

    assert scaled.rates() | {"crash": 1.0, "stop": 0.0} == scaled.rates()


def test_what_is_no_fault_is_refused() -> None:
    with pytest.raises(TypeError, match="faults= takes"):
        as_list(["crash"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="one Faults"):
        FaultPlan([Faults(), Faults()], Tape(1))


def test_one_fault_needs_no_list() -> None:
    assert as_list(Crash(at="before_start")) == [Crash(at="before_start")]


def strikes(faults: Faults, seed: int = 5, calls: int = 4_000) -> FaultPlan:
    plan = FaultPlan(faults, Tape(seed))
    for _ in range(calls):
        plan.at_call("w1", "turn", "after", list)
    return plan


def test_kinds_fire_about_as_often_as_their_rates_say() -> None:
    fired = strikes(Faults(crash=0.05, lost_reply=0.1, fail_after=0.02, latency=Latency(often=0.2, rarely=0.0))).fired

    for kind, rate in {"crash": 0.05, "lost_reply": 0.1, "fail_after": 0.02, "slow": 0.2}.items():
        assert 0.6 * rate < fired[kind] / 4_000 < 1.4 * rate


def test_rates_beyond_certainty_share_what_there_is() -> None:
    fired = strikes(Faults(crash=0.4, lost_reply=0.4).scaled(crash=3.0, lost_reply=3.0)).fired

    assert sum(fired.values()) == 4_000
    assert 0.4 < fired["crash"] / 4_000 < 0.6


def test_what_can_not_strike_there_does_not() -> None:
    assert strikes(Faults(fail_before=0.9, duplicate=0.9)).fired == {}


def test_a_tape_of_zeros_has_no_faults() -> None:
    assert strikes(Faults(crash=0.5, latency=1.0, clock_skew=30), seed=0).fired == {}


def test_a_stopped_plan_strikes_no_more() -> None:
    plan = FaultPlan([Crash(at="turn:after"), Faults(crash=0.9)], Tape(1))
    plan.stop()

    assert plan.at_call("w1", "turn", "after", lambda: [("turn:after", [])]) is None
    assert plan.at_step("w1", "before_start", task="", attempt=1) is None


def test_a_clock_is_wrong_by_at_most_what_was_asked() -> None:
    skews = [FaultPlan(Faults(clock_skew=30), Tape(seed)).skew_s("w1") for seed in range(1, 200)]

    assert max(skews) <= 30
    assert min(skews) >= -30
    assert max(skews) > 20
    assert min(skews) < -20


def test_a_clock_set_by_hand_is_that_workers() -> None:
    plan = FaultPlan([SkewClock(worker="w2", seconds=7)], Tape(1))

    assert (plan.skew_s("w1"), plan.skew_s("w2")) == (0.0, 7)


def test_a_clock_set_for_nobody_is_told() -> None:
    with pytest.raises(AssertionError, match="w9"):
        FaultPlan([SkewClock(worker="w9", seconds=7)], Tape(1)).check_fired()


def test_a_fault_strikes_the_worker_task_and_attempt_it_names() -> None:
    fault = Crash(at="before_start", task=Mail, attempt=2, worker="w2")
    plan = FaultPlan(fault, Tape(1))
    name = Mail._task_name

    misses = [("w1", name, 2), ("w2", "other", 2), ("w2", name, 1)]
    assert [plan.at_step(worker, "before_start", task=t, attempt=a) for worker, t, a in misses] == [None] * 3
    assert plan.at_step("w2", "mid_attempt", task=name, attempt=2) is None
    assert plan.at_step("w2", "before_start", task=name, attempt=2) is not None
    assert plan.at_step("w2", "before_start", task=name, attempt=2) is None
    plan.check_fired()


@pytest.mark.parametrize("step", [True, False], ids=["at a step", "at a call"])
def test_a_fault_of_a_task_strikes_those_derived_from_it(step: bool) -> None:
    class Parcel(Mail): ...

    class Letter(Parcel): ...

    def struck(fault: Crash, task: str) -> bool:
        plan = FaultPlan(fault, Tape(1))
        if step:
            return plan.at_step("w1", "before_start", task=task, attempt=1) is not None
        return plan.at_call("w1", "settle", "before", lambda: [("settle:before", [(task, 1)])]) is not None

    at = "before_start" if step else "settle:before"
    assert struck(Crash(at=at, task=Mail), Letter._task_name)
    assert struck(Crash(at=at, task=Parcel), Letter._task_name)
    assert not struck(Crash(at=at, task=Letter), Mail._task_name)
    assert not struck(Crash(at=at, task=Letter), "nobody:Knows")


def test_what_is_taken_back_waits_for_its_next_occasion() -> None:
    plan = FaultPlan(Crash(at="mid_attempt"), Tape(1))
    fired = plan.at_step("w1", "mid_attempt", task="", attempt=1)
    assert fired is not None

    plan.unfire(fired)

    assert plan.fired == {}
    assert plan.at_step("w1", "mid_attempt", task="", attempt=1) is not None


def test_a_plan_says_what_it_may_do() -> None:
    plan = FaultPlan([Delay(at="turn:before", seconds=1), FailBefore(at="turn"), Faults(crash=0.1)], Tape(1))

    kinds = ("crash", "delay", "fail_before", "stop", "clock_skew")
    assert [kind for kind in kinds if plan.includes(kind)] == ["crash", "delay", "fail_before"]


@pytest.mark.parametrize("fault", [SkewClock(worker="w1", seconds=1), Faults(clock_skew=1)])
def test_a_plan_says_that_it_may_put_a_clock_wrong(fault: SkewClock | Faults) -> None:
    assert FaultPlan(fault, Tape(1)).includes("clock_skew")
