"""Defects in what a task says of itself: its age, the types of failures it retries, its dispatch."""

from dataclasses import replace
from typing import Any

from asynctasq import queue as queue_module
from asynctasq.core import attempt as attempt_module
from asynctasq.core import hooks as hooks_module
from asynctasq.core.attempt import AttemptRunner
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.kernel.decide import Failed, Verdict, attempts_remain
from asynctasq.kernel.messages import Bury, DeadReason, ErrorRecord, Release
from tests.mutants.planting import Mutant, planter

__all__ = ["WORDS"]

WORDS: list[Mutant] = []
_plant = planter(WORDS)


def _judging(**wrong: Any) -> Any:
    """Judge the age with some of what is known read wrongly: each value is a function of the right one."""

    def make(original: Any) -> Any:
        def is_expired(lease: Any, **given: Any) -> bool:
            return bool(
                original(lease, **{key: wrong[key](value) if key in wrong else value for key, value in given.items()})
            )

        return is_expired

    return make


def _age(called: str, breaks: str, make: Any) -> None:
    _plant(attempt_module, "is_expired", called, breaks)(make)


_age("expiry not judged", "what nobody needs any more runs", lambda original: lambda lease, **given: False)
_age("expired a second early", "what still had time is given up", _judging(expires_s=lambda right: right - 1))
_age("expired a microsecond late", "what has expired runs", _judging(expires_s=lambda right: right + 1e-6))
_age("the lease counts as age", "what still had time is given up", _judging(lease_s=lambda right: 0.0))


@_plant(AttemptRunner, "_screen", "expiry judged on the worker's clock", "a wrong clock gives up what is young")
def _by_own_clock(original: Any) -> Any:
    def screen(self: Any, attempt: Any, envelope: Any) -> Any:
        verdict = original(self, attempt, replace(envelope, expires_s=None))
        age_s = self._environment.clock.now() - attempt.lease.enqueued_at
        expired = envelope.expires_s is not None and age_s >= envelope.expires_s
        return Verdict.EXPIRE if verdict is Verdict.RUN and expired else verdict

    return screen


@_plant(AttemptRunner, "_expire", "failed() not called of what expired", "nobody is told of what was not done")
def _untold(original: Any) -> Any:
    async def expire(self: Any, attempt: Any, envelope: Any) -> Any:
        return Bury(reason=DeadReason.EXPIRED, error=ErrorRecord(type="TaskExpiredError", message="too old"))

    return expire


@_plant(AttemptRunner, "_expire", "failed() called twice of what expired", "what failed() undoes is undone twice")
def _told_twice(original: Any) -> Any:
    async def expire(self: Any, attempt: Any, envelope: Any) -> Any:
        await original(self, attempt, envelope)
        return await original(self, attempt, envelope)

    return expire


@_plant(AttemptRunner, "_expire", "what expired is put off", "it is never over")
def _put_off(original: Any) -> Any:
    async def expire(self: Any, attempt: Any, envelope: Any) -> Any:
        return replace(Release(counted=False), delay_s=3600.0)

    return expire


@_plant(MemoryDriver, "redrive", "redriven as old as ever", "what expired can't be driven again")
def _as_old(original: Any) -> Any:
    async def redrive(self: Any, queue: str, *, limit: int) -> int:
        before = {name: row.enqueued_us for name, row in self._rows.items()}
        moved = await original(self, queue, limit=limit)
        for name, enqueued_us in before.items():
            self._rows[name].enqueued_us = enqueued_us
        return int(moved)

    return redrive


def _typed(called: str, breaks: str, wrong: Any) -> None:
    """Enter a defect in the rule on types; `wrong(original, failure, given)` answers in its place."""

    def make(original: Any) -> Any:
        return lambda failure, **given: wrong(original, failure, given)

    _plant(hooks_module, "is_retried", called, breaks)(make)


_typed(
    "give_up_on ignored",
    "what can't succeed is tried again",
    lambda original, failure, given: original(failure, **{**given, "give_up_on": None}),
)
_typed(
    "retry_on inverted",
    "the wrong failures are retried",
    lambda original, failure, given: original(lambda types: not failure(types), **{**given, "give_up_on": None}),
)
_typed(
    "retry_on ignored",
    "every failure is retried",
    lambda original, failure, given: original(failure, **{**given, "retry_on": None}),
)
_typed(
    "retry_on wins over give_up_on",
    "an exception to the rule is none",
    lambda original, failure, given: (
        original(failure, **{**given, "give_up_on": None})
        if given["retry_on"] and failure(given["retry_on"])
        else original(failure, **given)
    ),
)


@_plant(hooks_module, "is_one_of", "only the very type counts", "what derives from a type of the list is not one of it")
def _very_type(original: Any) -> Any:
    return lambda error, types: type(error) in types


@_plant(attempt_module, "asks_should_retry", "should_retry asked although give_up_on matched", "the type had decided")
def _asked_all_the_same(original: Any) -> Any:
    def asks(outcome: Any, *, attempt: int, max_attempts: int) -> bool:
        return isinstance(outcome, Failed) and attempts_remain(attempt, max_attempts)

    return asks


@_plant(queue_module, "check_unchanged", "an assigned attribute stays behind", "the worker runs with the old value")
def _unchecked(original: Any) -> Any:
    return lambda task, definition, given: None


@_plant(queue_module, "_delay_s", "at() forgotten", "what is for later runs now")
def _forgotten(original: Any) -> Any:
    return lambda options, now, definition: original(replace(options, at=None), now, definition)


@_plant(queue_module, "_delay_s", "what has passed waits as long again", "at() with an instant of the past waits")
def _mirrored(original: Any) -> Any:
    def delay_s(options: Any, now: float, definition: Any) -> float:
        if options.at is not None and options.at < now:
            return 5.0
        return float(original(options, now, definition))

    return delay_s
