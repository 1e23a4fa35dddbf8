"""An attempt in flight: what is known of it so far, and what lets its task settle it; decides nothing."""

import asyncio
import enum
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from asynctasq.core.task_factory import Invocation
from asynctasq.errors import WorkerCrashedError
from asynctasq.kernel.envelope import MAX_CRASHES_DEFAULT
from asynctasq.kernel.messages import Lease
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.completing import Completion

__all__ = [
    "AttemptCompletion",
    "AttemptRun",
    "CancelReason",
    "CompletionFactory",
    "InFlightAttempt",
    "LimitedStart",
    "TransactionOutcome",
    "clear_cancellation",
]


T = TypeVar("T")


class CancelReason(enum.Enum):
    """Why a worker cancelled one of its attempts."""

    WORKER_STOPS = "the worker stops"
    LEASE_LOST = "the lease is lost"
    CANCELLED = "the task was cancelled"
    LIMIT_LOST = "a token of a limit is lost"


@dataclass(slots=True, eq=False)
class InFlightAttempt:
    """An attempt and the lease it runs under, as its worker sees them.

    `deadline` is when the lease ends, on the worker's monotonic clock. `settled_in_transaction` says whether the task
    settled the attempt in its own transaction; it is False when the lease was lost by then. `max_attempts` is that of
    its message, once that is decoded. The worker has had the lease since `held_since` at least; it is set for messages
    that expire. `found_cancelled`: the store says that the lease is lost because the message was cancelled. `run`: its
    task's code was started. `in_thread`: it is in a thread now, which can't be stopped but ends when it likes to.
    """

    lease: Lease
    deadline: float
    cancel_reason: CancelReason | None = None
    found_cancelled: bool = False
    run: "AttemptRun | None" = None
    in_thread: bool = False
    overdue: asyncio.TimerHandle | None = None
    """What says so, or abandons the thread, when it does not end long after it was cancelled."""
    task_name: str = "?"
    max_attempts: int = MAX_CRASHES_DEFAULT
    asyncio_task: "asyncio.Task[None] | None" = None
    begun: bool = False
    held_since: float | None = None
    value: object = None
    exception: BaseException | None = None
    settled_in_transaction: bool | None = None

    def __str__(self) -> str:
        return f"{self.task_name} (message {self.lease.message_id})"

    @property
    def is_cancelled(self) -> bool:
        """Whether what comes of it counts no more, or the worker interrupts it; any thread may ask."""
        return self.cancel_reason is not None

    def forget_what_ran(self) -> None:
        """Drop what leads back to it, when it has ended: only the garbage collector would free it all, and late."""
        self.asyncio_task = self.run = self.exception = self.value = None

    def log_fields(self) -> Mapping[str, object]:
        """Return what log records say of it."""
        lease = self.lease
        return {"task": self.task_name, "task_id": lease.message_id, "attempt": lease.attempt, "queue": lease.queue}

    def crash_error(self, crashes: int) -> WorkerCrashedError:
        """Return the error of a message that is given up after so many crashes."""
        return WorkerCrashedError(
            f"{self.task_name} was given up: {crashes} attempts ended with the death of the process that ran them"
        )


class TransactionOutcome(enum.Enum):
    """How the transaction ended in which an attempt had settled itself before it raised."""

    ROLLED_BACK = "rolled back"
    COMMITTED = "committed"
    UNKNOWN = "unknown"


class AttemptCompletion(Completion, Protocol):
    """The completion of one attempt, as its worker sees it."""

    async def transaction_outcome(self) -> TransactionOutcome:
        """Find out whether the transaction was committed; if it was rolled back the lease is renewed again."""
        ...


class CompletionFactory(Protocol):
    """Makes what lets a task settle its own attempt."""

    def completion(
        self, attempt: InFlightAttempt, task: BaseTask[Any], keep_result_s: float | None
    ) -> AttemptCompletion:
        """Return what lets `task` settle this attempt."""
        ...


class LimitedStart(Protocol):
    """What is around the code of an attempt that has tokens of limits."""

    async def before(self, code: Coroutine[Any, Any, T], *, enters: bool = False) -> T:
        """Await the coroutine; with `enters`, its first step begins the attempt's own code."""
        ...

    def calling(self, execute: Callable[[], T]) -> Callable[[], T]:
        """Return the call that notes its own beginning, in whichever thread."""
        ...


@dataclass(slots=True)
class AttemptRun:
    """One attempt with what its message invokes, while it runs. `built`: its task exists, here or in a child.

    `went_on`: its code has ended by itself although it was cancelled. `limited` is what is around its code if its task
    has limits.
    """

    attempt: InFlightAttempt
    invocation: Invocation
    task: BaseTask[Any] | None = None
    built: bool = False
    completion: AttemptCompletion | None = None
    went_on: bool = False
    limited: LimitedStart | None = None


def clear_cancellation() -> None:
    """Undo a cancellation that user code raised or asked for, so that what follows is not cancelled too."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
