"""Runs ONE attempt: from a lease to the settlement that ends it. Talks to no driver."""

import asyncio
import enum
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

from asynctasq.clock import Clock
from asynctasq.core.current_task import running_task
from asynctasq.core.exception_codec import record_of
from asynctasq.core.in_flight import Fate, Held
from asynctasq.core.lanes.child import ReplyKind, Request
from asynctasq.core.lanes.lanes import Lanes
from asynctasq.core.lanes.process_pool import ChildCrashed
from asynctasq.core.orms import attempt_scope
from asynctasq.core.task_factory import BadArguments, Builder, Invocation, reason_of
from asynctasq.core.tracebacks import forget_our_frames
from asynctasq.errors import (
    CodecError,
    DispatchError,
    ModelNotFoundError,
    Reject,
    Retry,
    Snooze,
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
    screen,
)
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.messages import Bury, Complete, DeadReason, ErrorRecord, Release, Settlement
from asynctasq.kernel.retry import RandomSource
from asynctasq.tasks.base import AsyncTask, BaseTask, SyncTask
from asynctasq.tasks.completing import Completion, running_completion
from asynctasq.tasks.mode import Mode

__all__ = ["AttemptCompletion", "AttemptRunner", "Completions", "Fate", "Held", "Sequel"]

logger = logging.getLogger(__name__)

NEWER_VERSION_DELAY_S = 60.0


class AttemptEnvironment(Protocol):
    """What an attempt needs of its worker's runtime. `record` receives ledger entries."""

    clock: Clock
    rng: RandomSource
    name: str
    record: Callable[[Entry], None] | None


class Sequel(enum.Enum):
    """What became of the transaction an attempt had settled itself in, when it raised afterwards."""

    ROLLED_BACK = "rolled back"
    COMMITTED = "committed"
    UNKNOWN = "unknown"


class AttemptCompletion(Completion, Protocol):
    """The completion of one attempt, as its worker sees it."""

    async def sequel(self) -> Sequel:
        """Find out whether the transaction was committed; if it was rolled back the lease is renewed again."""
        ...


class Completions(Protocol):
    """What lets tasks settle their attempts themselves."""

    def completion(self, held: Held, task: BaseTask[Any], keep_result_s: float | None) -> AttemptCompletion:
        """Return what lets `task` settle this attempt."""
        ...


@dataclass(slots=True)
class _Run:
    """What is known of an attempt so far."""

    held: Held
    invocation: Invocation
    task: BaseTask[Any] | None = None
    built: bool = False  # here, or in a child
    completion: AttemptCompletion | None = None


class AttemptRunner:
    """Runs attempts one at a time or many at once; holds no state of any of them.

    `hook_timeout_s` bounds `failed` and `should_retry`; without `completions` no task can settle itself. With
    `fetch_values` what a child process returned is known in `Held.value` too, whether or not it is kept.
    """

    def __init__(
        self,
        builder: Builder,
        lanes: Lanes,
        *,
        environment: AttemptEnvironment,
        hook_timeout_s: float = 30.0,
        completions: Completions | None = None,
        fetch_values: bool = False,
    ) -> None:
        self._fetch_values = fetch_values
        self._builder = builder
        self._lanes = lanes
        self._completions = completions
        self._clock = environment.clock
        self._rng = environment.rng
        self._record = environment.record
        self._worker = environment.name
        self._hook_timeout_s = hook_timeout_s

    async def run(self, held: Held) -> Settlement | None:
        """Run the attempt and return how to settle it; None if the lease ended before anything ran."""
        scope = attempt_scope()
        if scope is None:
            return await self._run(held)
        async with scope:
            return await self._run(held)

    async def _run(self, held: Held) -> Settlement | None:
        lease = held.lease
        try:
            invocation = self._builder.decode(lease.message_id, lease.attempt, lease.body)
        except UnsupportedVersion as error:
            logger.warning("message %s is left for a newer worker: %s", lease.message_id, error)
            return Release(delay_s=NEWER_VERSION_DELAY_S, counted=False, error=record_of(error))
        except CodecError as error:
            return self._unrunnable(held, error)
        held.name = invocation.envelope.task
        if held.task is not None:
            held.task.set_name(f"{held.name} (message {lease.message_id})")
        run = _Run(held, invocation)
        match screen(
            crashes=lease.crashes,
            max_crashes=invocation.envelope.max_crashes,
            deadline=held.deadline,
            now=self._clock.monotonic(),
        ):
            case Verdict.STALE:
                return None
            case Verdict.GIVE_UP:
                return await self._give_up(run)
            case Verdict.RUN:
                outcome = await self._execute(run)
                if held.settled_in and not isinstance(outcome, Succeeded | Interrupted):
                    return await self._after_completion(run, outcome)
                return await self._settle(run, outcome)

    # -- executing ---------------------------------------------------------------------------------

    async def _execute(self, run: _Run) -> Outcome:
        """Run the task's code; whatever it does comes back as an outcome."""
        self._note(run.held, Kind.STARTED, run.held.name)
        try:
            outcome = await self._in_lane(run)
        except BaseException as error:  # noqa: BLE001 - user code may raise anything
            outcome = self._raised(run, error)
        if self._record is not None:
            self._note(run.held, Kind.ENDED, _describe(outcome), run.held.exception)
        return outcome

    async def _in_lane(self, run: _Run) -> Outcome:
        envelope, mode = run.invocation.envelope, run.invocation.definition.mode
        if mode.in_process:
            return await self._in_process(run)
        task = run.task = await self._builder.build(run.invocation, timeout_s=envelope.timeout_s)
        run.built = True
        running_task.set(task)
        if self._completions is not None:
            run.completion = self._completions.completion(run.held, task, envelope.keep_result_s)
        token = running_completion.set(run.completion)
        try:
            if mode is Mode.LOOP:
                value = await self._lanes.run_async(cast("AsyncTask[object]", task), envelope.timeout_s)
            else:
                execute = cast("SyncTask[object]", task).execute
                value = await self._lanes.run_blocking(execute, envelope.timeout_s, what=run.held.name)
        finally:
            running_completion.reset(token)  # its hooks must not complete what they are told has failed
        return self._returned(run, value)

    async def _in_process(self, run: _Run) -> Outcome:
        invocation, lease = run.invocation, run.held.lease
        ttl_s = invocation.envelope.keep_result_s
        request = Request(
            message_id=lease.message_id,
            attempt=lease.attempt,
            body=lease.body,
            keep_result=ttl_s is not None or self._fetch_values,
        )
        reply = await self._lanes.run_in_process(request, invocation.envelope.timeout_s)
        match reply.kind:
            case ReplyKind.RETURNED:
                if self._fetch_values and reply.result is not None:
                    run.held.value = self._builder.unpack_result(invocation.definition, reply.result)
                return Succeeded() if ttl_s is None else Succeeded(result=reply.result, result_ttl_s=ttl_s)
            case ReplyKind.BAD_RESULT:
                run.held.exception = reply.exception()
                return Failed(error=record_of(run.held.exception), wants_retry=False)
            case ReplyKind.NOT_BUILT | ReplyKind.RAISED:
                run.built = reply.kind is ReplyKind.RAISED
                raise reply.exception()

    def _returned(self, run: _Run, value: object) -> Outcome:
        run.held.value = value
        if run.held.settled_in:  # what was to be kept is in the task's own transaction
            return Succeeded()
        ttl_s = run.invocation.envelope.keep_result_s
        if ttl_s is None:
            return Succeeded()
        try:
            result = self._builder.pack_result(run.invocation.definition, value)
        except (CodecError, DispatchError) as error:  # running it again would not change its type
            run.held.exception = error
            return Failed(error=record_of(error), wants_retry=False)
        return Succeeded(result=result, result_ttl_s=ttl_s)

    def _raised(self, run: _Run, error: BaseException) -> Outcome:
        if run.held.fate is not None:
            return Interrupted()
        if isinstance(error, asyncio.CancelledError):
            _forget_cancellation()
        forget_our_frames(error)
        run.held.exception = error
        reason = None if run.built else reason_of(error)
        match error:
            case Snooze():
                return Snoozed(delay_s=max(0.0, error.delay_s))
            case Retry():
                return RetryRequested(error=record_of(error), after_s=error.after_s)
            case Reject():
                return Rejected(error=record_of(error))
            case ChildCrashed():
                return Crashed(error=record_of(error))
            case ModelNotFoundError() if error.final and not run.built:
                return Failed(error=record_of(error), wants_retry=False)
            case _ if reason is not None:
                return Unrunnable(reason=reason, error=record_of(error))
            case _:
                return Failed(error=record_of(error))

    # -- settling ----------------------------------------------------------------------------------

    async def _after_completion(self, run: _Run, outcome: Outcome) -> Settlement | None:
        """Settle an attempt that raised after it had settled itself: by its error only if that came to nothing."""
        assert run.completion is not None, "it has settled something"
        held = run.held
        held.settled_in = None
        match await run.completion.sequel():
            case Sequel.ROLLED_BACK:
                return await self._settle(run, outcome)
            case Sequel.COMMITTED:
                logger.error(
                    "%s (message %s) raised %r after its own transaction had completed it; it stays complete",
                    held.name,
                    held.lease.message_id,
                    held.exception,
                    exc_info=held.exception,
                )
                held.settled_in = True
                return Complete()
            case Sequel.UNKNOWN:
                held.fate = held.fate or Fate.LOST
                self._note(held, Kind.LOST, "")
                return None

    async def _settle(self, run: _Run, outcome: Outcome) -> Settlement:
        envelope, lease = run.invocation.envelope, run.held.lease
        rules = Rules(max_attempts=envelope.max_attempts, retry=envelope.retry, max_crashes=envelope.max_crashes)
        if isinstance(outcome, Failed) and asks_should_retry(
            outcome, attempt=lease.attempt, max_attempts=rules.max_attempts
        ):
            outcome = Failed(error=outcome.error, wants_retry=await self._should_retry(run))
        if isinstance(outcome, Interrupted) and run.invocation.definition.mode is Mode.THREAD:
            return self._after_thread(run.held)
        settlement = decide(outcome, attempt=lease.attempt, crashes=lease.crashes, rules=rules, rng=self._rng)
        if isinstance(settlement, Bury) and not isinstance(outcome, Unrunnable):
            exception = run.held.exception
            if settlement.reason is DeadReason.CRASHED:
                exception = _gave_up(run, lease.crashes + 1)
            await self._failed(run, exception or WorkerCrashedError("the attempt did not end"))
        return settlement

    def _after_thread(self, held: Held) -> Settlement:
        """Hand back once the lease would have ended: the thread can't be stopped and may still run."""
        return Release(delay_s=max(0.0, held.deadline - self._clock.monotonic()), counted=False)

    async def _give_up(self, run: _Run) -> Settlement:
        """Bury a message that took its worker down too often; its hook is called as well as possible."""
        error = _gave_up(run, run.held.lease.crashes)
        await self._failed(run, error)
        return Bury(reason=DeadReason.CRASHED, error=record_of(error))

    def _unrunnable(self, held: Held, error: CodecError) -> Settlement:
        logger.error("message %s can't run and becomes a dead letter: %s", held.lease.message_id, error)
        reason = reason_of(error) or DeadReason.UNDECODABLE
        return Bury(reason=reason, error=record_of(error))

    async def _should_retry(self, run: _Run) -> bool:
        """Ask the task, if its class has an answer of its own; an error of that is told and means yes."""
        if run.invocation.cls.should_retry is not BaseTask[Any].should_retry:
            task = await self._instance(run)
            if task is None or run.held.exception is None:
                return True
            try:
                async with asyncio.timeout(self._hook_timeout_s):  # wait_for may swallow this worker's cancellation
                    answer = await self._call_hook(run, task.should_retry, run.held.exception)
            except BaseException as error:  # noqa: BLE001 - user code may raise anything
                self._hook_broke(run, "should_retry", error)
                return True
        else:
            answer = True
        self._note(run.held, Kind.HOOK, "should_retry")
        return bool(answer)

    async def _failed(self, run: _Run, exception: BaseException) -> None:
        """Call the task's `failed`; its errors are told and change nothing."""
        task = await self._instance(run)
        if task is None:
            return
        if run.held.fate is not None:  # its cancellation is on the way; whoever takes it over calls the hook
            raise asyncio.CancelledError
        self._note(run.held, Kind.HOOK, "failed")
        try:
            async with asyncio.timeout(self._hook_timeout_s):
                await self._call_hook(run, task.failed, exception)
        except BaseException as error:  # noqa: BLE001 - user code may raise anything
            self._hook_broke(run, "failed", error)

    async def _call_hook(self, run: _Run, hook: Callable[[Exception], object], exception: BaseException) -> object:
        """Call a hook where the task's own code runs, or, for a child's task, outside of the event loop."""

        def call() -> object:
            return hook(cast("Exception", exception))

        if run.invocation.definition.mode.is_async or inspect.iscoroutinefunction(hook):
            answer = call()
        else:
            answer = await self._lanes.run_blocking(call, None, what=f"{run.held.name}.{hook.__name__}")
        return await cast("Awaitable[object]", answer) if inspect.isawaitable(answer) else answer

    def _hook_broke(self, run: _Run, hook: str, error: BaseException) -> None:
        """Tell of a hook's error; pass on the cancellation by this worker, which hands the message back."""
        if run.held.fate is not None:
            raise error
        if isinstance(error, asyncio.CancelledError):
            _forget_cancellation()
        if isinstance(error, RuntimeError) and isinstance(error.__cause__, StopIteration):
            error = error.__cause__  # what no coroutine lets out as it is
        logger.error(
            "%s of %s (message %s) raised %r", hook, run.held.name, run.held.lease.message_id, error, exc_info=error
        )
        self._note(run.held, Kind.HOOK, f"{hook} raised {type(error).__qualname__}")

    async def _instance(self, run: _Run) -> BaseTask[Any] | None:
        """Return the instance the attempt ran on, or build one; None if that is not possible."""
        if run.task is None:
            try:
                run.task = await self._builder.build_for_hooks(run.invocation, timeout_s=self._hook_timeout_s)
            except (CodecError, BadArguments):
                return None
            except Exception:
                logger.exception("%s could not be built for its hooks", run.held.name)
                return None
        return run.task

    def _note(self, held: Held, kind: Kind, detail: str, error: BaseException | None = None) -> None:
        if self._record is not None:
            now, one = self._clock.now(), held.lease
            self._record(Entry(now, kind, one.message_id, self._worker, one.attempt, one.token, detail, error=error))


def _gave_up(run: _Run, crashes: int) -> WorkerCrashedError:
    return WorkerCrashedError(
        f"{run.held.name} was given up: {crashes} attempts ended with the death of the process that ran them"
    )


def _describe(outcome: Outcome) -> str:
    error: ErrorRecord | None = getattr(outcome, "error", None)
    name = type(outcome).__name__.lower()
    return name if error is None else f"{name}: {error.type}: {error.message}"


def _forget_cancellation() -> None:
    """Undo a cancellation that user code raised or asked for, so that what follows is not cancelled too."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
