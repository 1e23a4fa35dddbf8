"""Draining a FakeQueue with limits: which messages may run, until when, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, get_args

from asynctasq.errors import AsyncTasqError
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.limits import runs_no_task
from asynctasq.tasks.options import one_of, whole_number
from asynctasq.testing.engine import Engine
from asynctasq.testing.fake_queue.history import histories
from asynctasq.testing.fake_queue.recording import Dispatched, listed
from asynctasq.testing.transactions import Change

__all__ = [
    "Drain",
    "DrainOptions",
    "DrainResult",
    "Errors",
    "NotIdle",
    "Retries",
    "advance_step",
    "check_nothing_left",
    "raise_first",
    "raise_unserved",
    "remaining_work_text",
    "summarise",
    "uncommitted",
]

SHOWN_MAX = 8

Retries = Literal["due", "never", "all"]
Errors = Literal["raise", "collect"]


class NotIdle(AsyncTasqError, AssertionError):
    """Work was left: when the bound on virtual time was reached, or in queues that no worker serves."""


def remaining_work_text(engine: Engine, virtual_s_max: float) -> str:
    """Say what is still to be done."""
    ids = engine.store.pending_ids()
    known = histories(engine.ledger)
    lines = [str(known[message_id]) for message_id in ids[:SHOWN_MAX] if message_id in known]
    more = [f"... {len(ids)} messages in all"] if len(ids) > SHOWN_MAX else []
    return "\n".join([f"not idle after {virtual_s_max:g} virtual seconds; still to do:", *lines, *more])


def uncommitted(changes: Sequence[Change]) -> str:
    """Return what these would dispatch, a line each."""
    return listed([record for change in changes for record in change.dispatched])


def check_nothing_left(engine: Engine, records: Sequence[Dispatched]) -> None:
    """Raise AssertionError if tasks wait for a commit, or to be run to their end."""
    waiting_for_commit = uncommitted(engine.transactions.waiting)
    if waiting_for_commit:
        raise AssertionError(
            "at the end of the test a transaction is still open in which tasks were dispatched: they are not "
            f"recorded{waiting_for_commit}\ncommit it or roll it back in the test, or call queue.commit()"
        )
    left = engine.store.pending_ids()
    if left:
        waiting = listed([record for record in records if record.task_id in left])
        nobody = ", ".join(map(repr, engine.store.unserved()))
        unserved = f"\nno worker of this FakeQueue serves {nobody} (queues={engine.options.queues!r})" if nobody else ""
        raise AssertionError(f"{len(left)} tasks were dispatched and not run to their end:{waiting}{unserved}")


def raise_unserved(engine: Engine) -> None:
    """Raise NotIdle if something waits in queues that no worker serves: it would wait for ever."""
    left = engine.store.unserved()
    if left:
        counts = ", ".join(f"{count} on {queue!r}" for queue, count in left.items())
        raise NotIdle(
            f"not idle: no worker of this FakeQueue serves the queues of what is left ({counts}); "
            f"it has queues={engine.options.queues!r}: name them there, too, or leave that work alone with "
            "drain(scheduled=True)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainResult:
    """How many attempts ended in which way, how much virtual time passed, what was raised.

    `expired` counts the messages that were too old for another attempt; they are not among the failed ones.
    """

    succeeded: int = 0
    retried: int = 0
    failed: int = 0
    snoozed: int = 0
    crashed: int = 0
    handed_back: int = 0
    expired: int = 0
    virtual_elapsed: timedelta = timedelta()
    errors: tuple[BaseException, ...] = field(default=())


FIELDS = {
    "complete": "succeeded",
    "retry": "retried",
    "bury": "failed",
    "bury: expired": "expired",
    "snooze": "snoozed",
    "crash": "crashed",
    "hand back": "handed_back",
}


def summarise(entries: Sequence[Entry], elapsed: timedelta) -> DrainResult:
    """Count what a part of the ledger says."""
    counts = dict.fromkeys(FIELDS.values(), 0)
    for entry in entries:
        if entry.kind is Kind.SETTLED and entry.detail != "wait" and not runs_no_task(entry.message_id):
            counts[FIELDS.get(entry.detail) or FIELDS[entry.detail.partition(":")[0]]] += 1
    errors = tuple(entry.error for entry in entries if entry.kind is Kind.ENDED and entry.error is not None)
    return DrainResult(**counts, virtual_elapsed=elapsed, errors=errors)


def raise_first(entries: Sequence[Entry], *, opened_at: float) -> None:
    """Raise the first exception of a task, with a note on which attempt raised it when."""
    for entry in entries:
        if entry.kind is Kind.ENDED and entry.error is not None:
            at_s = entry.at - opened_at
            entry.error.add_note(
                f"raised by task {entry.message_id}, attempt {entry.attempt}, at virtual second {at_s:g}"
            )
            raise entry.error


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainOptions:
    """limit: attempts at most. recursion: run what is dispatched meanwhile.

    scheduled: False runs what is due now, True everything (the clock jumps), a timedelta what comes due within it.
    retries: "due" runs those that come due in that time, "never" none, "all" every one (the clock jumps).
    errors: "raise" raises the first exception of a task when all has run.

    Raises: ValueError or TypeError for what is none of these.
    """

    limit: int | None = None
    recursion: bool = True
    scheduled: bool | timedelta = False
    retries: Retries = "due"
    errors: Errors = "collect"

    def __post_init__(self) -> None:
        if self.limit is not None:
            whole_number(self.limit, "limit", least=0)
        _check_is("recursion", self.recursion, bool, "True or False")
        _check_is("scheduled", self.scheduled, bool | timedelta, "True, False or a timedelta")
        if isinstance(self.scheduled, timedelta) and self.scheduled < timedelta():
            raise ValueError(f"virtual time never goes back: scheduled={self.scheduled!r}")
        one_of(self.retries, "retries", get_args(Retries))
        one_of(self.errors, "errors", get_args(Errors))

    @property
    def hides(self) -> bool:
        """Whether some of what appears meanwhile is to stay out of sight."""
        return not self.recursion or self.retries == "never" or (self.retries == "all" and self.scheduled is False)


def _check_is(name: str, value: object, kind: Any, wanted: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {wanted}, not {value!r}")


class Drain:
    """Watches the ledger while workers run, and keeps out of their sight what this drain is not about."""

    def __init__(self, engine: Engine, options: DrainOptions) -> None:
        self._engine = engine
        self._options = options

    async def run(self, *, virtual_s_max: float) -> None:
        """Drain; what was kept out of sight is visible again afterwards."""
        engine, options = self._engine, self._options
        listeners = [self._on_entry] if options.hides else []
        engine.listeners += listeners
        jumps = options.scheduled is True or options.retries == "all"
        try:
            if options.scheduled is False and options.retries == "all":
                for message_id in engine.store.scheduled_ids():
                    engine.store.hide(message_id)
            engine.start_workers()
            engine.gate.quota = options.limit
            engine.gate.set_open(is_open=True)
            if isinstance(options.scheduled, timedelta):
                until = engine.clock.monotonic() + options.scheduled.total_seconds()
                await engine.waits.until_clock(until)
            elif jumps:
                if not await engine.waits.until(self._all_done, virtual_s_max=virtual_s_max):
                    raise NotIdle(remaining_work_text(engine, virtual_s_max))
            else:
                await self._until_nothing_due(virtual_s_max)
        finally:
            engine.gate.set_open(is_open=False)
            engine.gate.quota = None
            for listener in listeners:
                engine.listeners.remove(listener)
            engine.store.show_all()

    def _all_done(self) -> bool:
        return not self._engine.busy and (self._limit_reached() or not self._engine.store.pending)

    async def _until_nothing_due(self, virtual_s_max: float) -> None:
        engine = self._engine
        while True:
            await engine.waits.until_instant_end()
            if not engine.busy and (self._limit_reached() or not engine.store.any_visible()):
                return
            # Where nobody is busy and yet something is due, no worker can take it now: it takes time until one is back.
            done = self._nobody_busy if engine.busy else self._taken
            if not await engine.waits.until(done, virtual_s_max=virtual_s_max):
                raise NotIdle(remaining_work_text(engine, virtual_s_max))

    def _nobody_busy(self) -> bool:
        return not self._engine.busy

    def _taken(self) -> bool:
        return self._engine.busy or not self._engine.store.any_visible()

    def _limit_reached(self) -> bool:
        return self._engine.gate.quota == 0

    def _on_entry(self, entry: Entry) -> None:
        match entry.kind:
            case Kind.DISPATCHED if not self._options.recursion:
                self._engine.store.hide(entry.message_id)
            case Kind.DISPATCHED if self._options.retries == "all" and self._options.scheduled is False:
                if entry.due_at > entry.at:
                    self._engine.store.hide(entry.message_id)
            case Kind.SETTLED if entry.detail == "retry" and self._options.retries == "never":
                self._engine.store.hide(entry.message_id)
            case _:
                return


def advance_step(delta: timedelta | None, *, seconds: float, minutes: float, hours: float, days: float) -> timedelta:
    """Return by how much `advance` is to move the clock.

    Raises: TypeError for what is no timedelta, ValueError below zero.
    """
    if delta is not None and not isinstance(delta, timedelta):  # pyright: ignore[reportUnnecessaryIsInstance] - users' input
        raise TypeError(f"advance takes a timedelta, or a number by the name of its unit, seconds=5; not {delta!r}")
    step = (delta or timedelta()) + timedelta(seconds=seconds, minutes=minutes, hours=hours, days=days)
    if step < timedelta():
        raise ValueError(f"virtual time never goes back: advance({step})")
    return step
