"""The memory driver of a FakeQueue: the same, with some messages out of sight while a drain leaves them alone."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from asynctasq.clock import Clock
from asynctasq.drivers.memory_driver import MemoryDriver, MemoryRow
from asynctasq.kernel.messages import Message

__all__ = ["FakeStore"]


class FakeStore(MemoryDriver):
    """A memory driver that can be asked what is left, and told what not to hand out."""

    def __init__(self, *, clock: Clock, served: AbstractSet[str] | None = None) -> None:
        """Serve the queues in `served`, or all: what lies elsewhere does not count as work to do."""
        super().__init__(clock=clock)
        self._served = served
        self._hidden: set[str] = set()

    @property
    def pending(self) -> int:
        """How many messages live that are neither dead letters nor hidden, nor in a queue that no worker serves."""
        if self._served is None and not self._hidden:
            return len(self._rows) - sum(len(dead) for dead in self._dead.values())
        rows = self._rows.values()
        return sum(1 for row in rows if row.reason is None and row.message.id not in self._hidden and self._serves(row))

    def any_visible(self) -> bool:
        """Say whether a reserve of some queue would bring something now."""
        with self._lock:
            now = self._now()
            return any(
                self._first_visible(queue, now) for queue in self._due if self._served is None or queue in self._served
            )

    def pending_ids(self) -> list[str]:
        """Return the ids of all living messages that are no dead letters, hidden ones included."""
        return [message_id for message_id, row in self._rows.items() if row.reason is None]

    def scheduled_ids(self) -> list[str]:
        """Return the ids of those that are not due yet and not reserved."""
        now = self._now()
        return [
            message_id
            for message_id, row in self._rows.items()
            if row.reason is None and not row.leased and row.visible_us > now
        ]

    def message(self, message_id: str) -> Message | None:
        """Return a living message as it was enqueued."""
        row = self._rows.get(message_id)
        return None if row is None else row.message

    def hide(self, message_id: str) -> None:
        """Let no reserve see this message until it is shown."""
        self._hidden.add(message_id)

    def show_all(self) -> None:
        """Make every hidden message visible again, at its own time."""
        with self._lock:
            hidden, self._hidden = self._hidden, set()
            rows = [row for message_id in sorted(hidden) if (row := self._rows.get(message_id)) is not None]
            for row in rows:
                if row.reason is None:
                    self._place(row)
            self._wake({row.message.queue for row in rows})

    def enqueue_now(self, messages: Sequence[Message]) -> list[str]:
        """Do `enqueue` from code that can't await."""
        self._check(messages)
        with self._lock:
            return self._store(messages)

    async def wait_any(self, *, wait_s: float) -> bool:
        """Wait until any queue has something visible; False after `wait_s`."""
        while not self.any_visible():
            if not await self._wait(list(self._due), wait_s):
                return False
        return True

    def _wake(self, queues: AbstractSet[str]) -> None:
        super()._wake(frozenset(name for waiter in self._waiters for name in waiter.queues) | queues)

    def queue_names(self) -> list[str]:
        """Return every queue that ever had a message, in the order of their first."""
        return list(self._due)

    def _serves(self, row: MemoryRow) -> bool:
        return self._served is None or row.message.queue in self._served

    def _stands(self, row: MemoryRow, visible_us: int) -> bool:
        return super()._stands(row, visible_us) and row.message.id not in self._hidden
