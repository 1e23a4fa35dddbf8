"""The queue's operations as SQLite statements; opens no connection, begins and ends no transaction, reads no clock.

Each operation yields statements and is sent rows, so the same code runs on the driver's thread and on a
connection of the caller. What concerns many messages is one statement over a JSON list: every step of a
statement gives up the interpreter's lock, and getting it back may take long when the event loop is busy.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from itertools import groupby

from asynctasq.drivers.base import Settlements
from asynctasq.drivers.batches import has_keys
from asynctasq.drivers.damaged import CLAIMS_MAX, DamagedMessage
from asynctasq.drivers.levels import (
    all_lines_of,
    is_by_rank,
    line_by_time,
    line_of,
    lines_of,
    other_lines_between,
    queue_in,
)
from asynctasq.drivers.sql.settlements import independent_batches
from asynctasq.drivers.sqlite_driver.damaged_rows import DUE_COLUMNS, NEXT_DEATH, bury_damaged, is_readable
from asynctasq.drivers.sqlite_driver.retention import RESULTS_PRUNED, prune_results
from asynctasq.drivers.sqlite_driver.schema import Row, Step, Steps, instant_after
from asynctasq.drivers.sqlite_driver.unique import store_keyed
from asynctasq.kernel.messages import (
    MICROSECONDS,
    Bury,
    Complete,
    ErrorRecord,
    Lease,
    Message,
    Release,
    Settlement,
)

__all__ = [
    "DUE",
    "ReserveResult",
    "extend",
    "hand_back",
    "held",
    "next_due",
    "next_due_unless_visible",
    "reserve",
    "reserve_released",
    "settle",
    "store",
    "token_of",
    "turn",
]

TOKEN_BITS = 32
TOKEN_MAX = 2**95

INSERT = """INSERT OR IGNORE INTO asynctasq_message (id, queue, visible_us, enqueued_us, body)
    VALUES (?, ?, ?, ?, ?)"""
LIVING = f"SELECT {', '.join(DUE_COLUMNS)} FROM asynctasq_message WHERE queue = ? AND death IS NULL"
DUE = f"{LIVING} AND visible_us <= ? ORDER BY visible_us, arrival LIMIT ?"
# Most queues have no other line than that of their name: this look spares the walks of the others.
HAS_OTHERS = "SELECT 1 FROM asynctasq_message WHERE queue > ? AND queue < ? AND death IS NULL LIMIT 1"
HAS_OTHERS_AND_DUE = DUE.replace("SELECT", f"SELECT ({HAS_OTHERS}),", 1)
NEXT_LINE = "SELECT min(queue) FROM asynctasq_message WHERE queue > {0} AND queue < ? AND death IS NULL"
OTHERS = f"""WITH RECURSIVE line(name) AS (
    {NEXT_LINE.format("?")} UNION ALL SELECT ({NEXT_LINE.format("line.name")}) FROM line WHERE name IS NOT NULL
) SELECT name FROM line WHERE name IS NOT NULL"""
# Texts and bytes come after all numbers, so what has such an instant would never be due.
UNDATED = f"{LIVING} AND visible_us >= '' LIMIT ?"
NEXT_DUE = " UNION ALL ".join(
    [
        """SELECT * FROM (SELECT visible_us FROM asynctasq_message
    WHERE queue = ? AND death IS NULL AND visible_us {0} ORDER BY visible_us LIMIT 1)"""
    ]
    * len(all_lines_of(""))
)
LEASE = """UPDATE asynctasq_message
    SET visible_us = ?, crashes = crashes + leased, leased = 1, token = token + 1, reserved_us = ?, reserved_by = ?,
        progress = NULL
    WHERE arrival IN (SELECT value FROM json_each(?))"""
LEASE_RANKED = LEASE.replace("SET", "SET queue = ?,", 1)
HAND_BACK = """UPDATE asynctasq_message SET visible_us = ?, crashes = ?, leased = ?
    WHERE arrival = ? AND token = ? AND leased = 1"""
HELD = """SELECT held.arrival, held.token, held.id
    FROM json_each(?) AS wanted CROSS JOIN asynctasq_message AS held ON held.arrival = wanted.value
    WHERE leased = 1"""
RELEASED = f"""SELECT {", ".join(DUE_COLUMNS)}, queue FROM asynctasq_message
    WHERE arrival IN (SELECT value FROM json_each(?)) AND leased = 0 AND death IS NULL"""
EXTEND = "UPDATE asynctasq_message SET visible_us = ? WHERE arrival IN (SELECT value FROM json_each(?))"
SOONER = """SELECT queue FROM asynctasq_message
    WHERE arrival IN (SELECT value FROM json_each(?)) AND visible_us > ?"""
COMPLETE = "DELETE FROM asynctasq_message WHERE arrival IN (SELECT value FROM json_each(?))"
RELEASE = """UPDATE asynctasq_message SET leased = 0, visible_us = ?, attempts = attempts + ?, crashes = crashes + ?,
    error = coalesce(?, error) WHERE arrival = ?"""
BURY = f"""UPDATE asynctasq_message SET leased = 0, visible_us = ?, attempts = attempts + ?, crashes = crashes + ?,
    error = ?, reason = ?, death = {NEXT_DEATH} WHERE arrival = ?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveResult:
    """The leases and how their rows were before; without leases, when the next message is due.

    `damaged` became dead letters instead.
    """

    leases: list[Lease]
    rows: list[Row] = field(default_factory=list[Row])
    damaged: list[DamagedMessage] = field(default_factory=list[DamagedMessage])
    due_us: int | None = None
    now_us: int = 0

    def due_in_s(self) -> float | None:
        """Return how long it is until the next message is visible, None if there is none."""
        return None if self.due_us is None else max(0, self.due_us - self.now_us) / MICROSECONDS


# -- storing and reserving -----------------------------------------------------------------------


def store(messages: Sequence[Message], now_us: int, *, may_raise: bool = True) -> Steps[list[str]]:
    """Store the messages; return the ids that are new, in the order given."""
    if not messages:
        return []
    if has_keys(messages):
        return (yield from store_keyed(messages, now_us, may_raise=may_raise))
    ((last,),) = yield Step("SELECT coalesce(max(arrival), 0) FROM asynctasq_message")
    rows = ((each.id, line_of(each), instant_after(now_us, each.delay_s), now_us, each.body) for each in messages)
    yield Step(INSERT, rows, many=True)
    ((new,),) = yield Step("SELECT count(*) FROM asynctasq_message WHERE arrival > ?", (last,))
    if new == len(messages):
        return [message.id for message in messages]
    found = yield Step("SELECT id FROM asynctasq_message WHERE arrival > ? ORDER BY arrival", (last,))
    return [message_id for (message_id,) in found]


def reserve(lines: Sequence[str], limit: int, lease_s: float, now_us: int, holder: str = "") -> Steps[ReserveResult]:
    """Lease up to `limit` visible messages to `holder`; make dead letters of those that can't be read.

    `lines` are all of each queue, in the order in which they are to be taken.
    """
    until = instant_after(now_us, lease_s)
    result = ReserveResult(leases=[])
    for queue, of_queue in groupby(lines, queue_in):
        if (room := limit - len(result.rows)) <= 0:
            break
        due, others = yield from _look(queue, room, now_us)
        for line in of_queue:
            if line == queue or line in others:
                yield from _reserve_in(line, due if line == queue else None, result, limit, until, now_us, holder)
    if result.rows:
        return result
    return replace((yield from next_due(map(queue_in, lines), now_us)), damaged=result.damaged)


def _look(queue: str, room: int, now_us: int) -> Steps[tuple[list[Row], list[str]]]:
    """Return what is due in the line of the queue's name, and the names of those of its other lines that are in use."""
    first, last = other_lines_between(queue)
    found = yield Step(HAS_OTHERS_AND_DUE, (first, last, queue, now_us, room))
    others: list[str] = []
    if found[0][0] if found else (yield Step(HAS_OTHERS, (first, last))):
        others = [name for (name,) in (yield Step(OTHERS, (first, last, last)))]
    return [row[1:] for row in found], others


def _reserve_in(
    line: str, due: list[Row] | None, result: ReserveResult, limit: int, until: int, now_us: int, holder: str
) -> Steps[None]:
    """Lease from one line what the lines before have left of the limit; `due` is what was seen of it, if it was."""
    queue = queue_in(line)
    for _ in range(CLAIMS_MAX):
        if (room := limit - len(result.rows)) <= 0:
            break
        found = (yield Step(DUE, (line, now_us, room))) if due is None else due[:room]
        due = None
        if len(found) < room:
            found += yield Step(UNDATED, (line, room - len(found)))
        good = [row for row in found if is_readable(row)]
        if good:
            result.leases.extend([_lease(queue, row, until) for row in good])
            leased = (until, now_us, holder, _json([row[0] for row in good]))
            if is_by_rank(line):
                result.rows.extend([_by_time(row, now_us) for row in good])
                yield Step(LEASE_RANKED, (line_by_time(line), *leased))
            else:
                result.rows.extend(good)
                yield Step(LEASE, leased)
        if len(good) == len(found):
            break
        damaged = [row for row in found if not is_readable(row)]
        result.damaged.extend((yield from bury_damaged(line_by_time(line), damaged, now_us)))


def _by_time(row: Row, now_us: int) -> Row:
    """Return how a row that waited by rank is when its lease is handed back: it does not get its rank again."""
    arrival, message_id, token, attempts, crashes, leased, _, enqueued_us, body = row
    return arrival, message_id, token, attempts, crashes, leased, now_us, enqueued_us, body


def _lease(queue: str, row: Row, until_us: int) -> Lease:
    arrival, message_id, token, attempts, crashes, leased, _, enqueued_us, body = row
    return Lease(
        message_id=message_id,
        queue=queue,
        body=body,
        token=token_of(arrival, token + 1),
        attempt=attempts + 1,
        crashes=crashes + leased,
        enqueued_at=enqueued_us / MICROSECONDS,
        expires_at=until_us / MICROSECONDS,
    )


def token_of(arrival: int, number: int) -> str:
    """Return the token of a lease; of a damaged row one that was never granted."""
    return str(arrival << TOKEN_BITS | number) if type(arrival) is type(number) is int else "damaged"


def reserve_released(leases: Sequence[Lease], lease_s: float, now_us: int, holder: str) -> Steps[list[Lease]]:
    """Lease again, to `holder`, what these leases released and nobody has reserved since."""
    until = instant_after(now_us, lease_s)
    wanted = dict.fromkeys((*_parse_token(lease.token), lease.message_id) for lease in leases)
    rows = yield Step(RELEASED, (_json([arrival for arrival, _, _ in wanted]),))
    good = {(row[0], row[2], row[1]): row for row in rows if is_readable(row[:-1])}
    taken = [good[key] for key in wanted if key in good]
    yield Step(LEASE, (until, now_us, holder, _json([row[0] for row in taken])))
    return [_lease(queue_in(row[-1]), row[:-1], until) for row in taken]


def hand_back(reserved: ReserveResult, _now_us: int) -> Steps[None]:
    """Restore the rows of a reserve that was cancelled, except for the token."""
    rows = [
        (visible_us, crashes, leased, arrival, token + 1)
        for arrival, _, token, _, crashes, leased, visible_us, _, _ in reserved.rows
    ]
    yield Step(HAND_BACK, rows, many=True)


def next_due(queues: Iterable[str], now_us: int) -> Steps[ReserveResult]:
    """Lease nothing; return when the next message of these queues is due."""
    found: list[int] = []
    for queue in dict.fromkeys(queues):
        found += [row[0] for row in (yield Step(NEXT_DUE.format("< ''"), all_lines_of(queue)))]
        if (yield Step(NEXT_DUE.format(">= ''"), all_lines_of(queue))):
            found.append(now_us)
    return ReserveResult(leases=[], due_us=min(found, default=None), now_us=now_us)


def next_due_unless_visible(queues: Iterable[str], now_us: int) -> Steps[ReserveResult | None]:
    """Return None if a message is visible, else when the next one is due."""
    reserved = yield from next_due(queues, now_us)
    return None if reserved.due_in_s() == 0 else reserved


# -- settling ------------------------------------------------------------------------------------


def turn(
    settlements: Settlements, lines: Sequence[str], limit: int, lease_s: float, now_us: int, holder: str = ""
) -> Steps[tuple[AbstractSet[str], ReserveResult]]:
    """Settle, then reserve."""
    lost = yield from settle(settlements, now_us)
    reserved = yield from reserve(lines, limit, lease_s, now_us, holder)
    return lost, reserved


def settle(settlements: Settlements, now_us: int) -> Steps[AbstractSet[str]]:
    """End the attempts; return the ids of leases that were no longer ours."""
    batches, lost = independent_batches(settlements)
    for batch in batches:
        arrivals, others = yield from held([lease for lease, _ in batch])
        lost |= others
        plan = _SettlementPlan(now_us)
        for (lease, settlement), arrival in zip(batch, arrivals, strict=True):
            if arrival is not None:
                plan.add(lease, arrival, settlement)
        yield from plan.steps()
    return lost


def extend(leases: Sequence[Lease], lease_s: float, now_us: int) -> Steps[tuple[AbstractSet[str], AbstractSet[str]]]:
    """Renew the leases that are ours; return the message ids of the others, and the queues where one ends sooner."""
    found, lost = yield from held(leases)
    arrivals = [arrival for arrival in found if arrival is not None]
    sooner: set[str] = set()
    if arrivals:
        until, chosen = instant_after(now_us, lease_s), _json(arrivals)
        sooner = {queue_in(line) for (line,) in (yield Step(SOONER, (chosen, until)))}
        yield Step(EXTEND, (until, chosen))
    return lost, sooner


def held(leases: Sequence[Lease]) -> Steps[tuple[list[int | None], set[str]]]:
    """Return for each lease the row it still holds or None, and the ids of those that hold none."""
    wanted = [_parse_token(lease.token) for lease in leases]
    rows = yield Step(HELD, (_json([arrival for arrival, _ in wanted]),))
    latest = {(arrival, token): message_id for arrival, token, message_id in rows}
    held = [key[0] if latest.get(key) == lease.message_id else None for lease, key in zip(leases, wanted, strict=True)]
    if len(rows) == len(held) and None not in held:
        return held, set()
    return held, {lease.message_id for lease, arrival in zip(leases, held, strict=True) if arrival is None}


def _parse_token(token: str) -> tuple[int, int]:
    """Return arrival and number; for a token that we never granted, those of no row."""
    if token.isascii() and token.isdigit() and len(token) <= 29 and (number := int(token)) < TOKEN_MAX:
        return number >> TOKEN_BITS, number & (1 << TOKEN_BITS) - 1
    return 0, 0


class _SettlementPlan:
    """The statements that apply a batch of settlements, all of whose leases are held."""

    def __init__(self, now_us: int) -> None:
        self._now_us = now_us
        self._completed: list[int] = []
        self._results: list[tuple[str, int, bytes]] = []
        self._released: list[tuple[int, int, int, str | None, int]] = []
        self._buried: list[tuple[int | str | None, ...]] = []
        self._follow_ups: list[Message] = []

    def add(self, lease: Lease, arrival: int, settlement: Settlement) -> None:
        match settlement:
            case Complete(result=result, result_ttl_s=ttl_s):
                self._completed.append(arrival)
                if result is not None:
                    self._results.append((lease.message_id, instant_after(self._now_us, ttl_s), result))
            case Release(delay_s=delay_s, counted=counted, crashed=crashed, error=error):
                visible_us = instant_after(self._now_us, delay_s)
                self._released.append((visible_us, int(counted), int(crashed), _error(error), arrival))
            case Bury(reason=reason, counted=counted, crashed=crashed, error=error):
                ends = (self._now_us, int(counted), int(crashed), _error(error), reason.value)
                self._buried.append((*ends, *lines_of(lease.queue), arrival))
        if settlement.follow_ups:
            self._follow_ups += settlement.follow_ups

    def steps(self) -> Steps[None]:
        if self._completed:
            yield Step(COMPLETE, (_json(self._completed),))
        if self._results:
            # Each write removes more than it adds, so expired results never pile up, without a background task.
            yield from prune_results(self._now_us, at_most=2 * len(self._results) + RESULTS_PRUNED)
            yield Step("INSERT OR REPLACE INTO asynctasq_result VALUES (?, ?, ?)", self._results, many=True)
        if self._released:
            yield Step(RELEASE, self._released, many=True)
        if self._buried:
            yield Step(BURY, self._buried, many=True)
        yield from store(self._follow_ups, self._now_us, may_raise=False)


def _error(error: ErrorRecord | None) -> str | None:
    return None if error is None else error.to_json()


def _json(numbers: list[int]) -> str:
    return str(numbers)
