"""One message of the memory driver, as it is stored; pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from asynctasq.drivers.base import Page
from asynctasq.drivers.levels import line_by_time, line_of
from asynctasq.kernel.lifecycle import derive_state
from asynctasq.kernel.messages import (
    MICROSECONDS,
    DeadReason,
    Depth,
    ErrorRecord,
    Message,
    Progress,
    State,
    StoredMessage,
)
from asynctasq.kernel.priority import NORMAL

__all__ = ["MemoryRow", "depth_of", "page_of"]


@dataclass(slots=True, weakref_slot=True, eq=False)
class MemoryRow:
    """One message in the store. Instants are integer microseconds; `token` is that of its latest reserve."""

    message: Message
    arrival: int
    enqueued_us: int
    visible_us: int = 0
    attempts: int = 0
    crashes: int = 0
    token: int = 0
    leased: bool = False
    reason: DeadReason | None = None
    error: ErrorRecord | None = None
    reserved_us: int = 0
    reserved_by: str = ""
    progress: Progress | None = None
    redriven: bool = False
    rank: int = 0
    """Its place among messages with fair keys, while it waits by rank; else 0."""

    @property
    def holds_key(self) -> bool:
        """Whether it holds its unique key, if it has one that is not held for a window."""
        unique = self.message.unique
        if unique is None or unique.window_s is not None or self.reason is not None or self.redriven:
            return False
        return unique.until == "done" or not self.token

    @property
    def line(self) -> str:
        """The line of its queue that it waits in: that of its level, once it was reserved always the one by time."""
        message = self.message
        if message.priority == NORMAL and not message.fair_key:
            return message.queue
        return line_by_time(line_of(message)) if self.token else line_of(message)

    @property
    def place(self) -> int:
        """What its line is ordered by."""
        return self.rank or self.visible_us

    def is_visible(self, now: int) -> bool:
        """Say whether it can be reserved at this instant."""
        return self.rank > 0 or self.visible_us <= now

    def state(self, now: int) -> State:
        """Return its state at this instant."""
        if self.reason is not None:
            return State.DEAD
        if self.rank:
            return State.READY
        return derive_state(leased=self.leased, visible_at=self.visible_us, now=now)

    def stored(self, now: int) -> StoredMessage:
        """Return it as an operator sees it."""
        state = self.state(now)
        reserved = state is State.RESERVED
        return StoredMessage(
            id=self.message.id,
            queue=self.message.queue,
            body=self.message.body,
            state=state,
            attempts=self.attempts,
            crashes=self.crashes,
            enqueued_at=self.enqueued_us / MICROSECONDS,
            visible_at=self.visible_us / MICROSECONDS,
            reason=self.reason,
            error=self.error,
            reserved_at=self.reserved_us / MICROSECONDS if reserved else None,
            reserved_by=self.reserved_by if reserved else "",
            progress=self.progress if reserved else None,
            priority=self.message.priority,
        )


def depth_of(rows: Sequence[MemoryRow], now: int) -> Depth:
    """Return how many of the rows are in which state."""
    states = [row.state(now) for row in rows]
    ready = [row for row, state in zip(rows, states, strict=True) if state is State.READY]
    firsts: dict[str, MemoryRow] = {}
    for row in sorted(ready, key=lambda row: (row.place, row.arrival)):
        firsts.setdefault(row.line, row)
    oldest_us = min((row.visible_us for row in firsts.values()), default=None)
    return Depth(
        ready=len(ready),
        scheduled=states.count(State.SCHEDULED),
        reserved=states.count(State.RESERVED),
        dead=states.count(State.DEAD),
        oldest_age_s=None if oldest_us is None else (now - oldest_us) / MICROSECONDS,
    )


def page_of(rows: Sequence[MemoryRow], now: int, *, state: State | None, limit: int, after: int) -> Page:
    """Return some of the rows in that state, in the order of arrival, behind the arrival `after`."""
    later = (row for row in rows if row.arrival > after and state in {None, row.state(now)})
    found = sorted(later, key=lambda row: row.arrival)
    more = str(found[limit - 1].arrival) if len(found) > limit else None
    return Page(messages=[row.stored(now) for row in found[:limit]], cursor=more)
