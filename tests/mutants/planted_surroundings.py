"""Defects in middleware and lifespans: in which order, how often, and what their errors do."""

from contextlib import suppress
from contextvars import Context
from dataclasses import replace
from typing import Any

from asynctasq.core import around_attempt
from asynctasq.core.attempt import AttemptRunner
from asynctasq.core.lifespans import LifespanRun
from asynctasq.core.worker import Worker
from asynctasq.kernel.envelope import NO_HEADERS
from asynctasq.queue import MessageFactory
from asynctasq.tasks import middleware as middleware_module
from tests.mutants.planting import Mutant, planter

__all__ = ["SURROUNDINGS"]

SURROUNDINGS: list[Mutant] = []
_plant = planter(SURROUNDINGS)


@_plant(Worker, "_drain", "lifespans left before the last attempt", "an attempt uses a pool that is closed")
def _left_early(original: Any) -> Any:
    async def wrong(self: Any) -> None:
        await self._lifespans.leave()
        await original(self)

    return wrong


@_plant(Worker, "_run_attempt", "lifespans entered per attempt", "each attempt connects anew")
def _per_attempt(original: Any) -> Any:
    async def wrong(self: Any, attempt: Any) -> None:
        own = LifespanRun(self.settings.lifespans)
        await own.enter()
        await original(self, attempt)
        await own.leave()

    return wrong


@_plant(LifespanRun, "_leave_all", "half a start not undone", "what was opened before the failure stays open")
def _half_way(original: Any) -> Any:
    async def wrong(self: Any, entered: Any) -> None:
        if self._leaving.is_set():
            await original(self, entered)

    return wrong


@_plant(LifespanRun, "_leave_all", "lifespans left first to last", "what a lifespan needs is closed before it")
def _left_in_order(original: Any) -> Any:
    return lambda self, entered: original(self, entered[::-1])


@_plant(LifespanRun, "__init__", "lifespans entered last to first", "one is entered before what it needs")
def _entered_in_reverse(original: Any) -> Any:
    return lambda self, lifespans: original(self, lifespans[::-1])


@_plant(LifespanRun, "_raise_failure", "failed start goes on", "the worker runs without its pool")
def _goes_on(original: Any) -> Any:
    def wrong(self: Any) -> None:
        if self._failure is not None:
            self._task = None

    return wrong


@_plant(AttemptRunner, "__init__", "middleware inside out", "the first of the list is the innermost")
def _inside_out(original: Any) -> Any:
    def wrong(self: Any, *args: Any, middleware: Any = (), **kwargs: Any) -> None:
        original(self, *args, middleware=middleware[::-1], **kwargs)

    return wrong


@_plant(middleware_module._Leave, "__call__", "dispatch error swallowed", "a message that is not stored has an id")
def _dispatch_swallowed(original: Any) -> Any:
    return lambda self, *exc_info: self.scope.__exit__(*exc_info)


@_plant(around_attempt._Bounded, "__aexit__", "middleware's error swallowed", "a commit that failed is a success")
def _own_error_swallowed(original: Any) -> Any:
    async def wrong(self: Any, kind: Any, error: Any, trace: Any) -> None:
        with suppress(Exception):
            await original(self, kind, error, trace)

    return wrong


@_plant(around_attempt, "_within", "task's error swallowed", "middleware makes a failure a success")
def _swallowed(original: Any) -> Any:
    async def wrong(middleware: Any, context: Any, execute: Any, timeout_s: float, inside: Any) -> Any:
        if not middleware:
            return await original(middleware, context, execute, timeout_s, inside)
        async with around_attempt._Bounded(middleware[0], context, timeout_s):
            return await wrong(middleware[1:], context, execute, timeout_s, inside)

    return wrong


@_plant(around_attempt, "AttemptContext", "headers lost on retry", "the second attempt runs for nobody")
def _headers_once(original: Any) -> Any:
    def wrong(**fields: Any) -> Any:
        context = original(**fields)
        return context if context.attempt == 1 else replace(context, headers=NO_HEADERS)

    return wrong


@_plant(MessageFactory, "message", "headers not sent", "no attempt knows what the dispatch knew")
def _not_sent(original: Any) -> Any:
    return lambda self, task, context=None: original(self, task)


@_plant(around_attempt, "copy_context", "hooks outside of the context", "failed() runs for nobody")
def _nothing_kept(original: Any) -> Any:
    del original
    return Context
