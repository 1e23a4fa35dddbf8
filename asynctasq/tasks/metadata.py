"""What a task knows of its message: set by its dispatch, and by the worker that runs it."""

from datetime import datetime
from typing import Protocol, final

from asynctasq.tasks.mistaken_calls import not_dispatched

__all__ = ["RunningAttempt", "TaskMetadata"]


class RunningAttempt(Protocol):
    """The attempt that runs a task, as the task may ask about it."""

    @property
    def is_cancelled(self) -> bool:
        """Whether what comes of it counts no more, or the worker interrupts it."""
        ...


class TaskMetadata:
    """The part of a task that tells of the message that runs it, or of its latest dispatch."""

    _task_id: str | None = None
    _current_attempt: int = 0
    _dispatched_at: datetime | None = None
    _is_running: bool = False
    _scheduled_for: datetime | None = None
    _running_attempt: RunningAttempt | None = None

    @final
    @property
    def attempt(self) -> int:
        """The number of the running attempt, from 1."""
        return self._current_attempt + 1

    @final
    @property
    def task_id(self) -> str:
        """The id of the message that runs this task, the same in every attempt; elsewhere of its latest dispatch.

        Raises: AsyncTasqError where the task neither runs nor was dispatched: None would be a bad idempotency key.
        """
        if self._task_id is None:
            raise not_dispatched(self, "id")
        return self._task_id

    @final
    @property
    def dispatched_at(self) -> datetime:
        """When the running task was dispatched, in UTC, the same in every attempt; elsewhere its latest dispatch.

        By the clock of the process that dispatched it. Raises: AsyncTasqError where `task_id` does.
        """
        if self._dispatched_at is None:
            raise not_dispatched(self, "instant of dispatch")
        return self._dispatched_at

    @final
    @property
    def scheduled_for(self) -> datetime | None:
        """The tick of the schedule that is run, aware, UTC, the same in every attempt; None if it was dispatched."""
        return self._scheduled_for

    @final
    @property
    def is_cancelled(self) -> bool:
        """Whether the running attempt is to end: its task was cancelled, its lease lost, or its worker stops.

        For the code of a thread, which can't be interrupted: ask now and then, and return. False outside of an attempt,
        and in a child process, which is killed instead.
        """
        attempt = self._running_attempt
        return attempt is not None and attempt.is_cancelled
