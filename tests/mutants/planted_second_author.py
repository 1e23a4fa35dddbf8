"""Defects of a second author, who had seen neither what hunts them nor the simulation: they measure the hunt anew.

Thirty, drawn by chance from fifty slips that the sources, the guide and the traps suggest.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from asynctasq import queue as queue_module
from asynctasq.codec import values as values_module
from asynctasq.core import attempt as attempt_module
from asynctasq.core import current_task as current_task_module
from asynctasq.core import exception_codec as exception_codec_module
from asynctasq.core import hooks as hooks_module
from asynctasq.core import reconnect as reconnect_module
from asynctasq.core.attempt import AttemptRunner
from asynctasq.core.hooks import HookCaller
from asynctasq.core.lanes import child as child_module
from asynctasq.core.leases import LoopLeaseRenewer
from asynctasq.core.queue_order import QueueOrder
from asynctasq.core.reconnect import ReconnectBackoff
from asynctasq.core.task_factory import BadArguments, TaskFactory
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Page
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import DriverError, TaskTimeoutError
from asynctasq.kernel import decide as decide_module
from asynctasq.kernel.decide import Crashed, Failed, RetryRequested, Snoozed, attempts_remain
from asynctasq.kernel.envelope import VAR_POSITIONAL
from asynctasq.kernel.messages import Bury, Complete, DeadReason, ErrorRecord, Release, microseconds
from asynctasq.kernel.retry import Exponential, Fixed, delay_before_next
from asynctasq.queue import Queue
from asynctasq.tasks import options as options_module
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.options import SETTINGS, class_options, seconds
from asynctasq.tasks.signatures import Signature
from tests.mutants.planting import Change, Mutant, planter

__all__ = ["SECOND_AUTHOR"]

SECOND_AUTHOR: list[Mutant] = []
_plant = planter(SECOND_AUTHOR)


def _everywhere(called: str, breaks: str, make: Callable[[Any], Any], *places: tuple[Any, str]) -> None:
    """Enter a defect of something that several modules have by name."""
    changes = tuple(Change(owner=owner, name=name, make=make) for owner, name in places)
    SECOND_AUTHOR.append(Mutant(name=called, breaks=breaks, changes=changes))


# -- decisions -----------------------------------------------------------------------------------


@_plant(
    decide_module,
    "_after_failure",
    "Retry(after) no longer than the policy's delay",
    "a task that asks for an hour gets a minute",
)
def _asked_for_at_most(original: Any) -> Any:
    def after_failure(outcome: Any, attempt: int, rules: Any, rng: Any) -> Any:
        if isinstance(outcome, RetryRequested) and outcome.after_s is not None:
            most_s = delay_before_next(rules.retry, attempt=attempt, rng=rng)
            outcome = replace(outcome, after_s=min(outcome.after_s, most_s))
        return original(outcome, attempt, rules, rng)

    return after_failure


def _jitter_first(original: Any) -> Any:
    def delay(policy: Any, *, attempt: int, rng: Any) -> float:
        if not isinstance(policy, Exponential):
            return float(original(policy, attempt=attempt, rng=rng))
        return min(policy.cap_s, float(original(replace(policy, cap_s=float("inf")), attempt=attempt, rng=rng)))

    return delay


_everywhere(
    "cap after the jitter",
    "once delays have outgrown the cap, a burst of failures stays a burst",
    _jitter_first,
    (decide_module, "delay_before_next"),
    (reconnect_module, "delay_before_next"),
)


@_plant(attempt_module, "decide", "Snooze refused on the last attempt", "what may be put off for ever is buried")
def _snooze_needs_attempts(original: Any) -> Any:
    def decide(outcome: Any, *, attempt: int, rules: Any, **given: Any) -> Any:
        if isinstance(outcome, Snoozed) and not attempts_remain(attempt, rules.max_attempts):
            error = ErrorRecord(type="asynctasq.errors.Snooze", message="no attempts remain")
            return Bury(reason=DeadReason.FAILED, counted=True, error=error)
        return original(outcome, attempt=attempt, rules=rules, **given)

    return decide


# -- the attempt ---------------------------------------------------------------------------------


@_plant(AttemptRunner, "_raised", "time limit is final", "what ran too long once is not tried again")
def _no_retry_after_timeout(original: Any) -> Any:
    def raised(self: Any, run: Any, error: BaseException) -> Any:
        outcome = original(self, run, error)
        late = isinstance(error, TaskTimeoutError) and isinstance(outcome, Failed)
        return replace(outcome, wants_retry=False) if late else outcome

    return raised


@_plant(AttemptRunner, "_raised", "time limit of a child is a crash", "an attempt that ran too long is not counted")
def _late_child_crashed(original: Any) -> Any:
    def raised(self: Any, run: Any, error: BaseException) -> Any:
        outcome = original(self, run, error)
        late = isinstance(error, TaskTimeoutError) and isinstance(outcome, Failed)
        in_process = run.invocation.definition.mode.in_process
        return Crashed(error=outcome.error) if late and in_process else outcome

    return raised


class _Global:
    """A module's variable in the place of a context variable."""

    def __init__(self) -> None:
        self.value: Any = None

    def get(self) -> Any:
        return self.value

    def set(self, value: Any) -> Any:
        before, self.value = self.value, value
        return before

    def reset(self, before: Any) -> None:
        self.value = before


def _one_global() -> Callable[[Any], Any]:
    shared = _Global()
    return lambda _: shared


_everywhere(
    "current task kept in a global",
    "an attempt takes itself for the one that began last",
    _one_global(),
    (current_task_module, "running_task"),
    (attempt_module, "running_task"),
    (child_module, "running_task"),
)


@_plant(HookCaller, "failed", "hook of a cancelled attempt called", "failed() is called here and where it runs next")
def _hook_all_the_same(_: Any) -> Any:
    async def failed(self: Any, run: Any, exception: BaseException) -> None:
        task = await self._instance(run)
        if task is None:
            return
        hooks_module.record_event(self._environment, run.attempt, hooks_module.Kind.HOOK, "failed")
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._call(run, task.failed, exception)
        except BaseException as error:
            self._hook_raised(run, "failed", error)

    return failed


@_plant(
    AttemptRunner, "_after_thread", "interrupted thread handed back at once", "its next attempt runs beside the thread"
)
def _thread_at_once(_: Any) -> Any:
    return lambda self, attempt: Release(counted=False)


@_plant(attempt_module, "dead_reason_of", "bad arguments retried", "what can never run is tried again and again")
def _may_fit_later(original: Any) -> Any:
    return lambda error: None if isinstance(error, BadArguments) else original(error)


@_plant(TaskFactory, "_make", "constructor's TypeError is bad arguments", "a passing error of a constructor is final")
def _any_type_error(original: Any) -> Any:
    def make(self: Any, invocation: Any, arguments: Any) -> Any:
        try:
            return original(self, invocation, arguments)
        except TypeError as error:
            raise BadArguments(f"{invocation.envelope.task} can't take the stored arguments: {error}") from error

    return make


@_plant(
    child_module, "build_task", "child does not know its attempt", "each attempt in a child takes itself for the first"
)
def _always_first(original: Any) -> Any:
    return lambda request, task_factory: original(replace(request, attempt=1), task_factory)


@_plant(
    exception_codec_module,
    "_restore",
    "attributes of a child's exception lost",
    "what a child asks for comes without its delay",
)
def _bare_exception(original: Any) -> Any:
    return lambda cls, args, attributes: original(cls, args, None)


# -- the worker ----------------------------------------------------------------------------------


@_plant(Worker, "_hand_back", "last wait's leases forgotten", "what came while it stopped waits for its lease to end")
def _not_taken_back(_: Any) -> Any:
    return lambda self, leases: None


@_plant(
    Worker,
    "_hand_back_rest",
    "second stop waits for the backend",
    "a worker can't be stopped while its backend is away",
)
def _settle_at_any_price(original: Any) -> Any:
    async def hand_back_rest(self: Any) -> None:
        await original(self)
        while self._to_settle:
            await self._turn(0)

    return hand_back_rest


@_plant(ReconnectBackoff, "wait", "outage begins anew with each failure", "a worker without its backend never gives up")
def _since_now(original: Any) -> Any:
    async def wait(self: Any, error: Any) -> None:
        self._since = None
        await original(self, error)

    return wait


@_plant(LoopLeaseRenewer, "add", "each new lease puts off renewals", "a busy worker loses what runs long")
def _timer_pushed_back(original: Any) -> Any:
    def add(self: Any, attempt: Any) -> None:
        original(self, attempt)
        self._arm(self._renewals.lease_s / 3)

    return add


@_plant(Worker, "_turn", "ended during a failed call", "what ends while the backend fails is never settled")
def _overwritten(_: Any) -> Any:
    async def turn(self: Any, room: int) -> None:
        settlements, self._to_settle = self._to_settle, []
        asked_at, asked_now = self._clock.monotonic(), self._clock.now()
        try:
            lost, leases = await self.driver.turn(
                settlements, self.queues.next(), limit=room, lease_s=self.settings.lease_s
            )
        except DriverError as error:
            self._to_settle = settlements
            await self._reconnect.wait(error)
            return
        self._reconnect.reset()
        self._record_settled(settlements, lost, asked_now)
        if room:
            self._may_have_work = len(leases) >= room
        self._start_attempts(leases, asked_at, asked_now)

    return turn


@_plant(QueueOrder, "next", "order by weight drawn once", "the queue that lost the draw starves")
def _drawn_once(original: Any) -> Any:
    def following(self: Any) -> Any:
        if self.weights is None:
            return original(self)
        if "drawn" not in vars(self):
            self.drawn = original(self)
        return self.drawn

    return following


# -- the driver in memory ------------------------------------------------------------------------


@_plant(MemoryDriver, "_remove", "discarded letter still in line", "redrive meets a message that is no more")
def _still_dead(original: Any) -> Any:
    def remove(self: Any, message_ids: Any, states: Any) -> Any:
        before = {queue: dict(dead) for queue, dead in self._dead.items()}
        removed = original(self, message_ids, states)
        self._dead = before
        return removed

    return remove


@_plant(MemoryDriver, "redrive", "redrive wakes nobody", "a waiting worker does not hear of what is driven again")
def _redriven_unheard(original: Any) -> Any:
    async def redrive(self: Any, queue: str, *, limit: int) -> int:
        waiters, self._waiters = self._waiters, {}
        try:
            return int(await original(self, queue, limit=limit))
        finally:
            self._waiters = waiters

    return redrive


@_plant(MemoryDriver, "list_messages", "page filled before it is filtered", "a page of dead letters lacks some, or all")
def _filtered_late(_: Any) -> Any:
    async def list_messages(
        self: Any, queue: str, *, state: Any = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        with self._lock:
            now = self._now()
            after = int(cursor) if cursor else 0
            rows = [row for row in self._rows.values() if row.message.queue == queue and row.arrival > after]
            rows.sort(key=lambda row: row.arrival)
            more = str(rows[limit - 1].arrival) if len(rows) > limit else None
            page = [row for row in rows[:limit] if state is None or row.state(now) is state]
            return Page(messages=[row.stored(now) for row in page], cursor=more)

    return list_messages


@_plant(MemoryDriver, "_settle_now", "follow-ups stored first", "a successor of the same id is dropped as a duplicate")
def _successor_first(_: Any) -> Any:
    def settle_now(self: Any, settlements: Any) -> set[str]:
        lost: set[str] = set()
        for lease, settlement in settlements:
            row = self._held(lease)
            if row is None:
                lost.add(lease.message_id)
                continue
            self._store(settlement.follow_ups)
            self._end(row, settlement)
        return lost

    return settle_now


@_plant(MemoryDriver, "_end", "result's time counted from the dispatch", "the result of an old message is gone at once")
def _kept_from_dispatch(original: Any) -> Any:
    def end(self: Any, row: Any, settlement: Any) -> None:
        original(self, row, settlement)
        if isinstance(settlement, Complete) and settlement.result is not None:
            expiry = row.enqueued_us + microseconds(settlement.result_ttl_s)
            self._results.kept[row.message.id] = (expiry, settlement.result)

    return end


# -- the users' side -----------------------------------------------------------------------------


def _true_is_one(original: Any) -> Any:
    return lambda value: 1.0 if value is True else original(value)


def _class_true_is_one(original: Any) -> Any:
    def init(self: Any, **arguments: Any) -> None:
        original(self, **arguments)
        if type(self).keep_result is True:
            self._options = replace(self._options, keep_result_s=1.0)

    return init


SECOND_AUTHOR.append(
    Mutant(
        name="keep_result=True is one second",
        breaks="a bool is an int: what should be kept for a day is gone when it is asked for",
        changes=(
            Change(owner=options_module, name="keep_result_s", make=_true_is_one),
            Change(owner=BaseTask, name="__init__", make=_class_true_is_one),
        ),
    )
)


@_plant(BaseTask, "__init__", "settings of a base class lost", "what an application's own base says holds for no task")
def _own_settings_alone(original: Any) -> Any:
    def init(self: Any, **arguments: Any) -> None:
        original(self, **arguments)
        cls = type(self)
        own = {name: vars(cls).get(name, getattr(BaseTask, name)) for name in SETTINGS}
        self._options = class_options(type("own", (), own))

    return init


@_plant(queue_module, "options_of", "cap of the exponential strategy for all", "a fixed delay of a day is an hour")
def _cap_for_all(original: Any) -> Any:
    def options_of(task: Any) -> Any:
        options = original(task)
        if not isinstance(options.retry, Fixed):
            return options
        cap_s = seconds(type(task).retry_delay_max, "retry_delay_max", above_zero=False)
        return replace(options, retry=Fixed(delay_s=min(options.retry.delay_s, cap_s)))

    return options_of


@_plant(Signature, "bind", "extra positional arguments dropped", "what *args took is not there when the task runs")
def _without_rest(original: Any) -> Any:
    def bind(self: Any, args: Any, kwargs: Any) -> Any:
        return {name: value for name, value in original(self, args, kwargs).items() if name != VAR_POSITIONAL}

    return bind


@_plant(values_module, "ENCODERS", "microseconds of a datetime lost", "a time comes back as an earlier one")
def _whole_seconds(original: Any) -> Any:
    code, encode = original[datetime]
    return {**original, datetime: (code, lambda value: encode(value.replace(microsecond=0)))}


@_plant(Queue, "dispatch", "dispatch_many stored in part", "a bad task in the middle leaves those before it stored")
def _task_by_task(original: Any) -> Any:
    async def dispatch(self: Any, tasks: Any, *, connection: Any = None) -> list[str]:
        return [new for task in tasks for new in await original(self, [task], connection=connection)]

    return dispatch


@_plant(Queue, "_prepare", "ids of dispatch_many grouped by driver", "an id is taken for another task's")
def _ids_by_driver(original: Any) -> Any:
    def prepare(self: Any, tasks: Any) -> Any:
        _, batches = original(self, tasks)
        return [message.id for _, messages in batches for message in messages], batches

    return prepare
