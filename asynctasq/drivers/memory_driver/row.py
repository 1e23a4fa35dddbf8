"""One message of the memory driver, as it is stored; pure."""

from dataclasses import dataclass

from asynctasq.kernel.lifecycle import derive_state
from asynctasq.kernel.messages import MICROSECONDS, DeadReason, ErrorRecord, Message, State, StoredMessage

__all__ = ["MemoryRow"]


@dataclass(slots=True)
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

    def state(self, now: int) -> State:
        """Return its state at this instant."""
        if self.reason is not None:
            return State.DEAD
        return derive_state(leased=self.leased, visible_at=self.visible_us, now=now)

    def stored(self, now: int) -> StoredMessage:
        """Return it as an operator sees it."""
        return StoredMessage(
            id=self.message.id,
            queue=self.message.queue,
            body=self.message.body,
            state=self.state(now),
            attempts=self.attempts,
            crashes=self.crashes,
            enqueued_at=self.enqueued_us / MICROSECONDS,
            visible_at=self.visible_us / MICROSECONDS,
            reason=self.reason,
            error=self.error,
        )
