"""Which message holds which unique key in the memory driver, and what becomes of a batch with keys; under its lock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from asynctasq.drivers.base import Enqueued
from asynctasq.drivers.batches import UniqueOutcome
from asynctasq.drivers.memory_driver.results import KeptResults
from asynctasq.drivers.memory_driver.row import MemoryRow
from asynctasq.kernel.messages import Message, State, UniqueKey, microseconds

__all__ = ["UniqueKeys", "UniquePlan"]


@dataclass(slots=True)
class UniquePlan:
    """What a batch comes to: `removed` are the ids of older messages that are replaced, `stored` what is there then."""

    removed: set[str] = field(default_factory=set[str])
    stored: dict[str, Message] = field(default_factory=dict[str, Message])
    order: list[tuple[Message, list[str]]] = field(default_factory=list[tuple[Message, list[str]]])
    """What is done one after the other: a message is stored, in place of the others; a later one may replace it."""
    held: dict[tuple[str, bool], str] = field(default_factory=dict[tuple[str, bool], str])
    """Who of the batch took a key, by the key and whether it is held without a window."""
    outcome: UniqueOutcome = field(default_factory=UniqueOutcome)

    def enqueued(self, messages: Sequence[Message]) -> Enqueued:
        """Return what `enqueue` of these messages returns."""
        return self.outcome.enqueued(self.stored, messages)


class UniqueKeys:
    """The keys that are held. Whether a row still holds its key follows from the row, so nothing has to free it."""

    def __init__(self, rows: Mapping[str, MemoryRow]) -> None:
        self._rows = rows
        self._holders: WeakValueDictionary[str, MemoryRow] = WeakValueDictionary()
        self._windows = KeptResults()

    def hold(self, row: MemoryRow, now: int) -> None:
        """Let the row, which was just stored, hold its key, if it has one."""
        unique = row.message.unique
        if unique is None:
            return
        if unique.window_s is None:
            self._holders[unique.key] = row
        else:
            until = now + microseconds(unique.window_s)
            self._windows.keep(unique.key, row.message.id.encode(), expiry=until)

    def holder(self, unique: UniqueKey, now: int) -> str | None:
        """Return the id of the message that holds the key; after it has ended, too, of a window."""
        if unique.window_s is not None:
            found = self._windows.fetch(unique.key, now)
            return None if found is None else found.decode()
        row = self._holders.get(unique.key)
        if row is None or self._rows.get(row.message.id) is not row or not row.holds_key:
            return None
        return row.message.id

    def plan(self, messages: Sequence[Message], now: int, *, may_raise: bool) -> UniquePlan:
        """Return what becomes of the messages, one after the other; change nothing.

        Raises: UniqueConflictError.
        """
        plan = UniquePlan()
        for message in messages:
            unique = message.unique
            if message.id in plan.stored or (message.id in self._rows and message.id not in plan.removed):
                continue
            replaced: list[str] = []
            if unique is not None:
                holder = self._holder_after(plan, unique, now)
                if holder == message.id:  # within the window of an earlier message of this id
                    continue
                if holder is not None and not self._replaces(unique, holder, plan, now):
                    plan.outcome.refuse(message, holder, may_raise=may_raise)
                    continue
                if holder is not None:
                    self._replace(holder, message, plan)
                    replaced.append(holder)
                plan.held[unique.key, unique.window_s is None] = message.id
            plan.stored[message.id] = message
            plan.order.append((message, replaced))
        return plan

    def _holder_after(self, plan: UniquePlan, unique: UniqueKey, now: int) -> str | None:
        """Return who holds the key after what is planned so far."""
        is_window = unique.window_s is not None
        taken = plan.held.get((unique.key, not is_window))
        if taken is not None and (is_window or taken in plan.stored):
            return taken
        holder = self.holder(unique, now)
        return None if holder in plan.removed and not is_window else holder

    def _replaces(self, unique: UniqueKey, holder: str, plan: UniquePlan, now: int) -> bool:
        """Say whether a message with this key takes the place of the holder."""
        if unique.on_conflict != "replace":
            return False
        row = None if holder in plan.removed else self._rows.get(holder)
        waits = row is not None and row.state(now) in (State.SCHEDULED, State.READY)
        return holder in plan.stored or waits

    def _replace(self, holder: str, message: Message, plan: UniquePlan) -> None:
        if plan.stored.pop(holder, None) is None:
            plan.removed.add(holder)
        plan.outcome.replaced(holder, message.id)
