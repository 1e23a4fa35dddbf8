"""Defects of a third author, who had seen neither what hunts them nor the simulation: they measure the hunt anew.

Twenty, drawn by chance from forty slips that the sources, the guide and the traps suggest.
"""

import asyncio
import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from asynctasq import results as results_module
from asynctasq.codec import records as records_module
from asynctasq.core import attempt as attempt_module
from asynctasq.core.attempt import AttemptRunner
from asynctasq.core.hooks import HookCaller
from asynctasq.core.lanes.lanes import InlineLanes, WorkerLanes
from asynctasq.core.leases import _Renewals  # pyright: ignore[reportPrivateUsage] - to plant a defect in it
from asynctasq.core.shutdown import StopRequest
from asynctasq.core.task_factory import TaskFactory
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Page
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.kernel import decide as decide_module
from asynctasq.kernel.decide import Rejected, Succeeded
from asynctasq.kernel.messages import MICROSECONDS, DeadReason, State
from asynctasq.kernel.retry import Exponential
from asynctasq.tasks.base import BaseTask
from tests.mutants.planting import Change, Mutant, planter

__all__ = ["THIRD_AUTHOR"]

THIRD_AUTHOR: list[Mutant] = []
_plant = planter(THIRD_AUTHOR)


def _everywhere(called: str, breaks: str, make: Callable[[Any], Any], *places: tuple[Any, str]) -> None:
    """Enter a defect of something that several modules have by name."""
    changes = tuple(Change(owner=owner, name=name, make=make) for owner, name in places)
    THIRD_AUTHOR.append(Mutant(name=called, breaks=breaks, changes=changes))


# -- decisions -------------------------------------------------------------------------------------


@_plant(decide_module, "delay_before_next", "jitter on top of the delay", "an exponential delay outgrows its cap")
def _jitter_on_top(original: Any) -> Any:
    def delay(policy: Any, *, attempt: int, rng: Any) -> float:
        if not isinstance(policy, Exponential):
            return float(original(policy, attempt=attempt, rng=rng))
        plain = original(replace(policy, jitter=False), attempt=attempt, rng=rng)
        return float(plain * (1.0 + rng.random()))

    return delay


@_plant(attempt_module, "decide", "refusal buried as a failure", "an operator can't tell what was refused")
def _refused_is_failed(original: Any) -> Any:
    def decide(outcome: Any, **given: Any) -> Any:
        right = original(outcome, **given)
        return replace(right, reason=DeadReason.FAILED) if isinstance(outcome, Rejected) else right

    return decide


@_plant(attempt_module, "screen", "given up one crash late", "> for >=: what killed its workers kills another")
def _one_crash_more(original: Any) -> Any:
    def screen(*, max_crashes: int, **given: Any) -> Any:
        return original(max_crashes=max_crashes + 1, **given)

    return screen


# -- the attempt -----------------------------------------------------------------------------------


@_plant(HookCaller, "_call", "blocking failed() in the loop", "one hook that blocks stops all that runs")
def _in_the_loop(original: Any) -> Any:
    async def call_hook(self: Any, run: Any, hook: Any, exception: BaseException) -> Any:
        if hook.__name__ != "failed":
            return await original(self, run, hook, exception)
        answer = hook(exception)
        return await answer if inspect.isawaitable(answer) else answer

    return call_hook


@_plant(AttemptRunner, "_in_process", "child's result not kept", "what a process task returned is fetched as None")
def _child_result_dropped(original: Any) -> Any:
    async def in_process(self: Any, run: Any) -> Any:
        outcome = await original(self, run)
        return Succeeded() if isinstance(outcome, Succeeded) else outcome

    return in_process


def _for_ever(original: Any) -> Any:
    async def run_in_process(self: Any, request: Any, timeout_s: float | None) -> Any:
        return await original(self, request, None)

    return run_in_process


_everywhere(
    "time limit not for children",
    "a process task that hangs holds its child and its slot for ever",
    _for_ever,
    (WorkerLanes, "run_in_process"),
    (InlineLanes, "run_in_process"),
)


@_plant(
    AttemptRunner, "_unrunnable", "unreadable for one reason", "an unknown task, or a forged one, is called damaged"
)
def _always_undecodable(original: Any) -> Any:
    def unrunnable(self: Any, attempt: Any, error: Any) -> Any:
        return replace(original(self, attempt, error), reason=DeadReason.UNDECODABLE)

    return unrunnable


# -- the worker ------------------------------------------------------------------------------------


@_plant(Worker, "_end_attempt", "end of an attempt not heard", "it is settled when something else wakes the worker")
def _silently(original: Any) -> Any:
    def end(self: Any, attempt: Any, settlement: Any) -> None:
        wake_up, self._wake_up = self._wake_up, asyncio.Event()
        try:
            original(self, attempt, settlement)
        finally:
            self._wake_up = wake_up

    return end


@_plant(StopRequest, "request", "immediate stop drains", "who can't wait is kept waiting for what runs")
def _drains_first(original: Any) -> Any:
    def request(self: Any, *, immediate: bool = False) -> None:  # it is not passed on
        original(self)

    return request


@_plant(Worker, "_run_until_stop", "waits for work only when idle", "beside a long task the other slots stay empty")
def _when_idle(_: Any) -> Any:
    async def pump(self: Any) -> None:
        while not self._stop.requested:
            room = self._free_slots()
            if self._to_settle or (room and self._may_have_work):
                await self._turn(room)
            elif self._is_done(room):
                return
            else:
                if room and not self._in_flight:
                    self._waiter.start(room)
                await self._handle_wake_up()

    return pump


@_plant(_Renewals, "remove", "renewal dropped by id", "the end of a lost attempt stops its successor's renewals")
def _whoever_it_is(_: Any) -> Any:
    def remove(self: Any, attempt: Any) -> None:
        self._attempts.pop(attempt.lease.message_id, None)

    return remove


# -- the driver in memory --------------------------------------------------------------------------


@_plant(MemoryDriver, "_store", "last of equal ids counts", "a dict on the way: the second of a batch wins")
def _last_wins(original: Any) -> Any:
    def store(self: Any, messages: Any) -> Any:
        by_id = {message.id: message for message in messages}
        return original(self, list(by_id.values()))

    return store


@_plant(MemoryDriver, "redrive", "redriven goes to the front", "what failed overtakes all that waits")
def _redriven_first(original: Any) -> Any:
    async def redrive(self: Any, queue: str, *, limit: int) -> int:
        chosen = {name: self._rows[name].enqueued_us for name in list(self._dead.get(queue, {}))[:limit]}
        count = await original(self, queue, limit=limit)
        for message_id, enqueued_us in chosen.items():
            self._place(self._rows[message_id], enqueued_us)
        return int(count)

    return redrive


@_plant(MemoryDriver, "list_messages", "page begins after its first", "between two pages one message is not shown")
def _one_skipped(original: Any) -> Any:
    async def list_messages(self: Any, queue: str, **given: Any) -> Any:
        page = await original(self, queue, **given)
        if page.cursor is None:
            return page
        following = await original(self, queue, **{**given, "limit": 1, "cursor": page.cursor})
        first = self._rows[following.messages[0].id]
        return Page(messages=page.messages, cursor=str(first.arrival))

    return list_messages


@_plant(MemoryDriver, "depth", "age of the youngest", "a queue that is stuck looks fresh with each arrival")
def _youngest(original: Any) -> Any:
    async def depth(self: Any, queue: str) -> Any:
        right, now = await original(self, queue), self._now()
        rows = [row for row in self._rows.values() if row.message.queue == queue and row.state(now) is State.READY]
        latest = max((row.visible_us for row in rows), default=None)
        return right if latest is None else replace(right, oldest_age_s=(now - latest) / MICROSECONDS)

    return depth


@_plant(MemoryDriver, "_first_due", "end of a lease wakes nobody", "a dead worker's message waits for a call's own end")
def _not_leased(_: Any) -> Any:
    def first_due(self: Any, queues: Any) -> float:
        now = self._now()
        rows = [row for row in self._rows.values() if row.message.queue in queues and row.reason is None]
        return min((row.visible_us for row in rows if not row.leased or row.visible_us <= now), default=float("inf"))

    return first_due


# -- the users' side -------------------------------------------------------------------------------


@_plant(BaseTask, "with_options", "with_options drops what is falsy", "max_attempts=0 and keep_result=False do nothing")
def _if_true(original: Any) -> Any:
    def with_options(self: Any, **options: Any) -> Any:
        return original(self, **{name: value for name, value in options.items() if value})

    return with_options


@_plant(TaskFactory, "find", "max_attempts of the class", "what was dispatched with others has as many as its class")
def _of_the_class(original: Any) -> Any:
    async def find(*args: Any, **given: Any) -> Any:
        right = await original(*args, **given)
        most = right.cls._options_now().max_attempts
        return replace(right, envelope=replace(right.envelope, max_attempts=most))

    return find


@_plant(
    records_module, "_map_fields", "falsy field is its default", "0, False and '' of a dataclass come back as others"
)
def _or_default(original: Any) -> Any:
    nothing = dataclasses.MISSING

    def has_default(field: Any) -> bool:
        given: list[Any] = [getattr(field, name, nothing) for name in ("default", "default_factory")]
        return dataclasses.Field in type(field).__mro__ and any(value is not nothing for value in given)

    def map_fields(cls: Any, plain: Any, known: Any, rebuild: Any) -> Any:
        made = original(cls, plain, known, rebuild)
        return {name: part for name, part in made.items() if part or not has_default(known[name])}

    return map_fields


@_plant(results_module, "load_result", "result read without its annotation", "one of a class of one's own can't be had")
def _unannotated(original: Any) -> Any:
    def unpack(data: bytes, annotation: Any, limits: Any) -> Any:  # the annotation is not passed on
        return original(data, None, limits)

    return unpack
