"""Defects in the worker: when it settles, renews, hands back, ends, and calls hooks."""

import asyncio
import inspect
from typing import Any

from asynctasq.core import attempt as attempt_module
from asynctasq.core.attempt import AttemptRunner
from asynctasq.core.exception_codec import record_of
from asynctasq.core.hooks import HookCaller
from asynctasq.core.in_flight import CancelReason
from asynctasq.core.lanes.lanes import InlineLanes
from asynctasq.core.leases import LoopLeaseRenewer, _Renewals
from asynctasq.core.queue_order import QueueOrder
from asynctasq.core.reconnect import ReconnectBackoff
from asynctasq.core.shutdown import StopRequest
from asynctasq.core.waiting import NO_RESULT, WorkWaiter
from asynctasq.core.worker import Worker
from asynctasq.errors import DriverUnavailable, Reject
from asynctasq.kernel.decide import Failed, Succeeded
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Release
from asynctasq.tasks import options as options_module
from asynctasq.tasks.base import BaseTask
from tests.mutants.planting import Change, Mutant, attribute

__all__ = ["WORKER"]


def _method(owner: Any, name: str, wrong: Any) -> tuple[Change, ...]:
    """Replace an async method by `wrong(original, self, *args)`."""

    def make(original: Any) -> Any:
        async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            return await wrong(original, self, *args, **kwargs)

        return method

    return attribute(owner, name, make)


def _plain(owner: Any, name: str, wrong: Any) -> tuple[Change, ...]:
    """Replace a method by `wrong(original, self, *args)`."""

    def make(original: Any) -> Any:
        return lambda self, *args, **kwargs: wrong(original, self, *args, **kwargs)

    return attribute(owner, name, make)


async def _ack_first(original: Any, self: Any, attempt: Any) -> None:
    await self.driver.settle([(attempt.lease, Complete())])
    await original(self, attempt)


async def _run_twice(original: Any, self: Any, attempt: Any) -> Any:
    await original(self, attempt)
    return await original(self, attempt)


async def _hook_later(original: Any, self: Any, run: Any, exception: Any) -> None:
    async def later() -> None:
        await asyncio.sleep(0.5)
        await original(self, run, exception)

    self.__dict__.setdefault("later", []).append(asyncio.get_running_loop().create_task(later()))


async def _hook_twice(original: Any, self: Any, run: Any, exception: Any) -> None:
    await original(self, run, exception)
    await original(self, run, exception)


async def _hook_not_for_reject(original: Any, self: Any, run: Any, exception: Any) -> None:
    if not isinstance(exception, Reject):
        await original(self, run, exception)


async def _hook_never(original: Any, self: Any, run: Any, exception: Any) -> None:
    """Call nothing."""


async def _hook_dropped_at_stop(original: Any, self: Any, run: Any, exception: Any) -> None:
    if run.attempt.cancel_reason is None:
        await original(self, run, exception)


async def _hook_at_each_retry(original: Any, self: Any, run: Any, outcome: Any) -> Any:
    settlement = await original(self, run, outcome)
    if isinstance(settlement, Release) and settlement.counted and run.attempt.exception is not None:
        await self._hooks.failed(run, run.attempt.exception)
    return settlement


async def _give_up_silently(original: Any, self: Any, run: Any) -> Any:
    return Bury(reason=DeadReason.CRASHED)


async def _should_retry_not_awaited(original: Any, self: Any, run: Any) -> bool:
    answer = run.task.should_retry(run.attempt.exception)
    if inspect.iscoroutine(answer):
        answer.close()
    return bool(answer)


async def _turn_forgets(original: Any, self: Any, room: int) -> None:
    told = list(self._to_settle)
    await original(self, room)
    if told and self._to_settle[: len(told)] == told:
        del self._to_settle[: len(told)]


async def _gives_up_at_once(original: Any, self: Any, error: Any) -> None:
    raise DriverUnavailable("one failed call ends this worker") from error


def _end_lost_too(original: Any, self: Any, attempt: Any, settlement: Any) -> None:
    if attempt.cancel_reason is CancelReason.LEASE_LOST:
        attempt.cancel_reason = None
    original(self, attempt, settlement)


def _end_counted(original: Any, self: Any, attempt: Any, settlement: Any) -> None:
    original(self, attempt, settlement or Release(counted=True))


def _end_buries(original: Any, self: Any, attempt: Any, settlement: Any) -> None:
    wrong = attempt.cancel_reason is CancelReason.WORKER_STOPS
    original(self, attempt, Bury(reason=DeadReason.FAILED) if wrong else settlement)


def _end_completes(original: Any, self: Any, attempt: Any, settlement: Any) -> None:
    original(self, attempt, settlement or Complete())


def _room_with(**wrong: Any) -> tuple[Change, ...]:
    """Compute the room with other settings: each is a function of the worker."""

    def room(original: Any, self: Any) -> int:
        right = {name: getattr(self, name) for name in wrong}
        try:
            for name, value in wrong.items():
                setattr(self, name, value(self))
            return int(original(self))
        finally:
            for name, value in right.items():
                setattr(self, name, value)

    return _plain(Worker, "_free_slots", room)


def _ended_early(original: Any, self: Any, room: int) -> bool:
    return bool(self.settings.burst or original(self, room))


def _never_ended(original: Any, self: Any, room: int) -> bool:
    return bool(not self.settings.burst and original(self, room))


def _renewed_once(original: Any, self: Any, leases: Any, lost: Any, asked_at: float) -> Any:
    return original(self, leases, lost, asked_at + 1000)


def _cancel_is_failure(original: Any, self: Any, run: Any, error: Any) -> Any:
    run.attempt.cancel_reason = None
    return original(self, run, error)


def _retry_is_failure(original: Any, self: Any, run: Any, error: Any) -> Any:
    outcome = original(self, run, error)
    return Failed(error=outcome.error) if type(outcome).__name__ == "RetryRequested" else outcome


def _snooze_is_failure(original: Any, self: Any, run: Any, error: Any) -> Any:
    outcome = original(self, run, error)
    wrong = type(outcome).__name__ == "Snoozed"
    return Failed(error=record_of(error)) if wrong else outcome


def _not_to_bury(original: Any, self: Any, attempt: Any, error: Any) -> Any:
    return Release(counted=False)


def _timed(wrong: Any) -> tuple[Change, ...]:
    async def run_async(original: Any, self: Any, task: Any, timeout_s: Any) -> Any:
        return await original(self, task, wrong(timeout_s))

    return _method(InlineLanes, "run_async", run_async)


def _zero_is_none(original: Any) -> Any:
    def seconds(value: Any, what: str, *, above_zero: bool) -> Any:
        return (
            (original(value, what, above_zero=False) or None)
            if what == "timeout"
            else original(value, what, above_zero=above_zero)
        )

    return seconds


def _wrapped(original: Any) -> Any:
    def wrapped(error: BaseException) -> Any:
        return original(RuntimeError(f"job failed: {error}"))

    return wrapped


def _waits_on(original: Any, self: Any, *, clock: Any, timeout_s: float) -> None:
    original(self, clock=clock, timeout_s=timeout_s + 500)


async def _waits_not(original: Any, self: Any, deadline: float) -> bool:
    return False


WORKER: tuple[Mutant, ...] = (
    Mutant(name="ack before run", breaks="a crash loses the task", changes=_method(Worker, "_run_attempt", _ack_first)),
    Mutant(name="run twice", breaks="one lease, two runs", changes=_method(AttemptRunner, "_execute", _run_twice)),
    Mutant(
        name="hook after the commit",
        breaks="a crash between the two loses failed()",
        changes=_method(HookCaller, "failed", _hook_later),
    ),
    Mutant(name="failed hook twice", breaks="once", changes=_method(HookCaller, "failed", _hook_twice)),
    Mutant(name="failed hook never", breaks="once", changes=_method(HookCaller, "failed", _hook_never)),
    Mutant(
        name="failed hook skipped on Reject",
        breaks="a refusal is final too",
        changes=_method(HookCaller, "failed", _hook_not_for_reject),
    ),
    Mutant(
        name="failed hook skipped while stopping",
        breaks="the dead letter is written all the same",
        changes=_method(HookCaller, "failed", _hook_dropped_at_stop),
        recorded="asynctasq itself, until this hunt",
    ),
    Mutant(
        name="failed hook skipped when given up",
        breaks="a message that killed its workers dies unheard",
        changes=_method(AttemptRunner, "_give_up", _give_up_silently),
    ),
    Mutant(
        name="failed hook at each retry",
        breaks="only the final failure is told",
        changes=_method(AttemptRunner, "_settle", _hook_at_each_retry),
        recorded="Celery 2330",
    ),
    Mutant(
        name="error of a hook fails the attempt",
        breaks="a broken failed() makes the task run again",
        changes=_plain(HookCaller, "_hook_raised", lambda original, self, run, hook, error: _raise(error)),
    ),
    Mutant(
        name="should_retry not awaited",
        breaks="a coroutine is truthy",
        changes=_method(HookCaller, "should_retry", _should_retry_not_awaited),
    ),
    Mutant(
        name="lost lease's outcome still settled",
        breaks="what another worker has is settled by the one that lost it",
        changes=_plain(Worker, "_end_attempt", _end_lost_too),
    ),
    Mutant(
        name="settle forgotten after an outage",
        breaks="what ended while the backend was away runs again",
        changes=_method(Worker, "_turn", _turn_forgets),
    ),
    Mutant(
        name="one failed call ends the worker",
        breaks="a restart of the backend takes all workers down",
        changes=_method(ReconnectBackoff, "wait", _gives_up_at_once),
    ),
    Mutant(
        name="worker counts an interrupted attempt",
        breaks="each deploy costs an attempt",
        changes=_plain(Worker, "_end_attempt", _end_counted),
    ),
    Mutant(
        name="interrupted attempt buried",
        breaks="each deploy loses what ran",
        changes=_plain(Worker, "_end_attempt", _end_buries),
    ),
    Mutant(
        name="worker completes an interrupted attempt",
        breaks="each deploy loses what ran",
        changes=_plain(Worker, "_end_attempt", _end_completes),
    ),
    Mutant(
        name="interruption is a failure",
        breaks="CancelledError goes through the retry policy",
        changes=_plain(AttemptRunner, "_raised", _cancel_is_failure),
    ),
    Mutant(
        name="Retry is a failure",
        breaks="asking for a retry asks should_retry, and forgets its delay",
        changes=_plain(AttemptRunner, "_raised", _retry_is_failure),
        recorded="Celery 2164",
    ),
    Mutant(
        name="Snooze is a failure", breaks="it counts", changes=_plain(AttemptRunner, "_raised", _snooze_is_failure)
    ),
    Mutant(
        name="garbage released at once",
        breaks="a hot loop",
        changes=_plain(AttemptRunner, "_unrunnable", _not_to_bury),
    ),
    Mutant(
        name="garbage completed",
        breaks="no dead letter of what could not be read",
        changes=_plain(AttemptRunner, "_unrunnable", lambda original, self, attempt, error: Complete()),
    ),
    Mutant(
        name="result not returned",
        breaks="what execute returned is dropped",
        changes=_plain(AttemptRunner, "_returned", lambda original, self, run, value: Succeeded()),
    ),
    Mutant(
        name="error wrapped",
        breaks="the dead letter tells of another exception than the task's",
        changes=attribute(attempt_module, "record_of", _wrapped),
        recorded="ActiveJob 41290",
    ),
    Mutant(
        name="leases not renewed",
        breaks="a long task runs twice",
        changes=_plain(LoopLeaseRenewer, "add", lambda original, self, attempt: None),
    ),
    Mutant(
        name="leases renewed once",
        breaks="a very long task runs twice",
        changes=_plain(_Renewals, "apply_reply", _renewed_once),
    ),
    Mutant(
        name="attempt goes on after its lease is lost",
        breaks="two workers run it to the end",
        changes=_plain(Worker, "_on_lost", lambda original, self, lost: None),
    ),
    Mutant(name="burst ends early", breaks="work is left", changes=_plain(Worker, "_is_done", _ended_early)),
    Mutant(name="burst never ends", breaks="it waits", changes=_plain(Worker, "_is_done", _never_ended)),
    Mutant(
        name="max_tasks off by one",
        breaks="one more than told",
        changes=_room_with(max_tasks=lambda self: None if self.max_tasks is None else self.max_tasks + 1),
    ),
    Mutant(
        name="max_tasks seen too late",
        breaks="max_tasks=2 with concurrency 10 runs ten",
        changes=_room_with(
            max_tasks=lambda self: (
                self.max_tasks and self.max_tasks + self.concurrency * (self._started < self.max_tasks)
            )
        ),
    ),
    Mutant(
        name="concurrency off by one",
        breaks="one more at once than told",
        changes=_room_with(concurrency=lambda self: self.concurrency + 1),
    ),
    Mutant(
        name="wake-up dropped",
        breaks="a worker is woken for a message and does not reserve it",
        changes=_plain(WorkWaiter, "collect", lambda original, self: original(self) and NO_RESULT),
    ),
    Mutant(
        name="strict order reversed",
        breaks="the most important queue comes last",
        changes=_plain(QueueOrder, "next", lambda original, self: list(reversed(original(self)))),
    ),
    Mutant(
        name="weights ignored",
        breaks="the first queue starves the others",
        changes=_plain(QueueOrder, "next", lambda original, self: self.names),
    ),
    Mutant(name="stop ignored", breaks="it goes on", changes=_plain(Worker, "stop", lambda original, self, **_: None)),
    Mutant(
        name="shutdown waits on",
        breaks="its time limit is not kept",
        changes=_plain(StopRequest, "__init__", _waits_on),
    ),
    Mutant(
        name="shutdown waits for nothing",
        breaks="what could have ended in time is interrupted",
        changes=_method(Worker, "_wait_for_wake_up", _waits_not),
    ),
    Mutant(name="timeout ignored", breaks="a task runs for ever", changes=_timed(lambda timeout_s: None)),
    Mutant(
        name="timeout in milliseconds",
        breaks="the unit",
        changes=_timed(lambda timeout_s: timeout_s and timeout_s / 1000),
    ),
    Mutant(
        name="timeout=0 falsy",
        breaks="no time at all becomes no limit",
        changes=attribute(options_module, "seconds", _zero_is_none),
    ),
    Mutant(
        name="retry_after of a dispatch lost",
        breaks="the class's delay is taken",
        changes=_plain(BaseTask, "retry_after", lambda original, self, delay: self),
    ),
)


def _raise(error: BaseException) -> None:
    raise error
