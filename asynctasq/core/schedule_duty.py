"""Who decides what a queue's schedules are: notes of workers in the store say which code is the current one.

A worker's code is what its schedules of a queue are. Of the codes that a worker on duty has, the one that was seen
first the latest is current. Only the store's order and clock count, no clock of a worker.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

from asynctasq.codec.schedule import decode_note, encode_note
from asynctasq.drivers.base import Driver, Inspectable
from asynctasq.errors import DELAY_S_MAX, UnsupportedFeature
from asynctasq.kernel.messages import Message, StoredMessage
from asynctasq.kernel.schedule import SCHEDULES_QUEUE, ScheduleDefinition, code_of, current_code, derived_id

__all__ = ["ScheduleDuty", "ScheduleStore", "Standing", "all_notes", "check_keeps_schedules", "note"]

CODES_KEPT = 20
"""How many codes of a queue are remembered that no worker on duty has."""
MISSED_MAX = 3
"""After how many times that it did not report a worker is off duty."""


class ScheduleStore(Driver, Inspectable, Protocol):
    """A driver that can keep schedules."""


def check_keeps_schedules(driver: Driver) -> ScheduleStore:
    """Return the driver; raise UnsupportedFeature if it can't keep schedules."""
    claims = driver.capabilities
    if not (claims.inspects and claims.idempotent_enqueue and claims.atomic_settle):
        raise UnsupportedFeature(
            f"{driver} can't keep schedules: it can't look for a message by its id, so nobody could tell whether a "
            "schedule is there already; start their workers on sqlite, redis, postgres or mysql, and let the scheduled "
            "task dispatch to this one"
        )
    return cast("ScheduleStore", driver)  # `inspects` claims Inspectable


def note(kind: str, *texts: str, about: Sequence[str] = ()) -> Message:
    """Return a message that only says that there is something; it never becomes visible."""
    body = encode_note(kind, *texts, *about)
    return Message(id=derived_id(kind, *texts), queue=SCHEDULES_QUEUE, body=body, delay_s=DELAY_S_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a worker of the current code learns from its report.

    `now` is the store's time, `names` those of all schedules that were enqueued; `is_first` holds for one of the
    workers that have this code.
    """

    now: float
    names: frozenset[str]
    is_first: bool


@dataclass(slots=True)
class _Notes:
    """What the notes say about one queue, and which schedules there are in all.

    `codes` are pairs of a code and the id of its note, first seen first; `on_duty` has workers by code.
    """

    codes: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    on_duty: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    outdated: list[str] = field(default_factory=list[str])
    names: set[str] = field(default_factory=set[str])


class ScheduleDuty:
    """One worker's reports that it is on duty, and what it learns from those of others."""

    def __init__(self, store: ScheduleStore, worker: str, *, report_s: float) -> None:
        self._store = store
        self._worker = worker
        self._report_s = report_s
        self._reports = 0
        self._own: dict[str, str] = {}

    async def report(self, queue: str, definitions: Sequence[ScheduleDefinition]) -> Standing | None:
        """Report that this worker knows these schedules of a queue; return None if they are not the current ones.

        Raises: DriverError.
        """
        code = code_of(list(definitions))
        self._reports += 1
        duty = note("duty", self._worker, queue, str(self._reports), about=(code,))
        await self._store.enqueue([note("code", queue, code), duty])
        before, self._own[queue] = self._own.get(queue), duty.id
        stored = await all_notes(self._store)
        now = next((message.enqueued_at for message in stored if message.id == duty.id), None)
        if now is None:  # somebody has removed it
            return None
        notes = self._read(stored, queue, now)
        unseen = [note_id for known, note_id in notes.codes[:-CODES_KEPT] if known not in notes.on_duty]
        if gone := [*notes.outdated, *unseen, *([] if before is None else [before])]:
            await self._store.cancel(gone)
        if current_code([known for known, _ in notes.codes], notes.on_duty.keys()) != code:
            return None
        is_first = min(notes.on_duty[code]) == self._worker
        return Standing(now=now, names=frozenset(notes.names), is_first=is_first)

    async def end(self) -> None:
        """Go off duty at once.

        Raises: DriverError.
        """
        own, self._own = list(self._own.values()), {}
        if own:
            await self._store.cancel(own)

    def _read(self, stored: Sequence[StoredMessage], queue: str, now: float) -> _Notes:
        found = _Notes()
        for message in stored:
            match decode_note(message.body):
                case ("code", about, code) if about == queue:
                    found.codes.append((code, message.id))
                case ("duty", worker, about, _, code) if about == queue:
                    if message.enqueued_at + MISSED_MAX * self._report_s < now:
                        found.outdated.append(message.id)
                    else:
                        found.on_duty.setdefault(code, set()).add(worker)
                case ("name", name):
                    found.names.add(name)
                case _:
                    pass
        return found


async def all_notes(store: Inspectable) -> list[StoredMessage]:
    """Return every note, in the order of arrival."""
    found: list[StoredMessage] = []
    cursor: str | None = None
    while True:
        page = await store.list_messages(SCHEDULES_QUEUE, limit=500, cursor=cursor)
        found += page.messages
        if (cursor := page.cursor) is None:
            return found
