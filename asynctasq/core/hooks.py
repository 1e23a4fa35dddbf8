"""Calls a task's own `should_retry`, `failed` and `cancelled`; whatever they do, the attempt is settled."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Protocol, cast

from asynctasq.clock import Clock
from asynctasq.core.exception_codec import is_one_of, log_error
from asynctasq.core.in_flight import AttemptRun, CancelReason, InFlightAttempt, clear_cancellation
from asynctasq.core.lanes.child import Request
from asynctasq.core.lanes.lanes import Lanes
from asynctasq.core.lanes.process_pool import ChildCrashed
from asynctasq.core.module_imports import IMPORT_S_MAX
from asynctasq.core.task_factory import BadArguments, Invocation, TaskFactory
from asynctasq.core.tracebacks import class_name, exception_text
from asynctasq.errors import CodecError, TaskTimeoutError
from asynctasq.kernel.decide import is_retried
from asynctasq.kernel.envelope import Envelope
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.retry import RandomSource
from asynctasq.logs import get_logger
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.registry import registered

__all__ = ["AttemptEnvironment", "HookCaller", "may_retry", "record_event"]

logger = get_logger(__name__)


class AttemptEnvironment(Protocol):
    """What an attempt needs of its worker's runtime. `record` receives ledger entries."""

    clock: Clock
    rng: RandomSource
    name: str
    record: Callable[[Entry], None] | None

    def attempt_scope(self) -> AbstractAsyncContextManager[None] | None:
        """Return the context manager that an attempt runs in, None where there is nothing to do."""
        ...


def record_event(
    environment: AttemptEnvironment,
    attempt: InFlightAttempt,
    kind: Kind,
    detail: str = "",
    error: BaseException | None = None,
    value: object = None,
) -> None:
    """Enter an event of this attempt in the ledger, if there is one."""
    if environment.record is not None:
        at, worker = environment.clock.now(), environment.name
        environment.record(Entry.of(attempt.lease, kind, at=at, worker=worker, detail=detail, error=error, value=value))


def may_retry(run: AttemptRun, error: BaseException) -> bool:
    """Return whether the task's class lets a failure be retried: before `should_retry` is asked, if it is.

    Of what kept the task from being built the class says nothing, but a timeout is one wherever it struck.
    """
    cls = run.invocation.cls
    if (cls.retry_on is None and cls.give_up_on is None) or not (run.built or isinstance(error, TaskTimeoutError)):
        return True
    return is_retried(partial(is_one_of, error), retry_on=cls.retry_on, give_up_on=cls.give_up_on)


class HookCaller:
    """Calls the hooks of tasks, each for at most `timeout_s`; what they raise is logged and recorded."""

    def __init__(
        self, task_factory: TaskFactory, lanes: Lanes, *, environment: AttemptEnvironment, timeout_s: float
    ) -> None:
        self._task_factory = task_factory
        self._lanes = lanes
        self._environment = environment
        self._timeout_s = timeout_s

    async def should_retry(self, run: AttemptRun) -> bool:
        """Ask the task, if its class overrides `should_retry`; an error of that is logged and means yes."""
        if run.invocation.cls.should_retry is not BaseTask[Any].should_retry:
            task = await self._instance(run)
            if task is None or run.attempt.exception is None:
                return True
            try:
                async with asyncio.timeout(self._timeout_s):  # wait_for may swallow this worker's cancellation
                    answer = bool(await self._call(run, task.should_retry, run.attempt.exception))
            except BaseException as error:  # noqa: BLE001 - user code may raise anything
                self._hook_raised(run, "should_retry", error)
                return True
        else:
            answer = True
        record_event(self._environment, run.attempt, Kind.HOOK, "should_retry")
        return answer

    async def failed(self, run: AttemptRun, exception: BaseException) -> None:
        """Call the task's `failed`; its errors are logged and change nothing."""
        task = await self._instance(run)
        if task is None:
            return
        if run.attempt.cancel_reason is not None:  # the worker that takes the message over calls the hook
            raise asyncio.CancelledError
        record_event(self._environment, run.attempt, Kind.HOOK, "failed", exception)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._call(run, task.failed, exception)
        except BaseException as error:  # noqa: BLE001 - user code may raise anything
            self._hook_raised(run, "failed", error)

    async def cancelled(self, run: AttemptRun) -> None:
        """Call the task's `cancelled`, if its class overrides it; its errors are logged and change nothing."""
        if run.invocation.cls.cancelled is BaseTask[Any].cancelled:
            return
        task = await self._instance(run)
        if task is None:
            return
        record_event(self._environment, run.attempt, Kind.HOOK, "cancelled")
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._call(run, task.cancelled)
        except BaseException as error:  # noqa: BLE001 - user code may raise anything
            self._hook_raised(run, "cancelled", error)

    async def find(self, attempt: InFlightAttempt, envelope: Envelope, *, hook: str) -> Invocation | None:
        """Return what the message of an attempt that runs no code invokes; None if its module can't be imported.

        A child process tries first to import that of a message that crashed before.
        """
        lease = attempt.lease
        try:
            if lease.crashes and registered(envelope.task) is None:
                request = Request(message_id=lease.message_id, attempt=lease.attempt, body=lease.body, only_import=True)
                await self._lanes.run_in_process(request, IMPORT_S_MAX)
            return await self._task_factory.find(lease.message_id, lease.attempt, envelope)
        except (CodecError, ChildCrashed, TaskTimeoutError, OSError) as error:
            logger.error("%s() of %s is not called: %s", hook, attempt, exception_text(error))  # noqa: TRY400 - not ours
            return None

    async def _call(
        self, run: AttemptRun, hook: Callable[..., object], exception: BaseException | None = None
    ) -> object:
        """Call a hook in the event loop if it is a coroutine function, else where it may block."""

        def call() -> object:
            return hook() if exception is None else hook(cast("Exception", exception))

        if inspect.iscoroutinefunction(hook):
            answer = call()
        else:
            answer = await self._lanes.run_blocking(call, None, what=f"{run.attempt.task_name}.{hook.__name__}")
        return await cast("Awaitable[object]", answer) if inspect.isawaitable(answer) else answer

    def _hook_raised(self, run: AttemptRun, hook: str, error: BaseException) -> None:
        """Log a hook's error; let the cancellation by this worker pass, which hands the message back."""
        if _is_interruption(run, error):
            raise error
        if issubclass(type(error), asyncio.CancelledError):
            clear_cancellation()
        if type(error) is RuntimeError and issubclass(type(error.__cause__), StopIteration):
            error = error.__cause__ or error  # a coroutine turns it into a RuntimeError
        text = f"{hook} of {run.attempt} raised {exception_text(error, repr)}"
        log_error(logger, logging.ERROR, text, error)
        record_event(
            self._environment, run.attempt, Kind.HOOK, f"{hook} raised {class_name(type(error), in_full=False)}"
        )

    async def _instance(self, run: AttemptRun) -> BaseTask[Any] | None:
        """Return the instance the attempt ran on, or build one; None if that is not possible."""
        if run.task is None:
            try:
                run.task = await self._task_factory.build_for_hooks(run.invocation, timeout_s=self._timeout_s)
            except (CodecError, BadArguments):
                return None
            except BaseException as error:
                if _is_interruption(run, error):
                    raise
                if issubclass(type(error), asyncio.CancelledError):
                    clear_cancellation()
                log_error(logger, logging.ERROR, f"{run.attempt.task_name} could not be built for its hooks", error)
                return None
        return run.task


def _is_interruption(run: AttemptRun, error: BaseException) -> bool:
    """Say whether this worker interrupts the attempt, so that no error of its hooks counts.

    The hook of a cancelled task may be interrupted itself, when the worker stops.
    """
    reason = run.attempt.cancel_reason
    return reason is not None and (
        reason is not CancelReason.CANCELLED or issubclass(type(error), asyncio.CancelledError)
    )
