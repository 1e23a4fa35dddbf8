"""The other slips of the third author's forty: the twenty that chance left."""

from collections.abc import Callable
from contextvars import Context
from dataclasses import replace
from typing import Any

from asynctasq import queue as queue_module
from asynctasq.codec import envelope as envelope_module
from asynctasq.core import attempt as attempt_module
from asynctasq.core import exception_codec as exception_codec_module
from asynctasq.core import task_factory as task_factory_module
from asynctasq.core import worker as worker_module
from asynctasq.core.hooks import HookCaller
from asynctasq.core.lanes import child as child_module
from asynctasq.core.lanes import lanes as lanes_module
from asynctasq.core.queue_order import QueueOrder
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.memory_driver import row as memory_row_module
from asynctasq.kernel import decide as decide_module
from asynctasq.kernel.messages import Release
from asynctasq.kernel.retry import Delays
from asynctasq.queue import MessageFactory, Queue
from asynctasq.tasks.signatures import Signature
from tests.mutants.planting import Change, Mutant, planter

__all__ = ["THIRD_AUTHOR_REST"]

THIRD_AUTHOR_REST: list[Mutant] = []
_plant = planter(THIRD_AUTHOR_REST)


def _everywhere(called: str, breaks: str, make: Callable[[Any], Any], *places: tuple[Any, str]) -> None:
    """Enter a defect of something that several modules have by name."""
    changes = tuple(Change(owner=owner, name=name, make=make) for owner, name in places)
    THIRD_AUTHOR_REST.append(Mutant(name=called, breaks=breaks, changes=changes))


# -- decisions -------------------------------------------------------------------------------------


@_plant(
    memory_row_module,
    "derive_state",
    "due at this instant is not ready",
    "< for <=: what was just dispatched is scheduled",
)
def _strictly_before(original: Any) -> Any:
    def state(*, now: int, **given: Any) -> Any:
        return original(now=now - 1, **given)

    return state


@_plant(attempt_module, "Rules", "list of delays ends the retries", "the attempts beyond its end are not made")
def _as_many_as_delays(original: Any) -> Any:
    def rules(*, max_attempts: int, retry: Any, **given: Any) -> Any:
        most = min(max_attempts, len(retry.delays_s) + 1) if isinstance(retry, Delays) else max_attempts
        return original(max_attempts=most, retry=retry, **given)

    return rules


# -- the attempt -----------------------------------------------------------------------------------


@_plant(HookCaller, "_call", "failed() gets the cause", "of `raise A from B` the hook is told of B")
def _unwrapped(original: Any) -> Any:
    async def call_hook(self: Any, run: Any, hook: Any, exception: BaseException) -> Any:
        told = exception.__cause__ if hook.__name__ == "failed" else None
        return await original(self, run, hook, told or exception)

    return call_hook


@_plant(lanes_module, "copy_context", "thread without the context", "current_task() knows no task in a thread")
def _empty_context(_: Any) -> Any:
    return Context


@_plant(attempt_module, "record_of", "traceback not kept", "a dead letter does not say where it failed")
def _without_traceback(original: Any) -> Any:
    def record_of(error: BaseException) -> Any:
        return replace(original(error), traceback="")

    return record_of


@_plant(
    decide_module,
    "NEWER_VERSION_DELAY_S",
    "newer version handed back at once",
    "a worker that can't read it takes it again without a pause",
)
def _no_pause(_: Any) -> Any:
    return 0.0


@_plant(
    exception_codec_module,
    "_find",
    "child's own exceptions lost",
    "a Retry, or an error of one's own, comes as another",
)
def _builtins_alone(original: Any) -> Any:
    def find(name: str) -> Any:
        return original(name) if name.startswith("builtins:") else None

    return find


# -- the worker ------------------------------------------------------------------------------------


@_plant(Worker, "_cancel_all", "worker's own end fails its tasks", "failed() is told of what will run again elsewhere")
def _without_reason(_: Any) -> Any:
    def abandon(self: Any) -> None:
        for attempt in list(self._in_flight.values()):
            self._cancel(attempt)

    return abandon


@_plant(QueueOrder, "next", "only the drawn queue asked", "a burst ends though another queue has work")
def _drawn_alone(original: Any) -> Any:
    def following(self: Any) -> Any:
        return original(self) if self.weights is None else original(self)[:1]

    return following


@_plant(
    worker_module, "parse_queues", "queues in alphabetical order", "a set on the way: the first is not served first"
)
def _sorted(original: Any) -> Any:
    def parse(queues: Any, rng: Any) -> Any:
        order = original(queues, rng)
        if order.weights is None:
            order.names = sorted(set(order.names))
        return order

    return parse


@_plant(worker_module, "CANCEL_SHARE", "clean-up not waited for", "what is slow to end is not handed back")
def _at_once(_: Any) -> Any:
    return 0.0


# -- the driver in memory --------------------------------------------------------------------------


@_plant(MemoryDriver, "_store_one", "id known per queue", "the same id in another queue replaces what waits")
def _known_here(original: Any) -> Any:
    def store_one(self: Any, message: Any, now: int) -> bool:
        row = self._rows.get(message.id)
        if row is not None and row.reason is None and row.message.queue != message.queue:
            del self._rows[message.id]
        return bool(original(self, message, now))

    return store_one


@_plant(MemoryDriver, "_end", "error of a retry not kept", "what waits for its retry does not say why")
def _unexplained(original: Any) -> Any:
    def end(self: Any, row: Any, settlement: Any) -> None:
        earlier = row.error
        original(self, row, settlement)
        if isinstance(settlement, Release):
            row.error = earlier

    return end


@_plant(MemoryDriver, "close", "close ends no wait", "a call that waits goes on waiting for what can't come")
def _left_waiting(_: Any) -> Any:
    async def close(self: Any) -> None:
        """Do nothing."""

    return close


@_plant(
    MemoryDriver, "turn", "reserves before it settles", "what is settled late is taken anew instead, and runs twice"
)
def _reserve_first(_: Any) -> Any:
    async def turn(self: Any, settlements: Any, queues: Any, *, limit: int, lease_s: float) -> Any:
        leases = self._reserve_now(queues, limit, lease_s) if limit else list[Any]()
        lost = await self.settle(settlements) if settlements else frozenset[str]()
        return lost, leases

    return turn


# -- the users' side -------------------------------------------------------------------------------


@_plant(MessageFactory, "message", "options hold for one dispatch", "the second of an instance goes as its class says")
def _used_up(original: Any) -> Any:
    def message(self: Any, task: Any) -> Any:
        made = original(self, task)
        task._options = task._options_now()
        return made

    return message


@_plant(Signature, "unbind", "extra keywords lost", "what **kwargs took is not there when the task runs")
def _named_alone(original: Any) -> Any:
    def unbind(self: Any, arguments: Any) -> Any:
        args, kwargs = original(self, arguments)
        if self.open and self.known:
            kwargs = {name: value for name, value in kwargs.items() if name in self.known}
        return args, kwargs

    return unbind


def _inherited(original: Any) -> Any:
    def definition_of(cls: Any) -> Any:
        known = cls._definition
        return known if known is not None and known.driver is cls._driver_override else original(cls)

    return definition_of


_everywhere(
    "definition inherited",
    "once its base has been dispatched a task runs as its base",
    _inherited,
    (queue_module, "definition_of"),
    (task_factory_module, "definition_of"),
    (child_module, "definition_of"),
)


@_plant(Queue, "_driver", "driver of one task for all", "after a task with its own driver the others go there, too")
def _from_now_on(original: Any) -> Any:
    def driver(self: Any, definition: Any) -> Any:
        self.driver = original(self, definition)
        return self.driver

    return driver


@_plant(envelope_module, "_verify_signature", "unsigned taken for signed", "who writes to the queue needs no key")
def _unsigned_too(original: Any) -> Any:
    def verify_signature(body: bytes, keys: Any, limits: Any) -> Any:
        unsigned = body.startswith(envelope_module.PLAIN_PREFIX)
        return original(body, None if unsigned else keys, limits)

    return verify_signature
