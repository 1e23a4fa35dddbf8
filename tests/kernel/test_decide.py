"""From the outcome of an attempt to its settlement."""

import random

import pytest

from asynctasq.errors import DELAY_S_MAX
from asynctasq.kernel.decide import (
    SNOOZE_AGAIN_S_MIN,
    Crashed,
    Failed,
    Interrupted,
    Outcome,
    Rejected,
    RetryRequested,
    Rules,
    Snoozed,
    Succeeded,
    Unrunnable,
    Verdict,
    asks_should_retry,
    decide,
    is_expired,
    is_retried,
    newer_version_delay_s,
    screen,
)
from asynctasq.kernel.messages import Bury, Complete, DeadReason, ErrorRecord, Lease, Release, Settlement
from asynctasq.kernel.retry import Fixed

ERROR = ErrorRecord(type="ValueError", message="no")
RULES = Rules(max_attempts=3, retry=Fixed(delay_s=60), max_crashes=3)


def settle(outcome: Outcome, *, attempt: int = 1, crashes: int = 0, rules: Rules = RULES) -> Settlement:
    return decide(outcome, attempt=attempt, crashes=crashes, rules=rules, rng=random.Random(0))


def test_success_completes_with_its_result() -> None:
    assert settle(Succeeded(result=b"r", result_ttl_s=5)) == Complete(result=b"r", result_ttl_s=5)


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_failure_with_attempts_left_is_retried_after_its_delay(attempt: int) -> None:
    assert settle(Failed(error=ERROR), attempt=attempt) == Release(delay_s=60, counted=True, error=ERROR)


def test_the_last_failure_is_a_dead_letter() -> None:
    assert settle(Failed(error=ERROR), attempt=3) == Bury(reason=DeadReason.FAILED, counted=True, error=ERROR)


def test_an_unwanted_retry_is_a_dead_letter_at_once() -> None:
    settlement = settle(Failed(error=ERROR, wants_retry=False))

    assert settlement == Bury(reason=DeadReason.FAILED, counted=True, error=ERROR)


@pytest.mark.parametrize("max_attempts", [0, 1])
def test_no_attempts_and_one_both_mean_once(max_attempts: int) -> None:
    rules = Rules(max_attempts=max_attempts, retry=Fixed(delay_s=60), max_crashes=3)

    assert isinstance(settle(Failed(error=ERROR), rules=rules), Bury)


def test_a_requested_retry_uses_its_own_delay() -> None:
    assert settle(RetryRequested(error=ERROR, after_s=5)) == Release(delay_s=5, counted=True, error=ERROR)


def test_a_requested_retry_without_delay_uses_the_policy() -> None:
    assert settle(RetryRequested(error=ERROR, after_s=None)) == Release(delay_s=60, counted=True, error=ERROR)


def test_a_requested_retry_counts_against_the_limit() -> None:
    assert isinstance(settle(RetryRequested(error=ERROR, after_s=5), attempt=3), Bury)


def test_a_snooze_is_not_counted() -> None:
    assert settle(Snoozed(delay_s=9), attempt=3) == Release(delay_s=9, counted=False)


@pytest.mark.parametrize(
    ("asked_s", "again", "delay_s"),
    [
        (0.0, False, 0.0),
        (-1.0, False, 0.0),
        (0.0, True, SNOOZE_AGAIN_S_MIN),
        (9.0, True, 9.0),
        (1e18, True, DELAY_S_MAX),
        (float("inf"), False, DELAY_S_MAX),
        (float("nan"), True, SNOOZE_AGAIN_S_MIN),
    ],
)
def test_a_snooze_is_never_at_once_again_nor_longer_than_a_store_holds(
    asked_s: float, again: bool, delay_s: float
) -> None:
    assert settle(Snoozed(delay_s=asked_s, again=again)) == Release(delay_s=delay_s, counted=False)


def test_a_requested_retry_is_clamped_as_well() -> None:
    assert settle(RetryRequested(error=ERROR, after_s=1e18)) == Release(delay_s=DELAY_S_MAX, counted=True, error=ERROR)


def test_a_rejection_is_final() -> None:
    assert settle(Rejected(error=ERROR)) == Bury(reason=DeadReason.REJECTED, counted=True, error=ERROR)


@pytest.mark.parametrize(("crashes", "buried"), [(0, False), (1, False), (2, True), (5, True)])
def test_a_crash_is_counted_apart_and_limited(crashes: int, buried: bool) -> None:
    settlement = settle(Crashed(error=ERROR), crashes=crashes)

    if buried:
        assert settlement == Bury(reason=DeadReason.CRASHED, crashed=True, error=ERROR)
    else:
        assert settlement == Release(counted=False, crashed=True, error=ERROR)


def test_an_interruption_hands_back_uncounted() -> None:
    assert settle(Interrupted(), attempt=3) == Release(counted=False)


def test_what_can_never_run_is_buried_with_its_reason() -> None:
    settlement = settle(Unrunnable(reason=DeadReason.UNKNOWN_TASK, error=ERROR))

    assert settlement == Bury(reason=DeadReason.UNKNOWN_TASK, error=ERROR)


@pytest.mark.parametrize(
    ("crashes", "now", "verdict"),
    [
        (0, 9.9, Verdict.RUN),
        (2, 9.9, Verdict.RUN),
        (3, 9.9, Verdict.GIVE_UP),
        (5, 9.9, Verdict.GIVE_UP),
        (6, 9.9, Verdict.BURY),
        (7, 9.9, Verdict.BURY),
        (0, 10.0, Verdict.STALE),
        (3, 10.0, Verdict.STALE),
        (6, 10.0, Verdict.STALE),
    ],
)
def test_a_lease_is_screened_before_it_runs(crashes: int, now: float, verdict: Verdict) -> None:
    assert screen(crashes=crashes, max_crashes=3, deadline=10.0, now=now) is verdict


def test_should_retry_is_asked_only_of_failures_with_attempts_left() -> None:
    assert asks_should_retry(Failed(error=ERROR), attempt=2, max_attempts=3)
    assert not asks_should_retry(Failed(error=ERROR), attempt=3, max_attempts=3)
    assert not asks_should_retry(Failed(error=ERROR, wants_retry=False), attempt=1, max_attempts=3)
    assert not asks_should_retry(Succeeded(), attempt=1, max_attempts=3)


def lease_of_age(age_s: float, *, lease_s: float = 30.0) -> Lease:
    return Lease(
        message_id="m",
        queue="q",
        body=b"",
        token="1",
        attempt=1,
        crashes=0,
        enqueued_at=1_700_000_000.1,
        expires_at=1_700_000_000.1 + age_s + lease_s,
    )


@pytest.mark.parametrize(
    ("age_s", "held_s", "expires_s", "expired"),
    [
        (9.999999, 0.0, 10.0, False),
        (10.0, 0.0, 10.0, True),
        (9.0, 0.999999, 10.0, False),
        (9.0, 1.0, 10.0, True),
        (0.0, 0.0, 1e-9, False),
        (0.0, 1e-6, 1e-9, True),
    ],
)
def test_a_message_expires_at_its_age_and_never_before(
    age_s: float, held_s: float, expires_s: float, expired: bool
) -> None:
    assert is_expired(lease_of_age(age_s), lease_s=30.0, held_s=held_s, expires_s=expires_s) is expired


@pytest.mark.parametrize(
    ("retry_on", "give_up_on", "retried"),
    [
        (None, None, True),
        ((LookupError,), None, True),
        ((OSError,), None, False),
        (None, (KeyError,), False),
        (None, (OSError,), True),
        ((LookupError,), (KeyError,), False),
    ],
)
def test_types_say_which_failures_are_retried(
    retry_on: tuple[type[Exception], ...] | None, give_up_on: tuple[type[Exception], ...] | None, retried: bool
) -> None:
    def is_one_of(types: tuple[type[Exception], ...]) -> bool:
        return isinstance(KeyError("no"), types)

    assert is_retried(is_one_of, retry_on=retry_on, give_up_on=give_up_on) is retried


@pytest.mark.parametrize(
    ("age_s", "delay_s"),
    [(0.0, 60.0), (3_599.0, 60.0), (3_600.0, 600.0), (7 * 86_400.0, 600.0), (7 * 86_400.0 + 1, None)],
)
def test_a_newer_version_is_left_alone_for_a_week(age_s: float, delay_s: float | None) -> None:
    assert newer_version_delay_s(age_s) == delay_s
