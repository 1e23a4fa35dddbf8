"""The life of one message, read from the ledger; and what can be asserted of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Generic, cast

from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.messages import Progress
from asynctasq.testing.fake_queue.wording import short

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    R_co = TypeVar("R_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    R_co = TypeVar("R_co", covariant=True)

__all__ = ["AttemptRecord", "History", "histories"]


@dataclass(slots=True, kw_only=True)
class AttemptRecord:
    """One execution. Times are in virtual seconds since the dispatch.

    `number` is that of the attempt, from 1: a crashed execution, one that was handed back or one that snoozed is no
    attempt by itself, and the next execution has the same number.
    `outcome` is "succeeded", "failed", "snoozed", ... or "" if it never ended; `settlement` how it was settled:
    "complete", "retry", "snooze", "hand back", "crash", "bury: REASON", "cancelled", or "" if nothing reached it.
    `value` is what it returned.
    """

    number: int
    worker: str
    started_at_s: float
    ended_at_s: float | None = None
    outcome: str = ""
    exception: BaseException | None = None
    hooks: list[str] = field(default_factory=list[str])
    settlement: str = ""
    value: object = None
    progress: list[Progress] = field(default_factory=list[Progress])
    """What it reported by `report_progress`, in order, whether or not it was stored before the next report."""


@dataclass(slots=True, kw_only=True)
class History(Generic[R_co]):
    """What happened to one dispatched task, execution by execution.

    `attempts` lists every execution, crashed ones included; `attempts_made` counts attempts as `max_attempts` does.
    `dispatched_at_s` is an instant: seconds since the epoch on the virtual clock. All other times are relative to it.
    """

    task_id: str
    name: str = ""
    dispatched_at_s: float = 0.0
    attempts: list[AttemptRecord] = field(default_factory=list[AttemptRecord])
    hooks: list[str] = field(default_factory=list[str])
    settlement: str = ""
    given_up_with: BaseException | None = None
    """What the latest `failed` was called with."""

    @property
    def completed(self) -> bool:
        """Whether it ended well."""
        return self.settlement == "complete"

    @property
    def failed(self) -> bool:
        """Whether it became a dead letter."""
        return self.settlement.startswith("bury")

    @property
    def expired(self) -> bool:
        """Whether it became a dead letter because it was too old for an attempt to start."""
        return self.settlement == "bury: expired"

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled, while it waited or while it ran."""
        return self.settlement == "cancelled"

    @property
    def value(self) -> R_co | None:
        """What the task returned in the attempt that completed it; None if it is not completed."""
        done = (attempt.value for attempt in reversed(self.attempts) if attempt.settlement == "complete")
        return cast("R_co | None", next(done, None))

    @property
    def exception(self) -> BaseException | None:
        """What the last attempt that raised, raised; of an expired task the `TaskExpiredError`."""
        if self.expired and self.given_up_with is not None:
            return self.given_up_with
        return next((a.exception for a in reversed(self.attempts) if a.exception is not None), None)

    @property
    def attempts_made(self) -> int:
        """The highest number of an attempt that ran, since the last redrive; 0 if none did.

        A crash is counted apart and is no attempt: what ran again after one has the number that it had.
        """
        return max((attempt.number for attempt in self._since_redrive()), default=0)

    @property
    def retried_at_s(self) -> list[float]:
        """When it ran again because it was retried or had snoozed, in virtual seconds since the dispatch.

        Of an attempt that ran again after a crash, when it ran first.
        """
        started: list[float] = []
        latest, snoozes = (1, 0), 0
        for attempt in self.attempts:
            if attempt.number < latest[0]:  # redriven: numbers begin at 1 again
                latest, snoozes = (1, 0), 0
            if (attempt.number, snoozes) > latest:
                latest = attempt.number, snoozes
                started.append(round(attempt.started_at_s, 6))
            snoozes += attempt.outcome == "snoozed" and attempt.settlement != ""
        return started

    def _since_redrive(self) -> list[AttemptRecord]:
        """Return the executions since the last redrive, after which numbers begin at 1 again."""
        begin = 0
        for at, (earlier, later) in enumerate(pairwise(self.attempts), start=1):
            if later.number < earlier.number:
                begin = at
        return self.attempts[begin:]

    def __str__(self) -> str:
        lines = [f"{self.name} {self.task_id}: {self.settlement or 'not settled'}"]
        for attempt in self.attempts:
            raised = f" {short(attempt.exception)}" if attempt.exception is not None else ""
            hooks = f" hooks: {', '.join(attempt.hooks)}" if attempt.hooks else ""
            lines.append(
                f"  attempt {attempt.number} at {attempt.started_at_s:g}s on {attempt.worker}: "
                f"{attempt.outcome or 'did not end'}{raised}{hooks} -> {attempt.settlement or 'not settled'}"
            )
        if self.expired:
            hooks = " hooks: failed" if self.given_up_with is not None else ""
            lines.append(f"  expired before attempt {self.attempts_made + 1} could start{hooks}")
        return "\n".join(lines)


def histories(ledger: Iterable[Entry]) -> dict[str, History[Any]]:
    """Read a ledger into one history per message, in the order of their first entry."""
    found: dict[str, History[Any]] = {}
    running: dict[tuple[str, str], AttemptRecord] = {}
    for entry in ledger:
        if not entry.message_id:
            continue
        history = found.get(entry.message_id)
        if history is None:
            history = found[entry.message_id] = History(task_id=entry.message_id, dispatched_at_s=entry.at)
        _apply(history, running, entry)
    return found


def _apply(history: History[Any], running: dict[tuple[str, str], AttemptRecord], entry: Entry) -> None:
    key = (entry.message_id, entry.token)
    attempt = running.get(key)
    match entry.kind:
        case Kind.DISPATCHED:
            history.name, history.dispatched_at_s = entry.detail, entry.at
        case Kind.STARTED:
            history.name = history.name or entry.detail
            started = entry.at - history.dispatched_at_s
            running[key] = attempt = AttemptRecord(number=entry.attempt, worker=entry.worker, started_at_s=started)
            history.attempts.append(attempt)
        case Kind.PROGRESS if attempt is not None:
            attempt.progress.append(cast("Progress", entry.value))
        case Kind.ENDED if attempt is not None:
            attempt.ended_at_s = entry.at - history.dispatched_at_s
            attempt.outcome, attempt.exception = entry.detail.partition(":")[0], entry.error
            attempt.value = entry.value
        case Kind.HOOK:
            history.hooks.append(entry.detail)
            history.given_up_with = entry.error or history.given_up_with
            if attempt is not None:
                attempt.hooks.append(entry.detail)
        case _:
            _apply_end(history, attempt, entry)


def _apply_end(history: History[Any], attempt: AttemptRecord | None, entry: Entry) -> None:
    match entry.kind:
        case Kind.SETTLED:
            settlement = entry.detail
        case Kind.CANCELLED:
            settlement = "cancelled"
        case Kind.REMOVED:
            settlement = entry.detail or "removed"
        case Kind.REDRIVEN:
            settlement = ""
        case _:
            return
    if attempt is not None:
        attempt.settlement = settlement
    if entry.kind is not Kind.CANCELLED or attempt in history.attempts[-1:]:  # else the id was used again meanwhile
        history.settlement = settlement
