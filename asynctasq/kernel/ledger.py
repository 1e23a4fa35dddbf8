"""The ledger of what happened, entry by entry, and the invariants that every message's history keeps.

A ledger is written by worker, dispatcher and fault injector; the invariants read nothing else, so the same
functions judge a simulated run, a state machine and a kill -9 run against a real server.
"""

import enum
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, zip_longest
from typing import NamedTuple

from asynctasq.kernel.limits import runs_no_task
from asynctasq.kernel.messages import Lease

__all__ = ["EXACT_INVARIANTS", "INVARIANTS", "Entry", "Kind", "Violation", "check", "message_histories", "timeline"]


RESOLUTION_S = 0.5e-6
"""Instants are whole microseconds kept as floats; the sum of two may be off by one of theirs, never by this much."""

FAULT_EFFECT_S = 120.0
"""A fault of a worker may still affect the leases that it takes this much later."""


TOLERATED_FAULTS = ("fail_before", "is asked to stop at once")
"""How the details of faults begin that a worker must tolerate, unless several come together."""


SETTLED_AS = {
    "succeeded": ("complete",),
    "failed": ("retry", "bury: failed"),
    "retryrequested": ("retry", "bury: failed"),
    "snoozed": ("snooze",),
    "rejected": ("bury: rejected",),
    "crashed": ("crash", "bury: crashed"),
    "interrupted": ("snooze",),
}
"""Outcome -> how such an attempt may be settled; "snooze" for an interrupted one whose thread still runs."""


class Kind(enum.Enum):
    """The kinds of entries."""

    __hash__ = object.__hash__  # each is there once; the hash of an Enum is that of its name, and takes a call

    DISPATCHED = "dispatched"
    RESERVED = "reserved"
    STARTED = "started"
    PROGRESS = "progress"
    ENDED = "ended"
    HOOK = "hook"
    SETTLED = "settled"
    EXTENDED = "extended"
    LOST = "lost"
    CANCELLED = "cancelled"
    CRASHED = "crashed"
    STOPPED = "stopped"
    REDRIVEN = "redriven"
    REMOVED = "removed"
    FAULT = "fault"
    NOTE = "note"


class Entry(NamedTuple):
    """One event. `at` is in seconds on the ledger's clock.

    `due_at` is when the message becomes visible (dispatched, settled by a release) or its lease ends
    (reserved, extended). `detail` is the outcome of ENDED, the settlement of SETTLED ("complete", "retry",
    "hand back", "snooze", "wait" for a token, "crash", "bury: REASON"), the hook of HOOK, the task of DISPATCHED.
    REDRIVEN and REMOVED are what an operator did: a dead letter is ready again, a message was removed; with the detail
    "cancelled" by `cancel_running`, and then `token` is that of the lease it had. CANCELLED: an attempt has ended whose
    message was removed so.
    CRASHED and STOPPED are about a whole worker and have no message; FAULT, what a simulation did, is about a
    worker, or about a message that was "delivered twice"; NOTE is what it did that explains no deviation. `error` is
    the exception itself of a failed attempt, or that given to `failed`, and `value` what one returned, or reported as
    PROGRESS, where the ledger is in the same process. `queue` and `enqueued_at`, of the message, are there in what a
    worker enters of its attempts.
    """

    at: float
    kind: Kind
    message_id: str = ""
    worker: str = ""
    attempt: int = 0
    token: str = ""
    detail: str = ""
    due_at: float = 0.0
    max_attempts: int = 0
    error: BaseException | None = None
    value: object = None
    queue: str = ""
    enqueued_at: float = 0.0

    @classmethod
    def of(  # noqa: PLR0913 - the fields of an entry
        cls,
        lease: Lease,
        kind: Kind,
        *,
        at: float,
        worker: str,
        detail: str = "",
        due_at: float = 0.0,
        error: BaseException | None = None,
        value: object = None,
    ) -> "Entry":
        """Return the entry of an event of an attempt under `lease`."""
        ids = (lease.message_id, worker, lease.attempt, lease.token)
        return cls(at, kind, *ids, detail, due_at, 0, error, value, lease.queue, lease.enqueued_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A broken invariant, and the message that shows it."""

    invariant: str
    message_id: str
    text: str


@dataclass(frozen=True, slots=True)
class MessageHistory:
    """The entries of one message, and the crashes and faults of workers meanwhile."""

    message_id: str
    entries: Sequence[Entry]
    crashes: Sequence[Entry]
    faults: Sequence[Entry] = ()
    by_kind: defaultdict[Kind, list[Entry]] = field(
        init=False, repr=False, compare=False, default_factory=lambda: defaultdict(list)
    )

    def __post_init__(self) -> None:
        for entry in self.entries:
            self.by_kind[entry.kind].append(entry)

    def of(self, *kinds: Kind) -> list[Entry]:
        """Return the entries of these kinds, in their order."""
        return [entry for entry in self.entries if entry.kind in kinds]

    @property
    def crashed(self) -> bool:
        """Whether a worker died, or a child did, while it had this message."""
        holders = {entry.worker for entry in self.by_kind[Kind.RESERVED]}
        return any(crash.worker in holders for crash in self.crashes) or any(
            entry.detail in ("crash", "bury: crashed") for entry in self.by_kind[Kind.SETTLED]
        )

    @property
    def disturbed(self) -> bool:
        """Whether a fault affected it or a worker that had it, or a lease of it was lost."""
        holders = {entry.worker for entry in self.by_kind[Kind.RESERVED]}
        faulty = any(fault.worker in holders for fault in self.faults)
        return faulty or self.crashed or bool(self.of(Kind.LOST, Kind.FAULT))

    def affected(self, worker: str, *, since: float, until: float) -> bool:
        """Return whether a fault or a crash affected this worker, or this message, in that time.

        One call that failed without effect does not count: trying it again must be enough, unless there is no time to.
        """
        events = [*self.faults, *self.crashes, *self.by_kind[Kind.FAULT]]
        found = [e for e in events if since <= e.at <= until and (e.worker == worker or e.message_id)]
        return len(found) > 1 or any(not e.detail.startswith(TOLERATED_FAULTS) for e in found)

    @property
    def final(self) -> Entry | None:
        """The settlement that ended it for good."""
        return next((entry for entry in self.by_kind[Kind.SETTLED] if _is_final(entry)), None)


def _is_final(settled: Entry) -> bool:
    return settled.detail == "complete" or settled.detail.startswith("bury")


def message_histories(entries: Iterable[Entry]) -> dict[str, MessageHistory]:
    """Split a ledger by message, in the order of their first entries."""
    by_message: dict[str, list[Entry]] = {}
    crashes: list[Entry] = []
    faults: list[Entry] = []
    for entry in entries:
        if (own := by_message.get(entry.message_id)) is not None:
            own.append(entry)
        elif entry.message_id:
            if not runs_no_task(entry.message_id):  # those have many lives under one id
                by_message[entry.message_id] = [entry]
        elif entry.kind is Kind.CRASHED:
            crashes.append(entry)
        elif entry.kind is Kind.FAULT:
            faults.append(entry)
    return {message_id: MessageHistory(message_id, own, crashes, faults) for message_id, own in by_message.items()}


def check(
    entries: Iterable[Entry], *, alive: Collection[str] = (), tolerance_s: float = 0.0, exact: bool = False
) -> list[Violation]:
    """Judge a finished run by every invariant.

    `alive` are the ids that the store still holds; `tolerance_s` allows for entries stamped by another
    clock than the store's. `exact`: the ledger has an entry for everything that went wrong, so a message that nothing
    disturbed must have been handled without any deviation.
    """
    invariants = INVARIANTS | EXACT_INVARIANTS if exact else INVARIANTS
    return [
        Violation(invariant=name, message_id=history.message_id, text=text)
        for whole in message_histories(entries).values()
        for history in _split_into_lives(whole)
        for name, invariant in invariants.items()
        for text in invariant(history, alive, tolerance_s + RESOLUTION_S)
    ]


def _split_into_lives(history: MessageHistory) -> Iterator[MessageHistory]:
    """Split a history at every redrive, and where an id is dispatched again whose message was completed or removed."""
    if not history.by_kind[Kind.REDRIVEN] and len(history.by_kind[Kind.DISPATCHED]) < 2:
        yield history
        return
    life: list[Entry] = []
    limit, gone = 0, False
    for entry in history.entries:
        limit = max(limit, entry.max_attempts)
        if entry.kind is Kind.REDRIVEN or (entry.kind is Kind.DISPATCHED and gone):
            yield replace(history, entries=life)
            life, gone = [entry._replace(kind=Kind.DISPATCHED, max_attempts=limit)], False
        else:
            life.append(entry)
            gone = gone or entry.kind is Kind.REMOVED or (entry.kind is Kind.SETTLED and entry.detail == "complete")
    yield replace(history, entries=life)


def _nothing_lost(history: MessageHistory, alive: Collection[str], _tolerance_s: float) -> Iterator[str]:
    ended = history.final is not None or history.by_kind[Kind.REMOVED]
    if not ended and history.message_id not in alive and history.by_kind[Kind.DISPATCHED]:
        yield "dispatched, neither settled for good nor still in the store"


def _extra_runs_explained(history: MessageHistory, _alive: Collection[str], tolerance_s: float) -> Iterator[str]:
    starts = history.by_kind[Kind.STARTED]
    for earlier, later in pairwise(starts):
        if earlier.attempt == later.attempt and not _may_run_again(history, earlier, later, tolerance_s):
            yield f"attempt {later.attempt} ran again at {later.at:.6f} while {earlier.worker} had a valid lease"


def _may_run_again(history: MessageHistory, earlier: Entry, later: Entry, tolerance_s: float) -> bool:
    """Return whether between two runs of one attempt the first was released, or its lease ran out, or a fault occurred.

    A fault may deliver a lease twice before its run begins; the run of the original may even begin second.
    """
    leases = [e.at for e in history.by_kind[Kind.RESERVED] if e.token in (earlier.token, later.token)]
    since = min([earlier.at, *leases])
    if any(since <= fault.at <= later.at for fault in history.by_kind[Kind.FAULT]):
        return True
    for entry in history.by_kind[Kind.SETTLED]:
        if entry.token == earlier.token and entry.detail in ("hand back", "snooze", "crash"):
            return True
    ends = [e.due_at for e in history.of(Kind.RESERVED, Kind.EXTENDED) if e.token == earlier.token]
    return bool(ends) and max(ends) <= later.at + tolerance_s


def _attempts_within_limit(history: MessageHistory, _alive: Collection[str], _tolerance_s: float) -> Iterator[str]:
    limit = max((max(1, entry.max_attempts) for entry in history.by_kind[Kind.DISPATCHED]), default=None)
    previous = 0
    for entry in history.by_kind[Kind.STARTED]:
        if limit is not None and entry.attempt > limit:
            yield f"attempt {entry.attempt} of at most {limit}"
        if entry.attempt < previous or entry.attempt > previous + 1:
            yield f"attempt {entry.attempt} follows attempt {previous}"
        previous = entry.attempt


def _stale_token_never_wins(history: MessageHistory, _alive: Collection[str], _tolerance_s: float) -> Iterator[str]:
    latest = ""
    for entry in history.of(Kind.RESERVED, Kind.SETTLED):
        if entry.kind is Kind.RESERVED:
            latest = entry.token
        elif entry.token != latest:
            yield f"token {entry.token} settled ({entry.detail}) after token {latest} had been given out"


def _settled_for_good_once(history: MessageHistory, _alive: Collection[str], _tolerance_s: float) -> Iterator[str]:
    final = history.final
    later = [e for e in history.entries if final and e.kind in (Kind.STARTED, Kind.SETTLED) and e.at > final.at]
    if later:
        yield f"{later[0].kind.value} at {later[0].at:.6f} after it was settled for good"


def _never_early(history: MessageHistory, _alive: Collection[str], tolerance_s: float) -> Iterator[str]:
    due_at = float("-inf")
    for entry in history.of(Kind.DISPATCHED, Kind.SETTLED, Kind.RESERVED):
        if entry.kind is Kind.RESERVED:
            if entry.at + tolerance_s < due_at:
                yield f"reserved at {entry.at:.6f}, due at {due_at:.6f}"
        elif entry.due_at:
            due_at = entry.due_at


def _failed_hook_once(history: MessageHistory, _alive: Collection[str], _tolerance_s: float) -> Iterator[str]:
    final = history.final
    hooks = sum(1 for entry in history.by_kind[Kind.HOOK] if entry.detail == "failed")
    buried = final is not None and final.detail in ("bury: failed", "bury: rejected", "bury: expired")
    if buried and hooks == 0:
        yield "became a dead letter without its failed() hook"
    undisturbed = not history.disturbed
    if undisturbed and hooks > 1:
        yield f"failed() ran {hooks} times though nothing crashed"
    if undisturbed and hooks and final is not None and final.detail == "complete":
        yield "failed() ran though the message completed"
    yield from _hooks_after_a_loss(history)


def _hooks_after_a_loss(history: MessageHistory) -> Iterator[str]:
    """Find failed() called by a worker that knew its lease lost; a lease delivered twice can be lost and valid."""
    lost: set[tuple[str, str]] = set()
    for entry in () if history.by_kind[Kind.FAULT] else history.of(Kind.LOST, Kind.HOOK):
        holder = (entry.worker, entry.token)
        if entry.kind is Kind.LOST:
            lost.add(holder)
        elif entry.detail == "failed" and holder in lost:
            yield f"failed() ran at {entry.at:.6f} though {entry.worker} had lost token {entry.token}"


def _cancelled_for_good(history: MessageHistory, _alive: Collection[str], _tolerance_s: float) -> Iterator[str]:
    """Judge what follows a cancellation: only the attempt whose lease the message had may begin, and nothing counts."""
    removed = next((entry for entry in history.by_kind[Kind.REMOVED] if entry.detail == "cancelled"), None)
    told = [e for e in history.of(Kind.HOOK, Kind.CANCELLED) if e.kind is Kind.CANCELLED or e.detail == "cancelled"]
    if removed is not None:
        for entry in history.entries[history.entries.index(removed) :]:
            if entry.kind is Kind.SETTLED or (entry.kind is Kind.STARTED and entry.token != removed.token):
                yield f"token {entry.token}: {entry.kind.value} at {entry.at:.6f}, cancelled at {removed.at:.6f}"
    own = {entry.token for entry in history.by_kind[Kind.RESERVED]} if told else ()
    if any(entry.token in own and (removed is None or entry.token != removed.token) for entry in told):
        yield "a worker took it for cancelled, and it was not"
    hooks = [entry.token for entry in told if entry.kind is Kind.HOOK]
    for token in dict.fromkeys(hooks):
        if hooks.count(token) > 1:
            yield f"cancelled() ran {hooks.count(token)} times under token {token}"


def _lease_respected(history: MessageHistory, _alive: Collection[str], tolerance_s: float) -> Iterator[str]:
    """Judge every take-over: the lease before had run out or been released, or a fault delivered it twice."""
    released = {entry.token for entry in history.by_kind[Kind.SETTLED] if not _is_final(entry)}
    ends: dict[str, float] = {}
    holder = doubled = ""
    for entry in history.of(Kind.RESERVED, Kind.EXTENDED, Kind.FAULT):
        if entry.kind is Kind.FAULT:
            doubled = holder
            continue
        open_ = holder not in ("", entry.token) and holder not in released and holder != doubled
        if entry.kind is Kind.RESERVED and open_ and entry.at + tolerance_s < ends[holder]:
            yield f"reserved at {entry.at:.6f} though the lease of token {holder} ran until {ends[holder]:.6f}"
        ends[entry.token] = max(entry.due_at, ends.get(entry.token, entry.due_at))
        holder = entry.token if entry.kind is Kind.RESERVED else holder


def _exact_when_undisturbed(history: MessageHistory, _alive: Collection[str], _tolerance_s: float) -> Iterator[str]:
    """Judge every lease that no fault affected: it is settled before it is taken over, not lost, and runs once."""
    reserved = history.by_kind[Kind.RESERVED]
    cancelled = {entry.token for entry in history.by_kind[Kind.REMOVED]}
    for lease, following in zip_longest(reserved, reserved[1:]):
        until = float("inf") if following is None else following.at
        if history.affected(lease.worker, since=lease.at - FAULT_EFFECT_S, until=until):
            continue
        own = [entry.kind for entry in history.entries if entry.token == lease.token]
        if any(own.count(once) > 1 for once in (Kind.RESERVED, Kind.STARTED, Kind.SETTLED)):
            yield f"token {lease.token} was given out, ran or was settled twice though nothing went wrong"
        if Kind.LOST in own and lease.token not in cancelled:
            yield f"token {lease.token} was lost though nothing went wrong"
        elif following is not None and Kind.SETTLED not in own:
            yield f"token {lease.token} was taken over, never settled, though nothing went wrong"


def _settled_as_it_ended(history: MessageHistory, _alive: Collection[str], _tolerance_s: float) -> Iterator[str]:
    """Compare each settlement with the attempt's outcome; any attempt may have been handed back."""
    limit = max((max(1, entry.max_attempts) for entry in history.by_kind[Kind.DISPATCHED]), default=None)
    outcomes = {entry.token: entry.detail.partition(":")[0] for entry in history.by_kind[Kind.ENDED]}
    answers = {entry.token: entry for entry in history.by_kind[Kind.HOOK] if entry.detail.startswith("should_retry")}
    for token, asked in answers.items():
        if limit is not None and asked.attempt >= limit:
            yield f"should_retry was asked at attempt {asked.attempt} of {limit}, token {token}"
    for entry in history.by_kind[Kind.SETTLED]:
        outcome, answer = outcomes.get(entry.token, ""), answers.get(entry.token)
        if outcome in SETTLED_AS and entry.detail not in (*SETTLED_AS[outcome], "hand back"):
            yield f"attempt {entry.attempt} ended: {outcome}, and was settled: {entry.detail}"
        early = limit is not None and entry.attempt < limit and entry.detail == "bury: failed"
        if early and (outcome == "retryrequested" or (answer is not None and answer.detail != "should_retry")):
            yield f"given up at attempt {entry.attempt} of {limit}, though another was allowed"


Invariant = Callable[[MessageHistory, Collection[str], float], Iterator[str]]

INVARIANTS: dict[str, Invariant] = {
    "nothing lost": _nothing_lost,
    "every extra run explained": _extra_runs_explained,
    "attempts monotone and within the limit": _attempts_within_limit,
    "a stale token never wins": _stale_token_never_wins,
    "settled for good once": _settled_for_good_once,
    "never early": _never_early,
    "failed() exactly once": _failed_hook_once,
    "no lease is cut short": _lease_respected,
    "a cancelled message stays cancelled": _cancelled_for_good,
}
"""Name -> function from a history, the ids still stored and a tolerance to texts of violations."""

EXACT_INVARIANTS: dict[str, Invariant] = {
    "exact when undisturbed": _exact_when_undisturbed,
    "settled as it ended": _settled_as_it_ended,
}
"""Those that hold only where the ledger has an entry for everything that went wrong, as in a simulation."""


def timeline(entries: Iterable[Entry], *, start: float | None = None) -> str:
    """Return the entries as text, one a line, times relative to `start` (default: the first entry)."""
    lines: list[str] = []
    for entry in entries:
        start = entry.at if start is None else start
        who = f" {entry.worker}" if entry.worker else ""
        what = f" {entry.message_id[:8]}" if entry.message_id else ""
        attempt = f" attempt {entry.attempt}" if entry.attempt else ""
        detail = f" {entry.detail}" if entry.detail else ""
        lines.append(f"{entry.at - start:>14.6f}{who}{what}{attempt} {entry.kind.value}{detail}")
    return "\n".join(lines)
