"""The other twenty of the fifty slips: thought of with the held-out ones, planted when those had all been found.

They say whether what was added for the held-out ones finds more than those.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from asynctasq.core import attempt as attempt_module
from asynctasq.core import task_factory as task_factory_module
from asynctasq.core.attempt import AttemptRunner
from asynctasq.core.hooks import HookCaller
from asynctasq.core.in_flight import CancelReason
from asynctasq.core.leases import LoopLeaseRenewer
from asynctasq.core.reconnect import ReconnectBackoff
from asynctasq.core.task_factory import Invocation
from asynctasq.core.waiting import WorkWaiter
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.kernel.decide import Interrupted
from asynctasq.kernel.messages import Bury, Release
from asynctasq.kernel.retry import Exponential, Fixed, delay_before_next
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.options import seconds
from tests.mutants.planting import Change, Mutant, planter

__all__ = ["UNDRAWN"]

UNDRAWN: list[Mutant] = []
_plant = planter(UNDRAWN)


# -- decisions -----------------------------------------------------------------------------------


@_plant(attempt_module, "decide", "hand-back waits as a retry does", "a deploy delays what it interrupts")
def _hand_back_late(original: Any) -> Any:
    def decide(outcome: Any, **given: Any) -> Any:
        right = original(outcome, **given)
        if not isinstance(outcome, Interrupted):
            return right
        return replace(
            right, delay_s=delay_before_next(given["rules"].retry, attempt=given["attempt"], rng=given["rng"])
        )

    return decide


@_plant(AttemptRunner, "_unrunnable", "unreadable counted as an attempt", "a dead letter that never ran has run")
def _unrunnable_counted(original: Any) -> Any:
    return lambda self, attempt, error: replace(original(self, attempt, error), counted=True)


# -- the driver in memory ------------------------------------------------------------------------


@_plant(MemoryDriver, "_settle_now", "stale entry ends the batch", "what stands behind it is not settled")
def _stop_at_stale(original: Any) -> Any:
    def settle_now(self: Any, settlements: Any) -> Any:
        for number, entry in enumerate(settlements):
            if original(self, [entry]):
                return {lease.message_id for lease, _ in settlements[number:]}
        return set()

    return settle_now


@_plant(MemoryDriver, "enqueue", "batch stored in part", "a bad message in the middle leaves half a batch")
def _one_by_one(original: Any) -> Any:
    async def enqueue(self: Any, messages: Any) -> list[str]:
        return [new for message in messages for new in await original(self, [message])]

    return enqueue


@_plant(MemoryDriver, "_store_one", "same id replaces", "a second dispatch changes what the first one stored")
def _upsert(original: Any) -> Any:
    def store_one(self: Any, message: Any, now: int) -> bool:
        row = self._rows.get(message.id)
        if row is not None and row.reason is None and not row.leased:
            del self._rows[message.id]
        return bool(original(self, message, now))

    return store_one


@_plant(MemoryDriver, "_store_one", "dead letter frees its id", "a new dispatch overwrites the dead letter")
def _dead_is_free(original: Any) -> Any:
    def store_one(self: Any, message: Any, now: int) -> bool:
        row = self._rows.get(message.id)
        if row is not None and row.reason is not None:
            del self._rows[message.id]
            del self._dead[row.message.queue][message.id]
        return bool(original(self, message, now))

    return store_one


@_plant(MemoryDriver, "_end", "putting off begins anew", "a precedence slip: what is not counted sets attempts to 0")
def _attempts_forgotten(original: Any) -> Any:
    def end(self: Any, row: Any, settlement: Any) -> None:
        original(self, row, settlement)
        if isinstance(settlement, Release) and not settlement.counted:
            row.attempts = 0

    return end


@_plant(MemoryDriver, "_end", "dead letter tells of the first failure", "the error that ended it is not kept")
def _first_error(original: Any) -> Any:
    def end(self: Any, row: Any, settlement: Any) -> None:
        earlier = row.error
        original(self, row, settlement)
        if isinstance(settlement, Bury):
            row.error = earlier or settlement.error

    return end


# -- the worker ----------------------------------------------------------------------------------


@_plant(
    task_factory_module, "set_metadata", "current attempt counted from 1", "the first attempt takes itself for a second"
)
def _from_one(original: Any) -> Any:
    return lambda task, *, attempt, **given: original(task, attempt=attempt + 1, **given)


@_plant(Invocation, "dispatched_at", "dispatched_at without its zone", "it can't be compared with an aware time")
def _naive(_: Any) -> Any:
    return property(lambda self: datetime.fromtimestamp(self.envelope.dispatched_at, UTC).replace(tzinfo=None))


@_plant(HookCaller, "_call", "async failed() never awaited", "its coroutine is made and dropped")
def _dropped(original: Any) -> Any:
    async def call_hook(self: Any, run: Any, hook: Any, exception: Any) -> Any:
        if hook.__name__ != "failed":
            return await original(self, run, hook, exception)
        answer = hook(exception)
        if hasattr(answer, "close"):
            answer.close()
        return None

    return call_hook


@_plant(
    AttemptRunner, "_raised", "only Exceptions are failures", "a task that exits or is cancelled is none's to settle"
)
def _exceptions_only(original: Any) -> Any:
    def raised(self: Any, run: Any, error: BaseException) -> Any:
        if run.attempt.cancel_reason is None and not isinstance(error, Exception):
            raise error
        return original(self, run, error)

    return raised


@_plant(LoopLeaseRenewer, "_renew", "one failed renewal ends renewing", "a hiccup of the backend loses long tasks")
def _no_second_try(_: Any) -> Any:
    async def renew(self: Any, due: Any) -> None:
        if await self._extend(due) and len(self._renewals):
            self._arm(self._renewals.next_due_in_s())

    return renew


@_plant(WorkWaiter, "collect", "outage while waiting not noticed", "a worker without its backend asks without a pause")
def _error_dropped(original: Any) -> Any:
    return lambda self: replace(original(self), error=None)


@_plant(ReconnectBackoff, "reset", "outage never over", "two hiccups an hour apart end the worker")
def _never_over(_: Any) -> Any:
    return lambda self: None


@_plant(Worker, "_turn", "takes new work while it drains", "a stopping worker interrupts what it need not have begun")
def _takes_on(original: Any) -> Any:
    async def turn(self: Any, room: int) -> None:
        await original(self, self._free_slots() if self._stop.requested else room)

    return turn


@_plant(Worker, "_end_attempt", "lost lease keeps its slot", "a worker that lost leases runs less and less")
def _slot_kept(original: Any) -> Any:
    def end(self: Any, attempt: Any, settlement: Any) -> None:
        original(self, attempt, settlement)
        if attempt.cancel_reason is CancelReason.LEASE_LOST:
            self._in_flight.setdefault(attempt.lease.message_id, attempt)

    return end


@_plant(
    Worker,
    "_start_attempts",
    "own lost lease not noticed",
    "what this worker reserves anew runs beside its earlier attempt",
)
def _beside_itself(original: Any) -> Any:
    def take(self: Any, leases: Any, asked_at: float, asked_now: float) -> None:
        for lease in leases:
            self._in_flight.pop(lease.message_id, None)
        original(self, leases, asked_at, asked_now)

    return take


# -- the users' side -----------------------------------------------------------------------------


def _sticky() -> Mutant:
    kept: dict[type[Any], dict[str, Any]] = {}

    def changing(original: Any) -> Any:
        def change(self: Any, **changes: Any) -> Any:
            kept.setdefault(type(self), {}).update(changes)
            return original(self, **changes)

        return change

    def beginning(original: Any) -> Any:
        def init(self: Any, **arguments: Any) -> None:
            original(self, **arguments)
            self._options = replace(self._options, **kept.get(type(self), {}))

        return init

    return Mutant(
        name="options stick to the class",
        breaks="a chained option holds for every later dispatch",
        changes=(
            Change(owner=BaseTask, name="_change", make=changing),
            Change(owner=BaseTask, name="__init__", make=beginning),
        ),
    )


UNDRAWN.append(_sticky())


@_plant(BaseTask, "retry_after", "retry_after ends the exponential strategy", "its delays no longer grow, nor spread")
def _always_fixed(original: Any) -> Any:
    def retry_after(self: Any, delay: Any) -> Any:
        if isinstance(self._current_options().retry, Exponential):
            return self._change(retry=Fixed(delay_s=seconds(delay, "retry_after", above_zero=False)))
        return original(self, delay)

    return retry_after
