"""What was dispatched to a real driver: by the test, by tasks here and in child processes, and in transactions."""

import threading
from collections.abc import Callable, Mapping, Sequence

from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.messages import Lease, Message
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.definition import definition_of
from asynctasq.testing.fake_queue.dispatcher import task_of
from asynctasq.testing.fake_queue.expectation import Dispatched
from asynctasq.testing.real_queue.clock import MovedClock

__all__ = ["DispatchLog"]


class DispatchLog:
    """Turns stored messages into records, once each; what a transaction stored only when it is seen to be committed."""

    def __init__(
        self,
        clock: MovedClock,
        *,
        add: Callable[[Dispatched], None],
        skip: Callable[[Dispatched], None],
        record: Callable[[Entry], None],
    ) -> None:
        self._clock = clock
        self._add = add
        self._skip = skip
        self._record = record
        self._known: set[str] = set()
        self._uncommitted: dict[str, tuple[Message, float]] = {}
        self._lock = threading.Lock()
        self.queues: dict[str, None] = {}
        """Every queue that ever had a message, in the order of their first."""

    def stored(self, messages: Sequence[Message]) -> None:
        """Record what the driver has just stored."""
        now = self._clock.now()
        for message in messages:
            self._note(message, now)

    def skipped(self, messages: Sequence[Message]) -> None:
        """Record what the driver has not stored because another message holds its unique key."""
        at_s = self._clock.now() - self._clock.opened_at
        for message in messages:
            self._skip(Dispatched(task=task_of(message.body)[0], message=message, at_s=at_s))

    def stored_in_transaction(self, messages: Sequence[Message]) -> None:
        """Keep in mind what becomes a dispatch if the caller commits."""
        now = self._clock.now()
        for message in messages:
            self._uncommitted[message.id] = message, now

    def reserved(self, leases: Sequence[Lease]) -> None:
        """Record what a worker has got and nobody told of: a child process or another program dispatched it."""
        for lease in leases:
            if lease.message_id in self._uncommitted:
                self.committed([lease.message_id])
            elif lease.message_id not in self._known:
                self._note(Message(id=lease.message_id, queue=lease.queue, body=lease.body), lease.enqueued_at)

    def cancelled(self, tokens: Mapping[str, str]) -> None:
        """Record which messages were cancelled, and under which leases."""
        now = self._clock.now()
        for message_id, token in tokens.items():
            self._record(Entry(now, Kind.REMOVED, message_id, token=token, detail="cancelled"))

    @property
    def uncommitted(self) -> list[str]:
        """The ids of messages of which it is not known whether their transaction was committed."""
        return list(self._uncommitted)

    def committed(self, message_ids: Sequence[str]) -> None:
        """Record those whose transaction was committed."""
        for message_id in message_ids:
            found = self._uncommitted.pop(message_id, None)
            if found is not None:
                self._note(*found)

    def _note(self, message: Message, at: float) -> None:
        with self._lock:  # dispatch_sync stores in the loop of another thread
            if message.id in self._known:
                return
            self._known.add(message.id)
            self.queues[message.queue] = None
        cls, max_attempts = task_of(message.body)
        self._record(
            Entry(
                at,
                Kind.DISPATCHED,
                message.id,
                detail="" if cls is BaseTask else definition_of(cls).name,
                due_at=at + message.delay_s,
                max_attempts=max_attempts,
            )
        )
        self._add(Dispatched(task=cls, message=message, at_s=at - self._clock.opened_at))
