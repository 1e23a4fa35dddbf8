"""What came of the request to cancel a task; a value."""

import enum

__all__ = ["Cancellation"]


class Cancellation(enum.Enum):
    """What `cancel` did. Only `NOTHING` is false."""

    QUEUED = "queued"
    """The task waited, for its time, for a worker or for a retry: it never runs again."""
    RUNNING = "running"
    """A worker had begun to run it: its attempt is cancelled, and what came of it is discarded."""
    NOTHING = "nothing"
    """There was nothing to cancel: the task has completed, is a dead letter, or is unknown."""

    def __bool__(self) -> bool:
        return self is not Cancellation.NOTHING
