"""Defects of unique keys: held too long or not long enough, decided by the wrong thing, told wrongly."""

from dataclasses import replace
from typing import Any

from asynctasq.drivers.batches import UniqueOutcome
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.memory_driver.row import MemoryRow
from asynctasq.drivers.memory_driver.unique import UniqueKeys
from asynctasq.tasks import unique_keys as unique_keys_module
from asynctasq.tasks.unique import Unique
from asynctasq.testing.fake_queue import dispatcher as dispatcher_module
from tests.mutants.planting import Mutant, planter

__all__ = ["UNIQUE"]

UNIQUE: list[Mutant] = []
_plant = planter(UNIQUE)


# -- who holds a key -------------------------------------------------------------------------------


@_plant(MemoryRow, "holds_key", "dead letter holds its key", "nobody can dispatch the task until somebody discards it")
def _held_by_the_dead(original: Any) -> Any:
    return property(lambda self: self.reason is not None or original.fget(self))


@_plant(MemoryRow, "holds_key", "key freed at a retry", "the task runs twice while it waits to be tried again")
def _freed_at_a_retry(original: Any) -> Any:
    return property(lambda self: not self.attempts and original.fget(self))


@_plant(MemoryRow, "holds_key", "key freed when reserved", "until done is until started")
def _freed_when_reserved(original: Any) -> Any:
    return property(lambda self: not self.token and original.fget(self))


@_plant(
    MemoryRow, "holds_key", "key held until done", "until started is until done: what happens meanwhile is not seen"
)
def _held_until_done(original: Any) -> Any:
    def holds(self: Any) -> bool:
        unique = self.message.unique
        return unique is not None and unique.window_s is None and self.reason is None and not self.redriven

    return property(holds)


@_plant(MemoryRow, "holds_key", "redriven message takes its key back", "two messages hold one key")
def _taken_back(original: Any) -> Any:
    def holds(self: Any) -> bool:
        redriven, self.redriven = self.redriven, False
        try:
            return bool(original.fget(self))
        finally:
            self.redriven = redriven

    return property(holds)


@_plant(UniqueKeys, "holder", "window ends with its message", "what is throttled runs as often as it is quick")
def _ends_with_its_message(original: Any) -> Any:
    def holder(self: Any, unique: Any, now: int) -> Any:
        found = original(self, unique, now)
        return found if unique.window_s is None or found in self._rows else None

    return holder


@_plant(UniqueKeys, "hold", "window has no end", "a key is held for ever")
def _no_end(original: Any) -> Any:
    return lambda self, row, now: original(self, row, now + (3_600_000_000 if row.message.unique else 0))


@_plant(UniqueKeys, "hold", "window begins when due", "a delayed task keeps others out for longer than it says")
def _begins_when_due(original: Any) -> Any:
    return lambda self, row, now: original(self, row, row.visible_us)


# -- conflicts -------------------------------------------------------------------------------------


@_plant(UniqueKeys, "_replaces", "running holder is replaced", "a worker loses the task that it runs")
def _replaces_all(original: Any) -> Any:
    return lambda self, unique, holder, plan, now: unique.on_conflict == "replace" and holder not in plan.removed


@_plant(UniqueKeys, "_replace", "replaced message stays", "debounced, the task runs once for each dispatch")
def _stays(original: Any) -> Any:
    return lambda self, holder, message, plan: None


@_plant(UniqueOutcome, "refuse", "conflict never raises", "a batch that should fail is stored in part")
def _never_raises(original: Any) -> Any:
    return lambda self, message, holder, *, may_raise: original(self, message, holder, may_raise=False)


@_plant(UniqueOutcome, "enqueued", "holder that was replaced is told", "a handle leads to a message that is gone")
def _tells_the_first(original: Any) -> Any:
    def enqueued(self: Any, new: Any, messages: Any) -> Any:
        kept = list(new)
        found = original(self, kept, messages)
        found.holders = {name: self._refused.get(name, holder) for name, holder in found.holders.items()}
        return found

    return enqueued


@_plant(MemoryDriver, "_follow", "follow-ups without keys", "a tick runs beside the one before")
def _without_keys(original: Any) -> Any:
    def follow(self: Any, messages: Any) -> None:
        original(self, [replace(message, unique=None) for message in messages])

    return follow


@_plant(MemoryDriver, "_follow", "follow-up raises a conflict", "a settlement fails for a key that is held")
def _raises_in_a_settlement(original: Any) -> Any:
    def follow(self: Any, messages: Any) -> None:
        self._store(messages)

    return follow


# -- the users' side -------------------------------------------------------------------------------


@_plant(Unique, "key_of", "keys of all tasks meet", "one task keeps another out that has the same key")
def _all_meet(original: Any) -> Any:
    return lambda self, name, subject, arguments: original(self, "", subject, arguments)


@_plant(unique_keys_module, "canonical", "arguments in the order given", "the same arguments have two keys")
def _as_given(original: Any) -> Any:
    return lambda data: data


@_plant(
    dispatcher_module, "living_ids", "skipped dispatch has its own id", "a handle leads to a message that never was"
)
def _own_id(original: Any) -> Any:
    return lambda tasks, ids, stored: ids
