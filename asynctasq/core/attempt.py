"""Runs ONE attempt: from a lease to the settlement that ends it. Talks to no driver."""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, cast

from asynctasq.core.around_attempt import run_within
from asynctasq.core.cancelled_attempts import CancelledAttempts
from asynctasq.core.current_task import running_task
from asynctasq.core.exception_codec import log_error, record_of
from asynctasq.core.failure_log import log_failure, logger
from asynctasq.core.hooks import AttemptEnvironment, HookCaller, may_retry, record_event
from asynctasq.core.in_flight import (
    AttemptRun,
    CancelReason,
    CompletionFactory,
    InFlightAttempt,
    TransactionOutcome,
    clear_cancellation,
)
from asynctasq.core.lanes.child import ReplyKind, Request
from asynctasq.core.lanes.lanes import Lanes
from asynctasq.core.lanes.process_pool import ChildCrashed
from asynctasq.core.limits import LimitedAttempts
from asynctasq.core.runtime import WorkerSettings
from asynctasq.core.snoozes import Snoozes
from asynctasq.core.task_factory import TaskFactory, dead_reason_of
from asynctasq.core.tickers import Tickers
from asynctasq.core.tracebacks import drop_library_frames, exception_text
from asynctasq.drivers.base import Driver
from asynctasq.errors import (
    CodecError,
    DispatchError,
    ModelNotFoundError,
    Reject,
    Retry,
    Snooze,
    TaskExpiredError,
    UnsupportedVersion,
    WorkerCrashedError,
)
from asynctasq.kernel.decide import (
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
    newer_version_delay_s,
    screen,
)
from asynctasq.kernel.envelope import MAX_CRASHES_DEFAULT, MAX_CRASHES_MOST, Envelope
from asynctasq.kernel.ledger import Kind
from asynctasq.kernel.limits import LIMIT_TASK
from asynctasq.kernel.messages import Bury, Complete, DeadReason, ErrorRecord, Release, Settlement
from asynctasq.kernel.retry import Fixed
from asynctasq.kernel.schedule import TICKER_TASK
from asynctasq.logs import running_attempt
from asynctasq.tasks.base import AsyncTask, SyncTask
from asynctasq.tasks.completing import running_completion
from asynctasq.tasks.definition import set_running_attempt
from asynctasq.tasks.middleware import Middleware
from asynctasq.tasks.mode import Mode
from asynctasq.tasks.registry import source_file

__all__ = ["AttemptRunner"]

T = TypeVar("T")


class AttemptRunner:
    """Runs attempts one at a time or many at once; of those that have ended it knows which were snoozed.

    Of `settings` count `lease_s`, which leases were asked for, `hook_timeout_s`, which bounds `failed`, `should_retry`,
    and entering and leaving one of `middleware`, and `fetch_values`: the value that a child process returned is in
    `InFlightAttempt.value` too, whether or not it is kept. Without `completion_factory` no task can settle itself.
    `tickers` run the messages that keep schedules going, `limits` the attempts of tasks that have any. `driver`, which
    leased what is run, tells what was cancelled.
    """

    def __init__(  # noqa: PLR0913 - the parts of a worker
        self,
        task_factory: TaskFactory,
        lanes: Lanes,
        *,
        environment: AttemptEnvironment,
        settings: WorkerSettings,
        completion_factory: CompletionFactory | None = None,
        tickers: Tickers | None = None,
        driver: Driver | None = None,
        limits: LimitedAttempts | None = None,
    ) -> None:
        self._task_factory = task_factory
        self._lanes = lanes
        self._environment = environment
        self._settings = settings
        self._completion_factory = completion_factory
        self._tickers = tickers
        self._limits = limits
        middleware = settings.middleware or ()
        self._middleware = [each for each in middleware if type(each).attempting is not Middleware.attempting]
        self._snoozes = Snoozes()
        self._hooks = HookCaller(task_factory, lanes, environment=environment, timeout_s=settings.hook_timeout_s)
        limit_s = settings.lease_s / 3
        self.cancelled_attempts = CancelledAttempts(driver, self._hooks, environment=environment, limit_s=limit_s)

    def run(self, attempt: InFlightAttempt) -> Coroutine[Any, Any, Settlement | None]:
        """Run the attempt and return how to settle it; None if the lease ended before anything ran."""
        scope = self._environment.attempt_scope()
        running = self._run_and_tell(attempt)
        return running if scope is None else _within(scope, running)

    async def _run_and_tell(self, attempt: InFlightAttempt) -> Settlement | None:
        """Run the attempt; if its lease is lost, its task may have been cancelled, and then hears of it."""
        try:
            return await self._run(attempt)
        finally:
            if attempt.cancel_reason is not None:
                await self.cancelled_attempts.end(attempt)

    async def _run(self, attempt: InFlightAttempt) -> Settlement | None:
        lease = attempt.lease
        if lease.crashes >= 2 * MAX_CRASHES_MOST:  # `screen` would bury it whatever limit its body has
            return self._bury_crashed(attempt)
        try:
            envelope = self._task_factory.decode(lease.message_id, lease.body, queue=lease.queue)
        except UnsupportedVersion as error:
            return self._newer_version(attempt, error)
        except CodecError as error:
            return self._unrunnable(attempt, error)
        if envelope.task == TICKER_TASK and self._tickers is not None:
            return await self._tickers.tick(attempt, envelope)
        if envelope.task == LIMIT_TASK and self._limits is not None:
            return await self._limits.lines.look(attempt, envelope)
        attempt.task_name, attempt.max_attempts = envelope.task, envelope.max_attempts
        running_attempt.set(attempt)
        if attempt.asyncio_task is not None:
            attempt.asyncio_task.set_name(str(attempt))
        verdict = self._screen(attempt, envelope)
        if verdict is Verdict.RUN:
            return await self._import_and_run(attempt, envelope)
        return await self._end_unstarted(attempt, envelope, verdict)

    def _screen(self, attempt: InFlightAttempt, envelope: Envelope) -> Verdict:
        now, lease, expired = self._environment.clock.monotonic(), attempt.lease, False
        if (expires_s := envelope.expires_s) is not None:
            attempt.held_since = now if attempt.held_since is None else attempt.held_since
            held_s = now - attempt.held_since
            expired = is_expired(lease, lease_s=self._settings.lease_s, held_s=held_s, expires_s=expires_s)
        crashes, most, deadline = lease.crashes, envelope.max_crashes, attempt.deadline
        return screen(crashes=crashes, max_crashes=most, deadline=deadline, now=now, expired=expired)

    async def _end_unstarted(self, attempt: InFlightAttempt, envelope: Envelope, verdict: Verdict) -> Settlement | None:
        """Return how a message is settled of which nothing may run; None if the lease has ended."""
        match verdict:
            case Verdict.STALE:
                return None
            case Verdict.BURY:
                return self._bury_crashed(attempt)
            case Verdict.EXPIRE:
                return await self._expire(attempt, envelope)
            case _:
                return await self._give_up(attempt, envelope)

    async def _import_and_run(self, attempt: InFlightAttempt, envelope: Envelope) -> Settlement | None:
        lease = attempt.lease
        try:
            invocation = await self._task_factory.find(lease.message_id, lease.attempt, envelope)
        except CodecError as error:
            return self._unrunnable(attempt, error)
        verdict = self._screen(attempt, envelope)  # the import may have taken long
        if verdict is not Verdict.RUN:
            return await self._end_unstarted(attempt, envelope, verdict)
        run = AttemptRun(attempt, invocation)
        if invocation.definition.limits and self._limits is not None:
            return await self._limits.run(run, self._start_in_time)
        return await self._start(run)

    async def _start_in_time(self, run: AttemptRun) -> Settlement | None:
        """Do `_start`, unless taking tokens has taken too long."""
        attempt, envelope = run.attempt, run.invocation.envelope
        verdict = self._screen(attempt, envelope)
        if verdict is not Verdict.RUN:
            return await self._end_unstarted(attempt, envelope, verdict)
        return await self._start(run)

    async def _start(self, run: AttemptRun) -> Settlement | None:
        attempt = run.attempt
        outcome = await self._execute(run)
        if attempt.cancel_reason is CancelReason.CANCELLED:
            run.went_on = not (isinstance(outcome, Interrupted) or run.invocation.definition.mode is Mode.THREAD)
            return None
        if attempt.settled_in_transaction and not isinstance(outcome, Succeeded | Interrupted):
            return await self._after_completion(run, outcome)
        return await self._settle(run, outcome)

    # -- executing ---------------------------------------------------------------------------------

    async def _execute(self, run: AttemptRun) -> Outcome:
        """Run the task's code and return the outcome, whatever it raises."""
        run.attempt.run = run
        record_event(self._environment, run.attempt, Kind.STARTED, run.attempt.task_name)
        try:
            outcome = await self._in_lane(run)
        except BaseException as error:  # noqa: BLE001 - user code may raise anything
            outcome = self._raised(run, error)
        if self._environment.record is not None:
            attempt, detail = run.attempt, _outcome_detail(outcome)
            record_event(self._environment, attempt, Kind.ENDED, detail, attempt.exception, attempt.value)
        return outcome

    async def _in_lane(self, run: AttemptRun) -> Outcome:
        envelope, mode = run.invocation.envelope, run.invocation.definition.mode
        if mode.in_process:
            replied = self._in_process(run)
            replied = replied if run.limited is None else run.limited.before(replied)
            if self._middleware:
                run.built = True  # what middleware raises says nothing of the message
                replied = run_within(self._middleware, run, replied, timeout_s=self._settings.hook_timeout_s)
            return await replied
        task = run.task = await self._task_factory.build(run.invocation, timeout_s=envelope.timeout_s)
        run.built = True
        running_task.set(task)
        set_running_attempt(task, run.attempt)
        if self._completion_factory is not None:
            run.completion = self._completion_factory.completion(run.attempt, task, envelope.keep_result_s)
        token = running_completion.set(run.completion)
        try:
            if mode is Mode.LOOP:
                returned = self._lanes.run_async(cast("AsyncTask[object]", task), envelope.timeout_s)
                returned = returned if run.limited is None else run.limited.before(returned, enters=True)
            else:
                returned = self._in_thread(run, cast("SyncTask[object]", task), envelope.timeout_s)
            if self._middleware:
                returned = run_within(self._middleware, run, returned, timeout_s=self._settings.hook_timeout_s)
            value = await returned
        finally:
            running_completion.reset(token)  # the hooks of a failed attempt must not complete it
        return self._returned(run, value)

    async def _in_thread(self, run: AttemptRun, task: SyncTask[object], timeout_s: float | None) -> object:
        limited = run.limited
        execute = task.execute if limited is None else limited.calling(task.execute)
        returned = self._lanes.run_blocking(execute, timeout_s, what=run.attempt.task_name)
        run.attempt.in_thread = True
        try:
            return await (returned if limited is None else limited.before(returned))
        finally:
            run.attempt.in_thread = False

    async def _in_process(self, run: AttemptRun) -> Outcome:
        invocation, lease = run.invocation, run.attempt.lease
        ttl_s = invocation.envelope.keep_result_s
        request = Request(
            message_id=lease.message_id,
            attempt=lease.attempt,
            body=lease.body,
            keep_result=ttl_s is not None or self._settings.fetch_values,
            file=source_file(invocation.cls),
        )
        reply = await self._lanes.run_in_process(request, invocation.envelope.timeout_s)
        match reply.kind:
            case ReplyKind.RETURNED:
                if self._settings.fetch_values and reply.result is not None:
                    run.attempt.value = self._task_factory.unpack_result(invocation.definition, reply.result)
                if ttl_s is None or reply.result is None:
                    return Succeeded()
                signed = self._task_factory.sign_result(lease.message_id, reply.result)
                return Succeeded(result=signed, result_ttl_s=ttl_s)
            case ReplyKind.BAD_RESULT:
                run.attempt.exception = reply.exception()
                return Failed(error=record_of(run.attempt.exception), wants_retry=False)
            case ReplyKind.NOT_BUILT | ReplyKind.RAISED:
                run.built = reply.kind is ReplyKind.RAISED
                raise reply.exception()

    def _returned(self, run: AttemptRun, value: object) -> Outcome:
        run.attempt.value = value
        if run.attempt.settled_in_transaction:  # with the result, if it is to be kept
            return Succeeded()
        ttl_s = run.invocation.envelope.keep_result_s
        if ttl_s is None:
            return Succeeded()
        try:
            result = self._task_factory.pack_result(run.invocation.definition, value)
        except (CodecError, DispatchError) as error:  # running it again would not change its type
            run.attempt.exception = error
            return Failed(error=record_of(error), wants_retry=False)
        signed = self._task_factory.sign_result(run.attempt.lease.message_id, result)
        return Succeeded(result=signed, result_ttl_s=ttl_s)

    def _raised(self, run: AttemptRun, error: BaseException) -> Outcome:
        if run.attempt.cancel_reason is not None:
            return Interrupted()
        run.attempt.exception = error
        try:
            if isinstance(error, asyncio.CancelledError):
                clear_cancellation()
            drop_library_frames(error)
            return self._outcome_of(run, error)
        except BaseException:  # noqa: BLE001 - the attributes of an exception, even __class__, may be user code
            return Failed(error=record_of(error))

    def _outcome_of(self, run: AttemptRun, error: BaseException) -> Outcome:
        reason = None if run.built else dead_reason_of(error)
        match error:
            case Snooze():
                return Snoozed(delay_s=float(error.delay_s), again=self._snoozes.again(run.attempt.lease.message_id))
            case Retry():
                after_s = None if error.after_s is None else float(error.after_s)
                return RetryRequested(error=record_of(error), after_s=after_s)
            case Reject():
                return Rejected(error=record_of(error))
            case ChildCrashed():
                return Crashed(error=record_of(error))
            case ModelNotFoundError() if error.final and not run.built:
                return Failed(error=record_of(error), wants_retry=False)
            case _ if reason is not None:
                return Unrunnable(reason=reason, error=record_of(error))
            case _:
                return Failed(error=record_of(error), wants_retry=may_retry(run, error))

    # -- settling ----------------------------------------------------------------------------------

    def settle_broken(self, attempt: InFlightAttempt, error: BaseException, *, delay_s: float) -> Settlement:
        """Return how to settle an attempt that `run` could not bring to its end: as a failed one, so it is counted."""
        rules = Rules(max_attempts=attempt.max_attempts, retry=Fixed(delay_s=delay_s), max_crashes=MAX_CRASHES_DEFAULT)
        outcome, lease = Failed(error=record_of(error)), attempt.lease
        return decide(outcome, attempt=lease.attempt, crashes=lease.crashes, rules=rules, rng=self._environment.rng)

    async def _after_completion(self, run: AttemptRun, outcome: Outcome) -> Settlement | None:
        """Settle an attempt that raised after it had settled itself: by its error only if that was rolled back."""
        assert run.completion is not None, "the completion has settled the attempt"
        attempt = run.attempt
        attempt.settled_in_transaction = None
        match await run.completion.transaction_outcome():
            case TransactionOutcome.ROLLED_BACK:
                return await self._settle(run, outcome)
            case TransactionOutcome.COMMITTED:
                error = attempt.exception or WorkerCrashedError("the attempt did not end")
                text = f"{attempt} raised {exception_text(error, repr)} after its own transaction had completed it"
                log_error(logger, logging.ERROR, f"{text}; it stays complete", error)
                attempt.settled_in_transaction = True
                return Complete()
            case TransactionOutcome.UNKNOWN:
                attempt.cancel_reason = attempt.cancel_reason or CancelReason.LEASE_LOST
                record_event(self._environment, attempt, Kind.LOST)
                return None

    async def _settle(self, run: AttemptRun, outcome: Outcome) -> Settlement:
        envelope, lease = run.invocation.envelope, run.attempt.lease
        rules = Rules(max_attempts=envelope.max_attempts, retry=envelope.retry, max_crashes=envelope.max_crashes)
        if isinstance(outcome, Failed) and asks_should_retry(
            outcome, attempt=lease.attempt, max_attempts=rules.max_attempts
        ):
            outcome = Failed(error=outcome.error, wants_retry=await self._hooks.should_retry(run))
        if isinstance(outcome, Interrupted) and run.invocation.definition.mode is Mode.THREAD:
            return self._after_thread(run.attempt)
        settlement = decide(
            outcome, attempt=lease.attempt, crashes=lease.crashes, rules=rules, rng=self._environment.rng
        )
        if run.attempt.exception is not None:
            log_failure(run.attempt, run.attempt.exception, outcome, settlement)
        if isinstance(settlement, Bury) and not isinstance(outcome, Unrunnable):
            exception = run.attempt.exception
            if settlement.reason is DeadReason.CRASHED:
                exception = run.attempt.crash_error(lease.crashes + 1)
            await self._hooks.failed(run, exception or WorkerCrashedError("the attempt did not end"))
        return settlement

    def _after_thread(self, attempt: InFlightAttempt) -> Settlement:
        """Make the message visible when its lease would have ended: the thread can't be stopped and may still run."""
        return Release(delay_s=max(0.0, attempt.deadline - self._environment.clock.monotonic()), counted=False)

    async def _give_up(self, attempt: InFlightAttempt, envelope: Envelope) -> Settlement:
        """Bury a message whose workers died `max_crashes` times; call its `failed` hook if its task can be built."""
        await self._tell_failed(attempt, envelope, attempt.crash_error(attempt.lease.crashes))
        return self._bury_crashed(attempt)

    async def _expire(self, attempt: InFlightAttempt, envelope: Envelope) -> Settlement:
        """Bury a message that is too old to start; call its `failed` hook if its task can be built."""
        number, age = attempt.lease.attempt, f"{envelope.expires_s:g} s after its dispatch"
        error = TaskExpiredError(f"{attempt.task_name} has expired: {age} attempt {number} had not started")
        logger.warning("message %s becomes a dead letter: %s", attempt.lease.message_id, error)
        await self._tell_failed(attempt, envelope, error)
        return Bury(reason=DeadReason.EXPIRED, error=record_of(error))

    async def _tell_failed(self, attempt: InFlightAttempt, envelope: Envelope, error: Exception) -> None:
        """Call `failed` of a task of which nothing else runs any more, if it can be found."""
        invocation = await self._hooks.find(attempt, envelope, hook="failed")
        if invocation is not None:
            await self._hooks.failed(AttemptRun(attempt, invocation), error)

    def _bury_crashed(self, attempt: InFlightAttempt) -> Settlement:
        error = attempt.crash_error(attempt.lease.crashes)
        logger.error("message %s becomes a dead letter: %s", attempt.lease.message_id, error)
        return Bury(reason=DeadReason.CRASHED, error=record_of(error))

    def _newer_version(self, attempt: InFlightAttempt, error: UnsupportedVersion) -> Settlement:
        lease = attempt.lease
        delay_s = newer_version_delay_s(lease.expires_at - lease.enqueued_at)
        if delay_s is None:
            return self._unrunnable(attempt, error)
        logger.warning("message %s is left for a newer worker: %s", lease.message_id, error)
        return Release(delay_s=delay_s, counted=False, error=record_of(error))

    def _unrunnable(self, attempt: InFlightAttempt, error: CodecError) -> Settlement:
        logger.error(
            "message %s can't run and becomes a dead letter: %s", attempt.lease.message_id, exception_text(error)
        )
        reason = dead_reason_of(error) or DeadReason.UNDECODABLE
        return Bury(reason=reason, error=record_of(error))


def _outcome_detail(outcome: Outcome) -> str:
    error: ErrorRecord | None = getattr(outcome, "error", None)
    name = type(outcome).__name__.lower()
    return name if error is None else f"{name}: {error.type}: {error.message}"


async def _within(scope: AbstractAsyncContextManager[None], running: Coroutine[Any, Any, T]) -> T:
    try:
        async with scope:
            return await running
    finally:
        running.close()  # which the scope may have kept from beginning
