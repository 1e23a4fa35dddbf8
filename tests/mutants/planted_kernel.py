"""Defects in the decisions: what an outcome means, how long to wait, when a lease may start."""

from dataclasses import replace
from typing import Any

from asynctasq.core import attempt as attempt_module
from asynctasq.kernel import decide as decide_module
from asynctasq.kernel.decide import (
    Crashed,
    Failed,
    Interrupted,
    Rejected,
    RetryRequested,
    Rules,
    Snoozed,
    Verdict,
)
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Release
from asynctasq.kernel.retry import Delays, Exponential, Fixed, delay_before_next
from tests.mutants.planting import Change, Mutant, attribute

__all__ = ["KERNEL"]


def _deciding(wrong: Any) -> tuple[Change, ...]:
    """Let `wrong(outcome, right, given)` have the last word about a settlement; `given` is what decided it."""

    def make(original: Any) -> Any:
        def decide(outcome: Any, **given: Any) -> Any:
            return wrong(outcome, original(outcome, **given), given)

        return decide

    return attribute(attempt_module, "decide", make)


def _when(kind: Any, change: Any) -> tuple[Change, ...]:
    return _deciding(
        lambda outcome, right, given: change(outcome, right, given) if isinstance(outcome, kind) else right
    )


def _released(change: Any) -> tuple[Change, ...]:
    """Change every release after a failure."""
    return _when(
        Failed | RetryRequested,
        lambda outcome, right, given: change(right, given) if isinstance(right, Release) else right,
    )


def _waiting(wrong: Any) -> tuple[Change, ...]:
    """Replace the delay before a retry; `wrong(policy, attempt, original)`."""

    def make(original: Any) -> Any:
        def delay(policy: Any, *, attempt: int, rng: Any) -> float:
            right = lambda policy, attempt: original(policy, attempt=attempt, rng=rng)  # noqa: E731
            return float(wrong(policy, attempt, right))

        return delay

    return attribute(decide_module, "delay_before_next", make)


def _rules(**wrong: Any) -> tuple[Change, ...]:
    """Read a message's rules wrongly: each value is a function of the right one."""

    def make(original: Any) -> Any:
        def rules(**given: Any) -> Rules:
            return Rules(**{name: wrong[name](value) if name in wrong else value for name, value in given.items()})

        return rules

    return attribute(attempt_module, "Rules", make)


def _first_only(policy: Any) -> Any:
    return Fixed(delay_s=policy.delays_s[0]) if isinstance(policy, Delays) else policy


def _screening(wrong: Any) -> tuple[Change, ...]:
    return attribute(attempt_module, "screen", lambda original: lambda **given: wrong(original, given))


KERNEL: tuple[Mutant, ...] = (
    Mutant(
        name="attempt counted twice",
        breaks="the last attempt is taken for one more than it is",
        changes=attribute(decide_module, "attempts_remain", lambda _: lambda attempt, most: attempt + 1 < most),
    ),
    Mutant(
        name="one attempt too many",
        breaks="<= for < at max_attempts",
        changes=attribute(decide_module, "attempts_remain", lambda _: lambda attempt, most: attempt <= most),
    ),
    Mutant(
        name="max_attempts 0 replaced by the default",
        breaks="0 is falsy",
        changes=_rules(max_attempts=lambda most: most or 3),
    ),
    Mutant(
        name="max_crashes one short",
        breaks="given up one crash too early",
        changes=_rules(max_crashes=lambda most: most - 1),
    ),
    Mutant(
        name="max_crashes never reached",
        breaks="a task that kills its child does so for ever",
        changes=_rules(max_crashes=lambda most: 10**6),
    ),
    Mutant(
        name="should_retry asked when none remain",
        breaks="user code decides what is decided",
        changes=attribute(
            attempt_module,
            "asks_should_retry",
            lambda _: lambda outcome, **given: isinstance(outcome, Failed) and outcome.wants_retry,
        ),
    ),
    Mutant(
        name="should_retry never asked",
        breaks="every failure is retried",
        changes=attribute(attempt_module, "asks_should_retry", lambda _: lambda outcome, **given: False),
    ),
    Mutant(
        name="retry not counted",
        breaks="retries never end",
        changes=_released(lambda right, given: replace(right, counted=False)),
    ),
    Mutant(
        name="delay lost on retry",
        breaks="every retry is at once",
        changes=_released(lambda right, given: replace(right, delay_s=0.0)),
    ),
    Mutant(
        name="retry delay in milliseconds",
        breaks="the unit",
        changes=_released(lambda right, given: replace(right, delay_s=right.delay_s / 1000)),
    ),
    Mutant(
        name="first delay of the list always",
        breaks="a list of delays is one delay",
        changes=_waiting(lambda policy, attempt, right: right(_first_only(policy), attempt)),
    ),
    Mutant(
        name="list of delays read from its second",
        breaks="attempts counted from 0 in one place, from 1 in another",
        changes=_waiting(
            lambda policy, attempt, right: right(policy, attempt + 1 if isinstance(policy, Delays) else attempt)
        ),
    ),
    Mutant(
        name="retry delay global",
        breaks="the strategy of the first task holds for all",
        changes=_waiting(lambda policy, attempt, right: 7.0 if isinstance(policy, Fixed) else right(policy, attempt)),
    ),
    Mutant(
        name="cap forgotten",
        breaks="an exponential delay outgrows its cap",
        changes=_waiting(
            lambda policy, attempt, right: right(
                replace(policy, cap_s=1e9) if isinstance(policy, Exponential) else policy, attempt
            )
        ),
    ),
    Mutant(
        name="cap half as long again",
        breaks="an exponential delay outgrows its cap a little",
        changes=_waiting(
            lambda policy, attempt, right: right(
                replace(policy, cap_s=policy.cap_s * 1.5) if isinstance(policy, Exponential) else policy, attempt
            )
        ),
    ),
    Mutant(
        name="Retry(after) ignored",
        breaks="the policy's delay is taken instead",
        changes=_when(RetryRequested, lambda outcome, right, given: _by_policy(right, given)),
    ),
    Mutant(
        name="Retry(after=0) is falsy",
        breaks="at once becomes the policy's delay",
        changes=_when(
            RetryRequested,
            lambda outcome, right, given: _by_policy(right, given) if outcome.after_s == 0 else right,
        ),
    ),
    Mutant(
        name="Retry beyond the last attempt",
        breaks="a task that always asks runs for ever",
        changes=_when(
            RetryRequested,
            lambda outcome, right, given: Release(delay_s=2, counted=True, error=outcome.error),
        ),
    ),
    Mutant(
        name="Snooze counted",
        breaks="putting off uses up attempts",
        changes=_when(Snoozed, lambda outcome, right, given: replace(right, counted=True)),
    ),
    Mutant(
        name="Snooze at once",
        breaks="its delay is lost",
        changes=_when(Snoozed, lambda outcome, right, given: replace(right, delay_s=0.0)),
    ),
    Mutant(
        name="Reject retried",
        breaks="a refusal is a failure like any other",
        changes=_when(Rejected, lambda outcome, right, given: Release(delay_s=1, counted=True, error=outcome.error)),
    ),
    Mutant(
        name="Reject dropped",
        breaks="no dead letter of what was refused",
        changes=_when(Rejected, lambda outcome, right, given: Complete()),
    ),
    Mutant(
        name="hand-back counted",
        breaks="each deploy costs an attempt",
        changes=_when(Interrupted, lambda outcome, right, given: replace(right, counted=True)),
    ),
    Mutant(
        name="interruption decided to be final",
        breaks="each deploy loses what ran",
        changes=_when(Interrupted, lambda outcome, right, given: Bury(reason=DeadReason.FAILED)),
    ),
    Mutant(
        name="crash not counted",
        breaks="a child that dies is started for ever",
        changes=_when(
            Crashed,
            lambda outcome, right, given: replace(right, crashed=False) if isinstance(right, Release) else right,
        ),
    ),
    Mutant(
        name="crash counted as attempt",
        breaks="the machine's fault uses up the task's attempts",
        changes=_when(
            Crashed, lambda outcome, right, given: replace(right, counted=True) if isinstance(right, Release) else right
        ),
    ),
    Mutant(
        name="dead letter loses its error",
        breaks="nobody knows why",
        changes=_deciding(
            lambda outcome, right, given: replace(right, error=None) if isinstance(right, Bury) else right
        ),
    ),
    Mutant(
        name="last attempt of a dead letter not counted",
        breaks="it says one attempt fewer than it had",
        changes=_when(
            Failed, lambda outcome, right, given: replace(right, counted=False) if isinstance(right, Bury) else right
        ),
    ),
    Mutant(
        name="failure completes",
        breaks="what can't be retried is deleted",
        changes=_when(Failed, lambda outcome, right, given: Complete() if isinstance(right, Bury) else right),
    ),
    Mutant(
        name="deadline not checked before start",
        breaks="a claim whose reply is slower than its lease runs what another has finished",
        changes=_screening(lambda original, given: original(**{**given, "deadline": float("inf")})),
    ),
    Mutant(
        name="deadline in milliseconds",
        breaks="nothing starts, or everything",
        changes=_screening(lambda original, given: original(**{**given, "deadline": given["deadline"] * 1000})),
    ),
    Mutant(
        name="given up at once",
        breaks="any crash ends a message",
        changes=_screening(
            lambda original, given: Verdict.GIVE_UP if given["crashes"] else original(**given),
        ),
    ),
    Mutant(
        name="never given up",
        breaks="a message that kills workers kills them all",
        changes=_screening(lambda original, given: original(**{**given, "crashes": 0})),
    ),
)


def _by_policy(right: Any, given: Any) -> Any:
    if not isinstance(right, Release):
        return right
    rules = given["rules"]
    return replace(right, delay_s=delay_before_next(rules.retry, attempt=given["attempt"], rng=given["rng"]))
