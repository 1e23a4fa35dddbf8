"""Calls a task's own `should_retry` and `failed`; whatever they do, the attempt is settled."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Protocol, cast

from asynctasq.clock import Clock
from asynctasq.core.exception_codec import is_one_of, log_error
from asynctasq.core.in_flight import AttemptRun, InFlightAttempt, clear_cancellation
from asynctasq.core.lanes.lanes import Lanes
from asynctasq.core.task_factory import BadArguments, TaskFactory
from asynctasq.core.tracebacks import class_name, exception_text
from asynctasq.errors import CodecError, TaskTimeoutError
from asynctasq.kernel.decide import is_retried
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.retry import RandomSource
from asynctasq.logs import get_logger
from asynctasq.tasks.base import BaseTask

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

    async def _call(self, run: AttemptRun, hook: Callable[[Exception], object], exception: BaseException) -> object:
        """Call a hook in the event loop if it is a coroutine function, else where it may block."""

        def call() -> object:
            return hook(cast("Exception", exception))

        if inspect.iscoroutinefunction(hook):
            answer = call()
        else:
            answer = await self._lanes.run_blocking(call, None, what=f"{run.attempt.task_name}.{hook.__name__}")
        return await cast("Awaitable[object]", answer) if inspect.isawaitable(answer) else answer

    def _hook_raised(self, run: AttemptRun, hook: str, error: BaseException) -> None:
        """Log a hook's error; let the cancellation by this worker pass, which hands the message back."""
        if run.attempt.cancel_reason is not None:
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
                if run.attempt.cancel_reason is not None:
                    raise
                if issubclass(type(error), asyncio.CancelledError):
                    clear_cancellation()
                log_error(logger, logging.ERROR, f"{run.attempt.task_name} could not be built for its hooks", error)
                return None
        return run.task
