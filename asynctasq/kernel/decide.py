"""Decides what an attempt's outcome means for its message; runs no code of a task."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from asynctasq.errors import DELAY_S_MAX
from asynctasq.kernel.messages import (
    MICROSECONDS,
    Bury,
    Complete,
    DeadReason,
    ErrorRecord,
    Lease,
    Release,
    Settlement,
    microseconds,
)
from asynctasq.kernel.retry import RandomSource, RetryPolicy, delay_before_next
from asynctasq.kernel.values import value

__all__ = [
    "SNOOZE_AGAIN_S_MIN",
    "Crashed",
    "Failed",
    "Interrupted",
    "Outcome",
    "Rejected",
    "RetryRequested",
    "Rules",
    "Snoozed",
    "Succeeded",
    "Unrunnable",
    "Verdict",
    "asks_should_retry",
    "attempts_remain",
    "decide",
    "is_expired",
    "is_retried",
    "newer_version_delay_s",
    "screen",
]


SNOOZE_AGAIN_S_MIN = 1.0
"""How long a message waits, at the least, that was snoozed before: uncounted attempts could go on for ever."""


NEWER_VERSION_DELAY_S = 60.0
"""How long a message of a newer wire version is left for a newer worker each time; ten times that after an hour."""
NEWER_VERSION_AGE_S_MAX = 7 * 86_400.0
"""How old it may be before it becomes a dead letter."""


@value
class Rules:
    """What a message carries about its own retries. `max_attempts` 0 and 1 both mean: run once."""

    max_attempts: int
    retry: RetryPolicy
    max_crashes: int


@value
class Succeeded:
    """`execute` returned. `result` is what to keep, None for nothing."""

    result: bytes | None = None
    result_ttl_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """`execute` raised, or ran out of time. `wants_retry` is what `should_retry` answered, if asked."""

    error: ErrorRecord
    wants_retry: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRequested:
    """The task raised `Retry`; `after_s` overrides the policy."""

    error: ErrorRecord
    after_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snoozed:
    """The task raised `Snooze`: again later, not counted. `again`: the attempt before this one was snoozed as well."""

    delay_s: float
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The task raised `Reject`: no retry."""

    error: ErrorRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Crashed:
    """The child process that ran the attempt died."""

    error: ErrorRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """The worker stops: the attempt is handed back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrunnable:
    """No task could be built from the message."""

    reason: DeadReason
    error: ErrorRecord


Outcome = Succeeded | Failed | RetryRequested | Snoozed | Rejected | Crashed | Interrupted | Unrunnable


class Verdict(enum.Enum):
    """What to do with a lease before anything of it runs."""

    RUN = "run"
    STALE = "stale"
    GIVE_UP = "give up"
    BURY = "bury"
    EXPIRE = "expire"


def screen(*, crashes: int, max_crashes: int, deadline: float, now: float, expired: bool = False) -> Verdict:
    """Decide about a new lease: it has ended, its message crashed too often or has expired, or its attempt may run.

    A message that crashed too often is given up, which calls its `failed`; if that crashed as often, too, it is buried.
    `deadline` and `now` are of one clock. Under a lease that may have ended no attempt may start: another worker may
    have completed the message.
    """
    if now >= deadline:
        return Verdict.STALE
    if crashes >= 2 * max_crashes:
        return Verdict.BURY
    if crashes >= max_crashes:
        return Verdict.GIVE_UP
    return Verdict.EXPIRE if expired else Verdict.RUN


def is_expired(lease: Lease, *, lease_s: float, held_s: float, expires_s: float) -> bool:
    """Return whether the message of a lease that was asked for `lease_s` is too old to start, by the driver's clock.

    `held_s` is how long the worker has had the lease. No clock of a worker tells an instant here. Instants are whole
    microseconds kept as floats, so that only their difference, rounded, is exact.
    """
    age_us = round((lease.expires_at - lease.enqueued_at) * MICROSECONDS) - microseconds(lease_s)
    return age_us + int(held_s * MICROSECONDS) >= max(1, microseconds(expires_s))


def is_retried(
    failure: Callable[[tuple[type[Exception], ...]], bool],
    *,
    retry_on: tuple[type[Exception], ...] | None,
    give_up_on: tuple[type[Exception], ...] | None,
) -> bool:
    """Return whether a failure may be retried at all, by its type; `failure` says whether it is one of some types."""
    if give_up_on is not None and failure(give_up_on):
        return False
    return retry_on is None or failure(retry_on)


def newer_version_delay_s(age_s: float) -> float | None:
    """Return for how many seconds a message of a newer wire version is left alone; None if it is too old for that."""
    if age_s > NEWER_VERSION_AGE_S_MAX:
        return None
    return NEWER_VERSION_DELAY_S * (1 if age_s < 3600 else 10)


def attempts_remain(attempt: int, max_attempts: int) -> bool:
    """Return whether another attempt may follow `attempt` (from 1)."""
    return attempt < max_attempts


def asks_should_retry(outcome: Outcome, *, attempt: int, max_attempts: int) -> bool:
    """Return whether the task's `should_retry` is asked: only after a failure, and while attempts remain."""
    return isinstance(outcome, Failed) and outcome.wants_retry and attempts_remain(attempt, max_attempts)


def decide(outcome: Outcome, *, attempt: int, crashes: int, rules: Rules, rng: RandomSource) -> Settlement:
    """Return how the attempt is settled. `crashes` are those before this attempt."""
    match outcome:
        case Succeeded():
            return Complete(result=outcome.result, result_ttl_s=outcome.result_ttl_s)
        case Failed() | RetryRequested():
            return _after_failure(outcome, attempt, rules, rng)
        case Snoozed():
            least_s = SNOOZE_AGAIN_S_MIN if outcome.again else 0.0
            return Release(delay_s=_clamped(outcome.delay_s, least_s), counted=False)
        case Rejected():
            return Bury(reason=DeadReason.REJECTED, counted=True, error=outcome.error)
        case Crashed():
            return _after_crash(outcome, crashes, rules)
        case Interrupted():
            return Release(counted=False)
        case Unrunnable():
            return Bury(reason=outcome.reason, error=outcome.error)
        case _:  # pragma: no cover - closed union
            assert_never(outcome)


def _after_failure(outcome: Failed | RetryRequested, attempt: int, rules: Rules, rng: RandomSource) -> Settlement:
    wanted = isinstance(outcome, RetryRequested) or outcome.wants_retry
    if not (wanted and attempts_remain(attempt, rules.max_attempts)):
        return Bury(reason=DeadReason.FAILED, counted=True, error=outcome.error)
    if isinstance(outcome, RetryRequested) and outcome.after_s is not None:
        delay_s = _clamped(outcome.after_s, 0.0)
    else:
        delay_s = delay_before_next(rules.retry, attempt=attempt, rng=rng)
    return Release(delay_s=delay_s, counted=True, error=outcome.error)


def _clamped(delay_s: float, least_s: float) -> float:
    """Return the delay within what a store can hold; not a number counts as the least."""
    return min(DELAY_S_MAX, max(least_s, delay_s))


def _after_crash(outcome: Crashed, crashes: int, rules: Rules) -> Settlement:
    if crashes + 1 < rules.max_crashes:
        return Release(counted=False, crashed=True, error=outcome.error)
    return Bury(reason=DeadReason.CRASHED, crashed=True, error=outcome.error)
