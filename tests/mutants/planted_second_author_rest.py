"""The other slips of the second author's fifty, planted once the hunt had grown for the thirty.

Whoever made it grow knew this list: only what the hunt found of it before is a measure.
"""

import asyncio
from dataclasses import replace
from typing import Any

from asynctasq import queue as queue_module
from asynctasq.codec import values as values_module
from asynctasq.core.attempt import AttemptRunner
from asynctasq.core.hooks import HookCaller
from asynctasq.core.leases import LoopLeaseRenewer
from asynctasq.core.queue_order import QueueOrder
from asynctasq.core.shutdown import StopRequest
from asynctasq.core.task_factory import TaskFactory
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.kernel import retry as retry_module
from asynctasq.kernel.decide import Failed, Succeeded
from asynctasq.kernel.messages import MICROSECONDS, Release
from asynctasq.kernel.retry import Delays
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.mode import Mode
from tests.mutants.planting import Mutant, planter

__all__ = ["SECOND_AUTHOR_REST"]

SECOND_AUTHOR_REST: list[Mutant] = []
_plant = planter(SECOND_AUTHOR_REST)


# -- decisions and attempts ----------------------------------------------------------------------


@_plant(retry_module, "_exponential", "exponential grows by steps", "from the third retry on it is early")
def _linear(_: Any) -> Any:
    return lambda policy, attempt: min(policy.cap_s, policy.base_s * attempt)


@_plant(HookCaller, "_call", "should_retry must say True", "an answer that is true in other words is no")
def _identical(original: Any) -> Any:
    async def call_hook(self: Any, run: Any, hook: Any, exception: BaseException) -> Any:
        answer = await original(self, run, hook, exception)
        return answer is True if hook.__name__ == "should_retry" else answer

    return call_hook


@_plant(HookCaller, "_instance", "hooks called on a new instance", "what execute noted on self is not there")
def _built_anew(original: Any) -> Any:
    async def instance(self: Any, run: Any) -> Any:
        run.task = None
        return await original(self, run)

    return instance


@_plant(
    TaskFactory, "build_for_hooks", "built for hooks as the first attempt", "failed() of a crashed child counts wrongly"
)
def _first_for_hooks(original: Any) -> Any:
    return lambda self, invocation, **given: original(self, replace(invocation, attempt=1), **given)


@_plant(AttemptRunner, "_returned", "falsy result not kept", "0 and [] are fetched as None")
def _if_value(original: Any) -> Any:
    def returned(self: Any, run: Any, value: Any) -> Any:
        outcome = original(self, run, value)
        return outcome if value or isinstance(outcome, Failed) else Succeeded()

    return returned


@_plant(AttemptRunner, "_returned", "result that can't travel is retried", "the work is done again for nothing")
def _packed_later(original: Any) -> Any:
    def returned(self: Any, run: Any, value: Any) -> Any:
        outcome = original(self, run, value)
        return replace(outcome, wants_retry=True) if isinstance(outcome, Failed) else outcome

    return returned


# -- the worker ----------------------------------------------------------------------------------


@_plant(
    Worker,
    "_start_attempts",
    "lease counted from the reply",
    "what was granted long ago is begun, and run beside another's",
)
def _from_reply(original: Any) -> Any:
    return lambda self, leases, asked_at, asked_now: original(self, leases, self._clock.monotonic(), asked_now)


@_plant(StopRequest, "sleep", "stop not heard during a pause", "a worker without its backend stops seconds late")
def _sleeps_through(_: Any) -> Any:
    async def sleep(self: Any, delay_s: float) -> None:
        await asyncio.sleep(delay_s)

    return sleep


@_plant(Worker, "_close", "stopped worker can't be started again", "its second start ends at once")
def _stopped_for_good(original: Any) -> Any:
    async def close(self: Any) -> None:
        stop = self._stop
        await original(self)
        self._stop = stop

    return close


@_plant(LoopLeaseRenewer, "remove", "end of one stops the renewal of all", "a long task beside short ones runs twice")
def _disarmed(original: Any) -> Any:
    def remove(self: Any, attempt: Any) -> None:
        original(self, attempt)
        self._disarm()

    return remove


@_plant(QueueOrder, "next", "strict order rotates", "the most important queue waits for its turn")
def _rotated(original: Any) -> Any:
    def following(self: Any) -> Any:
        if self.weights is None:
            self.names.append(self.names.pop(0))
            return list(self.names)
        return original(self)

    return following


# -- the driver in memory ------------------------------------------------------------------------


@_plant(MemoryDriver, "depth", "age counted from the arrival", "what was delayed for a day is a day old when it is due")
def _since_arrival(original: Any) -> Any:
    async def depth(self: Any, queue: str) -> Any:
        right = await original(self, queue)
        now = self._now()
        ready = [row.enqueued_us for row in self._rows.values() if row.message.queue == queue and row.visible_us <= now]
        aged = right.oldest_age_s is not None and ready
        return replace(right, oldest_age_s=(now - min(ready)) / MICROSECONDS) if aged else right

    return depth


@_plant(MemoryDriver, "fetch_result", "result can be fetched once", "who asks again gets None")
def _taken_away(original: Any) -> Any:
    async def fetch_result(self: Any, message_id: str) -> bytes | None:
        data: bytes | None = await original(self, message_id)
        self._results.kept.pop(message_id, None)
        return data

    return fetch_result


@_plant(MemoryDriver, "_end", "hand-back goes to the front", "what comes back overtakes what has waited longer")
def _to_the_front(original: Any) -> Any:
    def end(self: Any, row: Any, settlement: Any) -> None:
        original(self, row, settlement)
        if isinstance(settlement, Release) and not settlement.counted and not settlement.delay_s:
            self._place(row, row.enqueued_us)

    return end


# -- the users' side -----------------------------------------------------------------------------


@_plant(BaseTask, "_change", "each chained option forgets those before", "of on_queue().delay() only the delay is left")
def _from_the_class(_: Any) -> Any:
    def change(self: Any, **changes: Any) -> Any:
        self._options = replace(type(self)._options_of_class, **changes)
        return self

    return change


@_plant(BaseTask, "retry_after", "retry_after does not override a list", "a dispatch's own delay is not kept")
def _list_stays(original: Any) -> Any:
    def retry_after(self: Any, delay: Any) -> Any:
        return self if isinstance(self._current_options().retry, Delays) else original(self, delay)

    return retry_after


@_plant(
    queue_module, "arguments_of", "arguments read from the attributes", "what a constructor changed, it changes twice"
)
def _from_attributes(original: Any) -> Any:
    return lambda task: {name: getattr(task, name, given) for name, given in original(task).items()}


@_plant(TaskFactory, "find", "process=True lost", "a decorated function for a child runs in the worker")
def _in_the_worker(original: Any) -> Any:
    async def find(*args: Any, **given: Any) -> Any:
        right = await original(*args, **given)
        mode = right.definition.mode
        if not mode.in_process or right.cls._arguments_become_attributes:
            return right
        return replace(right, definition=replace(right.definition, mode=Mode.LOOP if mode.is_async else Mode.THREAD))

    return find


@_plant(values_module, "SEQUENCE_TYPES", "tuple comes back as a list", "what was a key, or unpacked by type, is none")
def _as_list(original: Any) -> Any:
    return {code: list if made is tuple else made for code, made in original.items()}
