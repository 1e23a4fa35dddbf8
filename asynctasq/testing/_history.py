"""The life of one message, read from the ledger; and what can be asserted of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from asynctasq.kernel.ledger import Entry, Kind

__all__ = ["AttemptRecord", "History", "histories"]


@dataclass(slots=True, kw_only=True)
class AttemptRecord:
    """One execution. Times are in virtual seconds since the dispatch.

    `outcome` is "succeeded", "failed", "snoozed", ... or "" if it never ended; `settlement` what the queue was told:
    "complete", "retry", "snooze", "hand back", "crash", "bury: REASON", or "" if nothing reached it.
    """

    number: int
    worker: str
    started_at_s: float
    ended_at_s: float | None = None
    outcome: str = ""
    exception: BaseException | None = None
    hooks: list[str] = field(default_factory=list[str])
    settlement: str = ""


@dataclass(slots=True, kw_only=True)
class History:
    """What happened to one dispatched task, attempt by attempt."""

    task_id: str
    name: str = ""
    dispatched_at_s: float = 0.0
    attempts: list[AttemptRecord] = field(default_factory=list[AttemptRecord])
    hooks: list[str] = field(default_factory=list[str])
    settlement: str = ""

    @property
    def completed(self) -> bool:
        """Whether it ended well."""
        return self.settlement == "complete"

    @property
    def failed(self) -> bool:
        """Whether it became a dead letter."""
        return self.settlement.startswith("bury")

    @property
    def exception(self) -> BaseException | None:
        """What the last attempt that raised, raised."""
        return next((a.exception for a in reversed(self.attempts) if a.exception is not None), None)

    @property
    def retried_at_s(self) -> list[float]:
        """When the attempts after the first started, in virtual seconds since the dispatch."""
        return [round(attempt.started_at_s, 6) for attempt in self.attempts[1:]]

    def __str__(self) -> str:
        lines = [f"{self.name} {self.task_id}: {self.settlement or 'not settled'}"]
        for attempt in self.attempts:
            raised = f" {attempt.exception!r}" if attempt.exception is not None else ""
            hooks = f" hooks: {', '.join(attempt.hooks)}" if attempt.hooks else ""
            lines.append(
                f"  attempt {attempt.number} at {attempt.started_at_s:g}s on {attempt.worker}: "
                f"{attempt.outcome or 'did not end'}{raised}{hooks} -> {attempt.settlement or 'not settled'}"
            )
        return "\n".join(lines)


def histories(ledger: Iterable[Entry]) -> dict[str, History]:
    """Read a ledger into one history per message, in the order of their first entry."""
    found: dict[str, History] = {}
    running: dict[tuple[str, str], AttemptRecord] = {}
    for entry in ledger:
        if not entry.message_id:
            continue
        history = found.get(entry.message_id)
        if history is None:
            history = found[entry.message_id] = History(task_id=entry.message_id, dispatched_at_s=entry.at)
        _apply(history, running, entry)
    return found


def _apply(history: History, running: dict[tuple[str, str], AttemptRecord], entry: Entry) -> None:
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
        case Kind.ENDED if attempt is not None:
            attempt.ended_at_s = entry.at - history.dispatched_at_s
            attempt.outcome, attempt.exception = entry.detail.partition(":")[0], entry.error
        case Kind.HOOK:
            history.hooks.append(entry.detail)
            if attempt is not None:
                attempt.hooks.append(entry.detail)
        case Kind.SETTLED:
            history.settlement = entry.detail
            if attempt is not None:
                attempt.settlement = entry.detail
        case Kind.REDRIVEN:
            history.settlement = ""
        case Kind.REMOVED:
            history.settlement = "removed"
        case _:
            return


def of_task(found: Iterable[History], names: Sequence[str]) -> list[History]:
    """Return the histories of the tasks with these names."""
    return [history for history in found if history.name in names]
