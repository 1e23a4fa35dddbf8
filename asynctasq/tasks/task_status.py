"""What is known of one task at an instant, for whoever dispatched it; a value, asked of nobody."""

from dataclasses import dataclass
from datetime import UTC, datetime

from asynctasq.kernel.messages import DeadReason, ErrorRecord, Progress, State, StoredMessage

__all__ = ["TaskStatus", "ended_status", "status_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatus:
    """The state of a dispatched task, and how it got there. Instants are aware, UTC, of the driver's clock.

    state: scheduled, ready, reserved (a worker runs it), dead, completed while its result is kept, or cancelled, for an
        hour.
    task: its name, `module:qualname`; "" if its message can't be read. Of a task that has completed or was cancelled
        only id and state are known.
    attempts: executions that were counted so far; a running one is not among them. `max_attempts` is their limit.
    crashes: executions that ended with the death of their worker.
    due_at: when it becomes, or became, due; None while it runs and once it has ended.
    started_at, worker: when the running execution was reserved, and by which worker; None unless it is reserved.
    progress: what the running execution reported last.
    error: that of the latest execution that failed. `reason` is why it became a dead letter.
    """

    id: str
    state: State
    task: str = ""
    queue: str = ""
    attempts: int = 0
    max_attempts: int | None = None
    crashes: int = 0
    enqueued_at: datetime | None = None
    due_at: datetime | None = None
    started_at: datetime | None = None
    worker: str | None = None
    progress: Progress | None = None
    error: ErrorRecord | None = None
    reason: DeadReason | None = None

    @property
    def ended(self) -> bool:
        """Whether it has ended for good: no worker will run it unless an operator redrives it."""
        return self.state in {State.COMPLETED, State.DEAD, State.CANCELLED}


def ended_status(task_id: str, *, cancelled: bool) -> TaskStatus:
    """Return the status of a task of which only its result is left, or that it was cancelled."""
    return TaskStatus(id=task_id, state=State.CANCELLED if cancelled else State.COMPLETED)


def status_of(stored: StoredMessage, *, task: str, max_attempts: int | None) -> TaskStatus:
    """Return the status that a stored message shows."""
    waits = stored.state in {State.SCHEDULED, State.READY}
    return TaskStatus(
        id=stored.id,
        state=stored.state,
        task=task,
        queue=stored.queue,
        attempts=stored.attempts,
        max_attempts=max_attempts,
        crashes=stored.crashes,
        enqueued_at=_instant(stored.enqueued_at),
        due_at=_instant(stored.visible_at) if waits else None,
        started_at=_instant(stored.reserved_at),
        worker=stored.reserved_by or None,
        progress=stored.progress,
        error=stored.error,
        reason=stored.reason,
    )


def _instant(at: float | None) -> datetime | None:
    """Return an instant that a datetime can name; None for one that is damaged."""
    if at is None:
        return None
    try:
        return datetime.fromtimestamp(at, UTC)
    except (OverflowError, OSError, ValueError):
        return None
