"""What the MySQL/MariaDB driver does inside a transaction, as generators: they yield statements and are sent results.

They do no I/O, so the same steps run on a connection of ours, on the caller's, and in synchronous code.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from asynctasq.drivers.base import Settlements
from asynctasq.drivers.batches import chunks
from asynctasq.drivers.damaged import DamagedMessage, damaged_message, is_message
from asynctasq.drivers.levels import queue_in
from asynctasq.drivers.mysql_driver.claim_cursors import Position
from asynctasq.drivers.mysql_driver.statements import (
    CLAIM,
    NOW,
    TOKEN_MAX,
    Ending,
    KeptResult,
    LeaseKey,
    Statements,
    server_now,
)
from asynctasq.drivers.mysql_driver.storing import ROWS_MAX, Result, Steps, set_now, store_in
from asynctasq.drivers.sql.rows import stored_message
from asynctasq.drivers.sql.settlements import independent_batches
from asynctasq.kernel.messages import (
    CANCELLED_TTL_S,
    MICROSECONDS,
    Bury,
    Complete,
    Lease,
    Message,
    Release,
    Settlement,
    StoredMessage,
    cancelled_mark,
    microseconds,
)

__all__ = [
    "Claim",
    "cancel_running",
    "extend",
    "parse_token",
    "redrive_ids",
    "remove",
    "reserve_released",
    "settle",
    "turn",
]


def parse_token(token: str) -> LeaseKey | None:
    """Return `seq` and counter of a token of ours, None for any other text."""
    seq, dot, counter = token.partition(".")
    if dot and seq.isdecimal() and counter.isdecimal() and len(token) <= 40 and token.isascii():
        return int(seq), int(counter)
    return None


# -- settling ------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Plan:
    """Settlements sorted by what the server has to do for them."""

    completed: list[LeaseKey] = field(default_factory=list[LeaseKey])
    results: list[KeptResult] = field(default_factory=list[KeptResult])
    endings: list[Ending] = field(default_factory=list[Ending])
    follow_ups: list[Message] = field(default_factory=list[Message])

    def add(self, held: LeaseKey, settlement: Settlement) -> None:
        match settlement:
            case Complete(result=result):
                self.completed.append(held)
                if result is not None:
                    ttl_us = microseconds(settlement.result_ttl_s)
                    self.results.append(KeptResult(held=held, ttl_us=ttl_us, result=result))
            case Release():
                self.endings.append(_ending(held, settlement, microseconds(settlement.delay_s), None))
            case Bury():
                self.endings.append(_ending(held, settlement, 0, settlement.reason.value))
        self.follow_ups += settlement.follow_ups

    def statements(self, sql: Statements, now: str) -> list[str]:
        made: list[str] = []
        if self.results:
            made += sql.keep_results(self.results, now=now)
        if self.completed:
            made.append(sql.complete(self.completed))
        if self.endings:
            made.append(sql.end(self.endings, now=now))
        return made


def _ending(held: LeaseKey, settlement: Release | Bury, delay_us: int, reason: str | None) -> Ending:
    error = settlement.error.to_json() if settlement.error else None
    return Ending(
        held=held,
        delay_us=delay_us,
        counted=settlement.counted,
        crashed=settlement.crashed,
        reason=reason,
        error=error,
    )


Entry = tuple[LeaseKey, str, Settlement]


def _entries(batch: Settlements, lost: set[str]) -> list[Entry]:
    entries: list[Entry] = []
    for lease, settlement in batch:
        held = parse_token(lease.token)
        if held is None:
            lost.add(lease.message_id)
        else:
            entries.append((held, lease.message_id, settlement))
    return entries


def _plan(entries: Iterable[Entry]) -> _Plan:
    plan = _Plan()
    for held, _, settlement in entries:
        plan.add(held, settlement)
    return plan


def _lost_ids(entries: Iterable[Entry], result: Result) -> set[str]:
    held_keys = set(result.rows)
    return {message_id for held, message_id, _ in entries if held not in held_keys}


def settle(sql: Statements, settlements: Settlements, *, now: str, claim: str) -> Steps[set[str]]:
    """Settle in a transaction that is open already; return the ids of leases that are not ours any more."""
    batches, lost = independent_batches(settlements)
    for batch in batches:
        for entries in chunks(_entries(batch, lost), ROWS_MAX):
            (result,) = yield [sql.held(held for held, _, _ in entries)]
            lost |= _lost_ids(entries, result)
            held_keys = set(result.rows)
            plan = _plan(entry for entry in entries if entry[0] in held_keys)
            if made := plan.statements(sql, now):
                yield made
            if plan.follow_ups:
                yield from store_in(sql, plan.follow_ups, now=now, claim=claim, may_raise=False)
    return lost


def extend(
    sql: Statements, leases: Sequence[Lease], *, lease_us: int, offset_us: int
) -> Steps[tuple[set[str], set[str]]]:
    """Renew leases in a transaction of our own; return the ids of lost ones, and the queues where one ends sooner."""
    lost: set[LeaseKey] = set()
    sooner: set[str] = set()
    held = [(parse_token(lease.token), lease.message_id) for lease in leases]
    now = server_now(offset_us)
    yield ["START TRANSACTION"]
    for group in chunks([pair for pair, _ in held if pair is not None], ROWS_MAX):
        before = sql.held_until(group, now=now, lease_us=lease_us)
        result, _ = yield [before, sql.extend(group, now=now, lease_us=lease_us)]
        lost |= set(group) - {(seq, token) for seq, token, _, _ in result.rows}
        sooner |= {queue_in(decoded(line)) for _, _, line, is_sooner in result.rows if is_sooner}
    yield ["COMMIT"]
    return {message_id for pair, message_id in held if pair is None or pair in lost}, sooner


# -- settling and reserving ---------------------------------------------------------------------------


class DamagedRow(NamedTuple):
    """A row that a claim leased and that no driver has written, with what its columns were."""

    queue: str
    held: LeaseKey
    columns: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """What a claim leased, in the order of reserve, and the last position in each line; `damaged` can't be run."""

    leases: list[Lease]
    last: dict[str, Position]
    damaged: list[DamagedRow] = field(default_factory=list[DamagedRow])
    places: dict[str, int] = field(default_factory=dict[str, int])
    """The place of each lease's line in the claim, by its token."""

    def add(self, more: "Claimed", *, earlier: bool) -> None:
        """Add what was claimed besides; within each line it is `earlier` than these, or later."""
        self.places.update(more.places)
        both = (*more.leases, *self.leases) if earlier else (*self.leases, *more.leases)
        self.leases[:] = sorted(both, key=lambda lease: self.places[lease.token])
        self.damaged.extend(more.damaged)

    def __len__(self) -> int:
        return len(self.leases) + len(self.damaged)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What to reserve, three lines of each queue; in some lines only after a position."""

    lines: tuple[str, ...]
    limit: int
    lease_us: int
    holder: str = ""
    start_after: Mapping[str, Position] = field(default_factory=dict[str, Position])

    def statements(self, sql: Statements) -> list[str]:
        """Return the statements; the last one selects the leases."""
        first, *others = chunks(self.lines, 3)
        after, lease_us, holder = self.start_after, self.lease_us, self.holder
        made = sql.claim_queue(first, limit=self.limit, now=NOW, lease_us=lease_us, holder=holder, after=after)
        if others:
            made.insert(0, f"SET @asynctasq_left = {self.limit}")
        for lines in others:
            left = "@asynctasq_left"
            made.append(f"SET {left} = {left} - ROW_COUNT()")
            made += sql.claim_queue(lines, limit=left, now=NOW, lease_us=lease_us, holder=holder, after=after)
        return [*made, sql.claimed(self.lines, now=NOW, lease_us=lease_us)]

    def read(self, result: Result) -> Claimed:
        """Return what the last statement selected."""
        names = {line.encode(): line for line in self.lines}
        place = {line: index for index, line in enumerate(names)}
        rows = sorted(result.rows, key=lambda row: (place[row[1]], row[9], row[0]))
        claimed = Claimed(leases=[], last={names[row[1]]: (row[9], row[0]) for row in rows})
        for seq, line, id_bytes, body, token, attempts, crashes, enqueued_us, visible_us, was_us in rows:
            message_id, queue = decoded(id_bytes), queue_in(names[line])
            if not is_message(message_id, body, attempts, crashes, enqueued_us) or token > TOKEN_MAX:
                was = {"id": message_id, "arrival": seq, "token": token - 1, "attempts": attempts, "crashes": crashes}
                was |= {"enqueued_us": enqueued_us, "visible_us": was_us}
                claimed.damaged.append(DamagedRow(queue=queue, held=(seq, token), columns=was))
                continue
            lease = Lease(
                message_id=message_id,
                queue=queue,
                body=body,
                token=f"{seq}.{token}",
                attempt=attempts + 1,
                crashes=crashes,
                enqueued_at=enqueued_us / MICROSECONDS,
                expires_at=visible_us / MICROSECONDS,
            )
            claimed.leases.append(lease)
            claimed.places[lease.token] = place[line]
        return claimed


def reserve_released(
    sql: Statements, leases: Sequence[Lease], *, lease_us: int, holder: str, offset_us: int
) -> Steps[list[Lease]]:
    """Lease again, in a transaction of our own, what these leases released and nobody has reserved since."""
    granted: dict[str, Lease] = {}
    yield ["START TRANSACTION", *set_now(offset_us)]
    for group in chunks([pair for lease in leases if (pair := parse_token(lease.token)) is not None], ROWS_MAX):
        made = sql.claim_released(group, now=NOW, lease_us=lease_us, holder=holder)
        rows = (yield made)[-1].rows
        lines = tuple({decoded(row[1]) for row in rows})
        claimed = Claim(lines=lines, limit=len(rows), lease_us=lease_us).read(Result(rows=rows, affected=0))
        granted |= {lease.message_id: lease for lease in claimed.leases}
    yield ["COMMIT"]
    return [granted[known] for known in dict.fromkeys(lease.message_id for lease in leases) if known in granted]


def turn(
    sql: Statements, settlements: Settlements, claim: Claim | None, *, offset_us: int
) -> Steps[tuple[set[str], Claimed]]:
    """Settle, then reserve, in one transaction of our own and, without follow-ups, in one packet."""
    closing = [*(claim.statements(sql) if claim else []), "COMMIT"]
    lost: set[str] = set()
    if not settlements:
        results = yield ["START TRANSACTION", *set_now(offset_us), *closing]
    elif entries := _one_packet(settlements, lost):
        # Every statement checks the tokens, so nothing depends on the reply to the first one. It locks before
        # now is read: a lease must not be granted for the time that it waited.
        made = _plan(entries).statements(sql, NOW)
        lock = sql.held(held for held, _, _ in entries)
        results = yield ["START TRANSACTION", lock, *set_now(offset_us), *made, *closing]
        lost |= _lost_ids(entries, results[1])
    else:
        yield ["START TRANSACTION", *set_now(offset_us)]
        lost = yield from settle(sql, settlements, now=NOW, claim=CLAIM)
        results = yield [*set_now(offset_us), *closing]
    return lost, claim.read(results[-2]) if claim else Claimed(leases=[], last={})


def _one_packet(settlements: Settlements, lost: set[str]) -> list[Entry]:
    """Return the entries if one packet can settle all of them, else nothing."""
    if len(settlements) > ROWS_MAX or any(settlement.follow_ups for _, settlement in settlements):
        return []
    (batch, *others), twice = independent_batches(settlements)
    assert not others
    lost |= twice
    return _entries(batch, lost)


def bury_damaged(sql: Statements, rows: Sequence[DamagedRow], *, offset_us: int) -> Steps[list[DamagedMessage]]:
    """Make dead letters of such rows, in a transaction of our own."""
    now_us = (yield ["START TRANSACTION", *set_now(offset_us), f"SELECT {NOW}"])[-1].rows[0][0]
    found = [damaged_message(row.queue, row.columns, arrival=row.held[0], now_us=int(now_us)) for row in rows]
    made = [sql.bury_damaged(row.held, dead, now=NOW) for row, dead in zip(rows, found, strict=True)]
    yield [*made, "COMMIT"]
    return found


# -- inspecting -----------------------------------------------------------------------------------


def decoded(text: bytes) -> str:
    """Return stored text; bytes that are no text are no message's id, and no queue's name."""
    return bytes(text).decode(errors="surrogateescape")


def remove(sql: Statements, message_ids: Sequence[str], *, dead: bool, offset_us: int) -> Steps[set[str]]:
    """Delete dead letters, or messages that are not leased, in a transaction of our own; return the ids."""
    removed: set[str] = set()
    yield ["START TRANSACTION"]
    for group in chunks(message_ids, ROWS_MAX):
        rows = yield from _locked(sql, group, dead=dead, now=server_now(offset_us))
        if rows:
            yield [sql.remove(seq for seq, _, _ in rows)]
            removed |= {message_id.decode() for _, message_id, _ in rows}
    yield ["COMMIT"]
    return removed


def _locked(sql: Statements, message_ids: Sequence[str], *, dead: bool, now: str) -> Steps[Sequence[tuple[Any, ...]]]:
    """Lock dead letters, or messages that are not leased; return seq, id and line of each.

    By the primary key, as in every transaction: locked by id, it would deadlock with deletes.
    """
    (known,) = yield [sql.seqs(message_ids)]
    if not known.rows:
        return ()
    (found,) = yield [sql.removable((row[0] for row in known.rows), dead=dead, now=now)]
    return found.rows


def redrive_ids(sql: Statements, message_ids: Sequence[str], *, offset_us: int) -> Steps[dict[str, str]]:
    """Make dead letters ready, in a transaction of our own; return their ids with their queues."""
    queues: dict[str, str] = {}
    yield ["START TRANSACTION"]
    for group in chunks(message_ids, ROWS_MAX):
        now = server_now(offset_us)
        rows = yield from _locked(sql, group, dead=True, now=now)
        if rows:
            yield [sql.redrive_seqs((seq for seq, _, _ in rows), now=now)]
            queues |= {message_id.decode(): queue_in(decoded(line)) for _, message_id, line in rows}
    yield ["COMMIT"]
    return queues


def cancel_running(
    sql: Statements, message_ids: Sequence[str], *, offset_us: int
) -> Steps[tuple[dict[str, str], set[str]]]:
    """Delete messages that are no dead letters, in a transaction of our own; return their tokens, and the holders."""
    tokens: dict[str, str] = {}
    holders: set[str] = set()
    yield ["START TRANSACTION"]
    for group in chunks(message_ids, ROWS_MAX):
        (known,) = yield [sql.seqs(group)]  # locked by the primary key, as in `remove`
        if not known.rows:
            continue
        (found,) = yield [sql.cancellable(row[0] for row in known.rows)]
        if not found.rows:
            continue
        own = {decoded(id_bytes): f"{seq}.{token}" if leased else "" for seq, id_bytes, leased, token, _ in found.rows}
        tokens |= own
        holders.update(decoded(holder) for _, _, leased, _, holder in found.rows if leased and holder)
        marks, now = {message_id: cancelled_mark(token) for message_id, token in own.items()}, server_now(offset_us)
        yield [
            sql.keep_marks(marks, ttl_us=microseconds(CANCELLED_TTL_S), now=now),
            sql.remove(row[0] for row in found.rows),
            sql.prune_results(now=now, limit=2 * len(marks)),
        ]
    yield ["COMMIT"]
    return tokens, holders


def to_stored_message(row: Sequence[Any], now_us: int) -> StoredMessage:
    """Return what an operator sees of one row of `MESSAGE_COLUMNS`."""
    return stored_message(tuple(row[1:]), now_us, dead=bool(row[0]))
