"""The memory driver of a FakeQueue, which can hide messages while a drain leaves them out."""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

from asynctasq.drivers.base import Enqueued, Settlements
from asynctasq.drivers.batches import has_keys
from asynctasq.drivers.levels import queue_in
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.memory_driver.row import MemoryRow
from asynctasq.kernel.limits import is_queue_of_limits, runs_no_task
from asynctasq.kernel.messages import Lease, Message, State
from asynctasq.testing.clock import VirtualClock
from asynctasq.testing.transactions import Change

__all__ = ["FakeStore", "current_holder", "deferred_to"]


deferred_to: ContextVar[Callable[[Change], None] | None] = ContextVar("asynctasq_deferred_to", default=None)
"""What takes changes of the store in place of the store: those of a transaction that is still open."""


current_holder: ContextVar[str] = ContextVar("asynctasq_holder", default="")
"""The simulated worker that reserves; all of them share one store."""


class _AnyQueue(frozenset[str]):
    """Every queue of tasks there is or will be: there may be none yet when a wait begins; and some queues of limits."""

    def __contains__(self, queue: object) -> bool:
        return not is_queue_of_limits(str(queue)) or super().__contains__(queue)


ANY_QUEUE = _AnyQueue()


class FakeStore(MemoryDriver):
    """A memory driver that reports what is left, and can hide messages from reserves."""

    def __init__(self, *, clock: VirtualClock, served: AbstractSet[str] | None = None) -> None:
        """Serve the queues in `served`, or all: messages in other queues do not count as work to do."""
        super().__init__(clock=clock)
        self._virtual = clock
        self._served = served
        self._hidden: set[str] = set()
        self._duplicated: dict[str, int] = {}
        self.on_stored: Callable[[Sequence[str]], None] | None = None
        self.on_skipped: Callable[[Sequence[Message]], None] | None = None
        """Is called with the messages that are not stored because another one holds their unique key."""
        self.on_look: Callable[[], None] | None = None
        """Is called before anyone looks at what is left to do."""
        self.on_forgotten: Callable[[Sequence[str]], None] | None = None
        self.has_own_messages = False
        """Whether there may be messages that keep schedules going, or limits: they are no work left to do."""
        self._followed: list[str] = []
        self.describe: Callable[[str], object] | None = None
        self.on_redriven: Callable[[AbstractSet[str]], None] | None = None
        self.on_removed: Callable[[AbstractSet[str]], None] | None = None
        self.on_cancelled: Callable[[Mapping[str, str]], None] | None = None

    @property
    def pending(self) -> int:
        """How many tasks are left to run that are neither hidden nor in a queue that no worker serves."""
        self._looked_at()
        if self._served is None and not self._hidden and not self.has_own_messages:
            return len(self._rows) - sum(len(dead) for dead in self._dead.values())
        return sum(1 for row in self._work() if row.message.id not in self._hidden and self._serves(row))

    def _work(self) -> Iterable[MemoryRow]:
        """Return the living messages that run tasks."""
        return [row for row in self._rows.values() if row.reason is None and not runs_no_task(row.message.id)]

    def any_visible(self) -> bool:
        """Say whether a reserve of some queue would bring something now."""
        self._looked_at()
        with self._lock:
            return self._first_due(ANY_QUEUE) <= self._now()

    def pending_ids(self) -> list[str]:
        """Return the ids of all living messages that run tasks and are no dead letters, hidden ones included."""
        self._looked_at()
        return [row.message.id for row in self._work()]

    def _looked_at(self) -> None:
        if self.on_look is not None:
            self.on_look()

    def unserved(self) -> dict[str, int]:
        """Return how many of them lie in queues that no worker serves, by queue."""
        self._looked_at()
        return dict(Counter(row.message.queue for row in self._work() if not self._serves(row)))

    @property
    def size(self) -> int:
        """How many messages there are, dead letters included; costs nothing."""
        return len(self._rows)

    def dead(self, queue: str) -> int:
        """Return how many dead letters a queue has."""
        return len(self._dead.get(queue, ()))

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
                    self._place(row, row.visible_us)

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        return self.enqueue_now(messages)

    def enqueue_now(self, messages: Sequence[Message]) -> list[str]:
        """Do `enqueue` from code that can't await; `on_stored` is called with the ids that are new."""
        self._check(messages)
        defer = deferred_to.get()
        if defer is not None:
            with self._lock:
                new = self._new_in(messages)
            if isinstance(new, Enqueued):  # keys are looked at here, where a conflict can raise, and at the commit
                messages = self._without_skipped(messages, new)
            unstored = partial(self._forget, [message.id for message in messages])
            apply = partial(self._store_now, messages, may_raise=False)
            defer(Change(apply=apply, undo=unstored, dispatched=self._shown(messages)))
            return new
        return self._store_now(messages)

    def _new_in(self, messages: Sequence[Message]) -> list[str]:
        """Return what of these would be stored now."""
        if has_keys(messages):
            return self._keys.plan(messages, self._now(), may_raise=True).enqueued(messages)
        return [message.id for message in messages if message.id not in self._rows]

    def _store(self, messages: Sequence[Message], *, may_raise: bool = True) -> list[str]:
        new = super()._store(messages, may_raise=may_raise)
        if isinstance(new, Enqueued):
            self._without_skipped(messages, new)
        return new

    def _without_skipped(self, messages: Sequence[Message], new: Enqueued) -> list[Message]:
        """Tell of the messages that are not stored because of their keys, and return the others."""
        skipped = [message for message in messages if message.id in new.holders]
        if skipped and self.on_skipped is not None:
            self.on_skipped(skipped)
        return [message for message in messages if message.id not in new.holders]

    def _store_now(self, messages: Sequence[Message], *, may_raise: bool = True) -> list[str]:
        with self._lock:
            new = self._store(messages, may_raise=may_raise)
        if self.on_stored is not None:
            self.on_stored(new)
        return new

    def _forget(self, message_ids: Sequence[str]) -> None:
        if self.on_forgotten is not None:
            self.on_forgotten(message_ids)

    def _shown(self, messages: Sequence[Message]) -> list[object]:
        return [] if self.describe is None else [self.describe(message.id) for message in messages]

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        return self.settle_now(settlements)

    def settle_now(self, settlements: Settlements) -> AbstractSet[str]:
        """Do `settle` from code that can't await."""
        for _, settlement in settlements:
            self._check(settlement.follow_ups)
        defer = deferred_to.get()
        if defer is None:
            with self._lock:
                lost = self._settle_now(settlements)
            if self._followed:
                self._tell_of_follow_ups()
            return lost
        with self._lock:
            lost = {lease.message_id for lease, _ in settlements if self._held(lease) is None}
        settles = frozenset(lease.message_id for lease, _ in settlements) - lost
        change = Change(apply=lambda: self._settle_at_commit(settlements, change), settles=settles)
        defer(change)
        return lost

    def _settle_at_commit(self, settlements: Settlements, change: Change) -> None:
        with self._lock:
            lost = self._settle_now(settlements)
        self._tell_of_follow_ups()
        if change.on_settled is not None:
            change.on_settled(settlements, lost)

    def _tell_of_follow_ups(self) -> None:
        """Call `on_stored` with the ids of the follow-ups that are new."""
        followed, self._followed = self._followed, []
        if followed and self.on_stored is not None:
            self.on_stored(followed)

    def _follow(self, messages: Sequence[Message]) -> None:
        self._followed += self._store(messages, may_raise=False)

    @contextmanager
    def deferring(self, defer: Callable[[Change], None]) -> Generator[None]:
        """Give what the block would store or settle to `defer`, which applies it when a transaction commits."""
        token = deferred_to.set(defer)
        try:
            yield
        finally:
            deferred_to.reset(token)

    def deliver_twice(self, message_id: str) -> bool:
        """Let a second worker reserve a message whose lease is valid; False if it has none. Counts no crash."""
        with self._lock:
            row, now = self._rows.get(message_id), self._now()
            if row is None or not row.leased or row.visible_us <= now:
                return False
            self._duplicated[message_id] = now
            self._place(row, now)
            return True

    def _redrive_now(self, message_ids: Iterable[str]) -> set[str]:
        """Do it; `on_redriven` is called with the ids that are alive again."""
        redriven = super()._redrive_now(message_ids)
        if self.on_redriven is not None:
            self.on_redriven(redriven)
        return redriven

    def _remove_now(self, message_ids: Iterable[str], states: AbstractSet[State], now: int) -> set[str]:
        removed = super()._remove_now(message_ids, states, now)
        if self.on_removed is not None:
            self.on_removed({message_id for message_id in removed if not runs_no_task(message_id)})
        return removed

    def _cancel_running(self, message_ids: Sequence[str]) -> dict[str, str]:
        self._looked_at()
        cancelled = super()._cancel_running(message_ids)
        if self.on_cancelled is not None:
            self.on_cancelled(cancelled)
        return cancelled

    async def wait_cancelled(self, *, wait_s: float) -> bool:
        return await self._wait_cancelled(current_holder.get(), wait_s)

    async def wait_visible(self, queues: Sequence[str], *, wait_s: float) -> bool:
        """Do `wait_visible`; with no queue of tasks named, for any of them."""
        names = _AnyQueue(queues) if all(map(is_queue_of_limits, queues)) else frozenset(queues)
        return await self._until_visible(names, wait_s)

    def _first_due(self, queues: Iterable[str]) -> float:
        return super()._first_due([*self._served_queues(), *queues] if isinstance(queues, _AnyQueue) else queues)

    def _now(self) -> int:
        return self._virtual.now_us

    def _served_queues(self) -> Iterable[str]:
        return [queue for queue in self.queue_names() if self._served is None or queue in self._served]

    def queue_names(self) -> list[str]:
        """Return every queue that ever had a task, in the order of their first."""
        names = dict.fromkeys(map(queue_in, self._due))
        return [queue for queue in names if not (self.has_own_messages and is_queue_of_limits(queue))]

    def _lease(self, row: MemoryRow, until: int) -> Lease:
        if self._duplicated and self._duplicated.pop(row.message.id, None) == row.visible_us:
            row.leased = False  # its holder has not crashed
        row.reserved_by = current_holder.get()
        return super()._lease(row, until)

    def _serves(self, row: MemoryRow) -> bool:
        return self._served is None or row.message.queue in self._served

    def _is_current(self, row: MemoryRow, place: int) -> bool:
        if self._hidden and row.message.id in self._hidden:
            return False
        return super()._is_current(row, place)
