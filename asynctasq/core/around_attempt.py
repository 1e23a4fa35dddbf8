"""Runs `execute` inside the application's middleware: outermost first, each bounded in time, none of them swallows."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import Context, copy_context
from types import TracebackType
from typing import Any, TypeVar, cast

from asynctasq.core.in_flight import AttemptRun
from asynctasq.errors import TaskTimeoutError
from asynctasq.tasks.middleware import AttemptContext, Middleware

__all__ = ["run_within"]

T = TypeVar("T")


async def run_within(
    middleware: Sequence[Middleware], run: AttemptRun, execute: Coroutine[Any, Any, T], *, timeout_s: float
) -> T:
    """Await `execute` inside what each of `middleware` returns for this attempt; return or raise as it does.

    An exception of the middleware's own takes its place. Entering and leaving one may take `timeout_s` each. The
    context variables that it set hold for the hooks of the attempt, too, after it has been left; a task of a child
    process does not see them, not even where a test runs it in this process.

    Raises: TaskTimeoutError for middleware that took longer.
    """
    lease, invocation = run.attempt.lease, run.invocation
    context = AttemptContext(
        task_class=invocation.cls,
        task=run.task,
        task_id=lease.message_id,
        queue=lease.queue,
        attempt=lease.attempt,
        headers=invocation.envelope.headers,
    )
    inside: list[Context] = []
    awaited = _in_context(execute, copy_context()) if invocation.definition.mode.in_process else execute
    try:
        return await _within(middleware, context, awaited, timeout_s, inside)
    finally:
        awaited.close()  # never awaited if middleware raised before
        execute.close()
        for variable, value in inside[0].items() if inside else ():
            variable.set(value)


async def _within(
    middleware: Sequence[Middleware],
    context: AttemptContext,
    execute: Coroutine[Any, Any, T],
    timeout_s: float,
    inside: list[Context],
) -> T:
    inside[:] = [copy_context()]
    if not middleware:
        try:
            return await execute
        finally:
            inside[:] = [copy_context()]
    raised: BaseException
    async with _Bounded(middleware[0], context, timeout_s):
        try:
            return await _within(middleware[1:], context, execute, timeout_s, inside)
        except BaseException as error:
            raised = error
            raise
    raise raised  # the middleware did not, but the outcome is the task's


async def _in_context(execute: Coroutine[Any, Any, T], context: Context) -> T:
    """Await in another context; an asyncio task that raises SystemExit would stop the event loop."""

    async def outcome() -> tuple[T | None, BaseException | None]:
        try:
            return await execute, None
        except BaseException as error:  # noqa: BLE001 - raised again below
            return None, error

    value, error = await asyncio.get_running_loop().create_task(outcome(), context=context)
    if error is not None:
        raise error
    return cast("T", value)


class _Bounded(AbstractAsyncContextManager[None]):
    """The context manager of one middleware; entering and leaving it are bounded in time."""

    def __init__(self, middleware: Middleware, context: AttemptContext, timeout_s: float) -> None:
        self._name = type(middleware).__qualname__
        self._scope = middleware.attempting(context)
        self._timeout_s = timeout_s

    async def __aenter__(self) -> None:
        limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit:
                await self._scope.__aenter__()
        except TimeoutError as error:
            self._raise_if_late(limit, error, "enter")
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit:
                return await self._scope.__aexit__(kind, error, trace)
        except TimeoutError as late:
            if late is not error:
                self._raise_if_late(limit, late, "leave")
            raise

    def _raise_if_late(self, limit: asyncio.Timeout, error: TimeoutError, what: str) -> None:
        """Raise the error of this limit; a TimeoutError of the middleware's own is another one."""
        if limit.expired() and isinstance(error.__cause__, asyncio.CancelledError):
            text = f"the middleware {self._name} took longer than {self._timeout_s:g} s to {what}"
            raise TaskTimeoutError(text) from error
