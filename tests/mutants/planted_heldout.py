"""Defects written without a look at what hunts them: they say how well the hunt finds what it was not made for.

Thirty, drawn by chance from fifty slips that the design's promises, the traps and the sources suggest.
"""

from dataclasses import replace
from typing import Any

from asynctasq.codec import envelope as envelope_module
from asynctasq.core.hooks import HookCaller
from asynctasq.core.lanes import lanes as lanes_module
from asynctasq.core.queue_order import QueueOrder
from asynctasq.core.shutdown import StopRequest
from asynctasq.core.task_factory import TaskFactory
from asynctasq.core.waiting import WorkWaiter
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.memory_driver import row as memory_row_module
from asynctasq.errors import TaskTimeoutError, UndecodableBody, UnsupportedVersion
from asynctasq.kernel import decide as decide_module
from asynctasq.kernel import retry as retry_module
from asynctasq.kernel.envelope import MAX_CRASHES_DEFAULT, MISSING_DEFAULT, NO_HEADERS
from asynctasq.kernel.messages import Release, State, microseconds
from asynctasq.kernel.retry import Exponential
from asynctasq.queue import MessageFactory
from asynctasq.tasks import base as base_module
from asynctasq.tasks import options as options_module
from asynctasq.tasks.definition import options_of, set_dispatched, task_id_of
from tests.mutants.planting import Change, Mutant, planter

__all__ = ["HELD_OUT"]

HELD_OUT: list[Mutant] = []
_plant = planter(HELD_OUT)


# -- decisions -----------------------------------------------------------------------------------


@_plant(retry_module, "_from_list", "list of delays starts over", "its last delay is not repeated")
def _delays_start_over(_: Any) -> Any:
    return lambda delays_s, attempt: delays_s[(attempt - 1) % len(delays_s)]


@_plant(retry_module, "_exponential", "exponent too high", "the first delay is doubled already")
def _exponent_too_high(original: Any) -> Any:
    return lambda policy, attempt: original(policy, attempt + 1)


@_plant(decide_module, "delay_before_next", "jitter forgotten", "a burst of failures stays a burst")
def _without_jitter(original: Any) -> Any:
    def delay(policy: Any, **given: Any) -> float:
        plain = replace(policy, jitter=False) if isinstance(policy, Exponential) else policy
        return float(original(plain, **given))

    return delay


@_plant(
    memory_row_module, "derive_state", "expired lease shown as reserved", "it can't be cancelled, nor seen as ready"
)
def _leased_is_reserved(original: Any) -> Any:
    return lambda *, leased, **given: State.RESERVED if leased else original(leased=leased, **given)


# -- the driver in memory ------------------------------------------------------------------------


@_plant(
    MemoryDriver, "_first_visible", "first in line by arrival alone", "what comes back overtakes what has waited longer"
)
def _by_arrival(original: Any) -> Any:
    def first_visible(self: Any, queue: str, now: int) -> Any:
        if original(self, queue, now) is None:
            return None
        rows = [row for row in self._rows.values() if row.message.queue == queue and row.reason is None]
        return min((row for row in rows if row.visible_us <= now), key=lambda row: row.arrival)

    return first_visible


@_plant(
    MemoryDriver, "extend", "expired lease can't be renewed", "an attempt is cancelled though nobody took its message"
)
def _only_standing(original: Any) -> Any:
    async def extend(self: Any, leases: Any, *, lease_s: float) -> Any:
        now = self._now()
        over = [lease for lease in leases if (row := self._held(lease)) is not None and row.visible_us <= now]
        rest = [lease for lease in leases if lease not in over]
        return {lease.message_id for lease in over} | await original(self, rest, lease_s=lease_s)

    return extend


@_plant(MemoryDriver, "extend", "renewal added to what is left", "what a dead worker held stays lost for long")
def _added_to_the_rest(original: Any) -> Any:
    async def extend(self: Any, leases: Any, *, lease_s: float) -> Any:
        until = {lease.message_id: row.visible_us for lease in leases if (row := self._held(lease)) is not None}
        lost = await original(self, leases, lease_s=lease_s)
        for message_id, end in until.items():
            self._place(self._rows[message_id], end + microseconds(lease_s))
        return lost

    return extend


@_plant(MemoryDriver, "extend", "renewal all or none", "one lost lease loses those renewed with it")
def _all_or_none(original: Any) -> Any:
    async def extend(self: Any, leases: Any, *, lease_s: float) -> Any:
        lost = {lease.message_id for lease in leases if self._held(lease) is None}
        return lost or await original(self, leases, lease_s=lease_s)

    return extend


@_plant(MemoryDriver, "redrive", "redrive keeps crashes", "a message given up dies again unheard")
def _crashes_kept(original: Any) -> Any:
    async def redrive(self: Any, queue: str, *, limit: int) -> int:
        crashes = {message_id: self._rows[message_id].crashes for message_id in self._dead.get(queue, {})}
        count = await original(self, queue, limit=limit)
        for message_id, number in crashes.items():
            self._rows[message_id].crashes = number
        return int(count)

    return redrive


@_plant(MemoryDriver, "redrive", "redrive takes the newest", "the oldest dead letter waits longest")
def _newest_first(original: Any) -> Any:
    async def redrive(self: Any, queue: str, *, limit: int) -> int:
        self._dead[queue] = dict(reversed(self._dead.get(queue, {}).items()))
        count = await original(self, queue, limit=limit)
        self._dead[queue] = dict(reversed(self._dead[queue].items()))
        return int(count)

    return redrive


@_plant(MemoryDriver, "cancel", "cancel takes what runs", "an attempt's message vanishes under it")
def _cancel_any(_: Any) -> Any:
    async def cancel(self: Any, message_ids: Any) -> Any:
        return self._remove(message_ids, {State.SCHEDULED, State.READY, State.RESERVED})

    return cancel


@_plant(MemoryDriver, "purge", "purge takes dead letters", "what failed is gone with what waited")
def _purge_dead_too(_: Any) -> Any:
    async def purge(self: Any, queue: str) -> int:
        ids = [row.message.id for row in self._rows.values() if row.message.queue == queue]
        return len(self._remove(ids, {State.SCHEDULED, State.READY, State.DEAD}))

    return purge


@_plant(MemoryDriver, "_settle_now", "follow-ups not fenced", "a void settlement still stores them")
def _follow_ups_unfenced(original: Any) -> Any:
    def settle_now(self: Any, settlements: Any) -> set[str]:
        lost: set[str] = original(self, settlements)
        for lease, settlement in settlements:
            if lease.message_id in lost:
                self._store(settlement.follow_ups)
        return lost

    return settle_now


@_plant(MemoryDriver, "_end", "release wakes nobody", "a waiting worker does not hear of a new due time")
def _release_unheard(original: Any) -> Any:
    def end(self: Any, row: Any, settlement: Any) -> None:
        waiters = self._waiters
        if isinstance(settlement, Release):
            self._waiters = {}
        original(self, row, settlement)
        self._waiters = waiters

    return end


@_plant(
    MemoryDriver, "_until_visible", "waits for the first queue only", "an idle worker misses what comes to the others"
)
def _first_queue_alone(original: Any) -> Any:
    async def until_visible(self: Any, queues: Any, wait_s: float) -> bool:
        return bool(await original(self, frozenset(sorted(queues)[:1]), wait_s))

    return until_visible


@_plant(MemoryDriver, "_end", "retry due counted from the dispatch", "the retry of an old message is early")
def _due_from_dispatch(original: Any) -> Any:
    def end(self: Any, row: Any, settlement: Any) -> None:
        original(self, row, settlement)
        if isinstance(settlement, Release) and settlement.delay_s > 0:
            self._place(row, row.enqueued_us + microseconds(settlement.delay_s))

    return end


@_plant(MemoryDriver, "_end", "retry clears crashes", "a message that fails now and then kills workers for ever")
def _crashes_forgiven(original: Any) -> Any:
    def end(self: Any, row: Any, settlement: Any) -> None:
        original(self, row, settlement)
        if isinstance(settlement, Release) and settlement.counted:
            row.crashes = 0

    return end


@_plant(MemoryDriver, "_reserve_now", "limit kept per queue", "two queues give twice as much as there is room for")
def _limit_each(original: Any) -> Any:
    def reserve_now(self: Any, queues: Any, limit: int, lease_s: float) -> list[Any]:
        return [lease for queue in queues for lease in original(self, [queue], limit, lease_s)]

    return reserve_now


# -- the worker ----------------------------------------------------------------------------------


def _broken_answer_is_no() -> Mutant:
    broken: set[int] = set()

    def telling(original: Any) -> Any:
        def hook_raised(self: Any, run: Any, hook: str, error: BaseException) -> None:
            original(self, run, hook, error)
            if hook == "should_retry":
                broken.add(id(run))

        return hook_raised

    def asking(original: Any) -> Any:
        async def should_retry(self: Any, run: Any) -> bool:
            answer = bool(await original(self, run))
            if id(run) not in broken:
                return answer
            broken.remove(id(run))
            return False

        return should_retry

    return Mutant(
        name="error of should_retry means no",
        breaks="a broken hook buries what would have been retried",
        changes=(
            Change(owner=HookCaller, name="_hook_raised", make=telling),
            Change(owner=HookCaller, name="should_retry", make=asking),
        ),
    )


HELD_OUT.append(_broken_answer_is_no())


@_plant(HookCaller, "__init__", "hooks without limit", "a failed() that hangs holds its slot for ever")
def _hooks_unlimited(original: Any) -> Any:
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self._timeout_s = None

    return init


@_plant(
    lanes_module,
    "run_async",
    "task's own TimeoutError taken for the limit",
    "the dead letter tells of a limit not reached",
)
def _any_timeout(original: Any) -> Any:
    async def run_async(task: Any, timeout_s: float | None) -> object:
        try:
            return await original(task, timeout_s)
        except TimeoutError as error:
            if timeout_s is None or isinstance(error, TaskTimeoutError):
                raise
            raise TaskTimeoutError(f"ran longer than {timeout_s:g} s and was cancelled") from error

    return run_async


@_plant(
    WorkWaiter, "start", "leases of a wait not counted", "what a waiting reserve brings is not counted as room taken"
)
def _promise_forgotten(original: Any) -> Any:
    def start(self: Any, room: int) -> None:
        original(self, room)
        self.leases_max = 0

    return start


@_plant(StopRequest, "request", "second stop is the first", "asking again does not hurry the worker")
def _second_request_same(original: Any) -> Any:
    def request(self: Any, *, immediate: bool = False) -> None:
        if immediate or not self.requested:
            original(self, immediate=immediate)

    return request


@_plant(Worker, "_cancel", "cancelled before it began", "its lease is never given back, its slot never freed")
def _cancelled_unbegun(_: Any) -> Any:
    def cancel(self: Any, attempt: Any) -> None:
        if attempt.asyncio_task is not None:
            attempt.asyncio_task.cancel()

    return cancel


@_plant(Worker, "_hand_back_rest", "last settle tried once", "one failed call while stopping forgets what ended")
def _last_settle_once(_: Any) -> Any:
    async def hand_back_rest(self: Any) -> None:
        await self._interrupt()
        if self._to_settle and not (self._stop.immediate and self._reconnect.active):
            await self._turn(0)
        self._to_settle.clear()  # or the worker would say that it left them

    return hand_back_rest


@_plant(QueueOrder, "next", "weights inverted", "the light queue comes first")
def _weights_inverted(original: Any) -> Any:
    def following(self: Any) -> Any:
        if self.weights is None:
            return original(self)
        keys = [self._rng.random() ** weight for weight in self.weights]
        return [name for _, name in sorted(zip(keys, self.names, strict=True), reverse=True)]

    return following


@_plant(TaskFactory, "decode", "newer version buried", "a message for a newer worker is a dead letter")
def _newer_is_damaged(original: Any) -> Any:
    def decode(self: Any, message_id: str, body: bytes, **given: Any) -> Any:
        try:
            return original(self, message_id, body, **given)
        except UnsupportedVersion as error:
            raise UndecodableBody(str(error)) from error

    return decode


# -- the users' side -----------------------------------------------------------------------------


@_plant(
    envelope_module,
    "_to_fields",
    "timeout hides the fields after it",
    "a task with a timeout loses keep_result and max_crashes",
)
def _timeout_hides_the_rest(original: Any) -> Any:
    def to_fields(envelope: Any) -> Any:
        if envelope.timeout_s is None:
            return original(envelope)
        bare = {"keep_result_s": None, "max_crashes": MAX_CRASHES_DEFAULT, "headers": NO_HEADERS}
        return original(replace(envelope, **bare, missing=MISSING_DEFAULT))

    return to_fields


def _seconds_part(original: Any) -> Any:
    def seconds(value: Any, what: str, *, above_zero: bool) -> float:
        return float(original(getattr(value, "seconds", value), what, above_zero=above_zero))

    return seconds


HELD_OUT.append(
    Mutant(
        name="seconds of a timedelta for all of it",
        breaks="a day is nothing",
        changes=tuple(
            Change(owner=owner, name="seconds", make=_seconds_part) for owner in (options_module, base_module)
        ),
    )
)


@_plant(
    MessageFactory,
    "message",
    "second dispatch has the first one's id",
    "one of two dispatches of an instance is dropped",
)
def _id_of_the_first(original: Any) -> Any:
    def message(self: Any, task: Any) -> Any:
        earlier = None if options_of(task).task_id else task_id_of(task)
        made = original(self, task)
        if earlier is None:
            return made
        set_dispatched(task, earlier, task.dispatched_at)
        return replace(made, id=earlier)

    return message
