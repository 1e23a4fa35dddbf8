"""Between the contract's values and the columns of the PostgreSQL statements; no I/O."""

import re
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from asynctasq.drivers.base import Settlements
from asynctasq.drivers.batches import batches_by_size
from asynctasq.drivers.damaged import DamagedMessage, damaged_message, is_message
from asynctasq.drivers.levels import is_by_rank, line_of, queue_in
from asynctasq.drivers.postgres_driver.statements import KIND_BURY, KIND_COMPLETE, KIND_RELEASE
from asynctasq.kernel.messages import (
    MICROSECONDS,
    Bury,
    Complete,
    ErrorRecord,
    Lease,
    Message,
    Release,
    Settlement,
    microseconds,
)

__all__ = [
    "NO_BOUND_US",
    "ScanBounds",
    "damaged_columns",
    "delay_us",
    "first_visible_us",
    "is_readable",
    "lease_columns",
    "leases_from",
    "lost_ids",
    "makes_visible",
    "message_batches",
    "message_columns",
    "settlement_columns",
]

NO_BOUND_US = -(2**63)
DELAY_US_MAX = 2**62
# Only the form that `leases_from` writes: one token has one text.
TOKEN_PART_END = 10**18
TOKEN = re.compile(r"([1-9][0-9]{0,17})\.([1-9][0-9]{0,17})\Z")

CHUNK_MESSAGES = 5_000
CHUNK_BYTES = 32 * 1024 * 1024

SLOW_US, SLOW_US_PER_ROW = 5_000, 100
MARGIN_US = 250_000
FULL_SCAN_US_MIN, FULL_SCAN_US_MAX = 1_000_000, 5_000_000
FULL_SCAN_COST_FACTOR = 20


def delay_us(seconds: float) -> int:
    """Return whole microseconds that, added to the clock, still fit the column (some 146,000 years)."""
    return microseconds(seconds) if seconds * MICROSECONDS < DELAY_US_MAX else DELAY_US_MAX


def message_columns(messages: Sequence[Message]) -> tuple[list[str], list[str], list[bytes], list[int]]:
    """Return ids, queues, bodies and delays."""
    return (
        [message.id for message in messages],
        [line_of(message) for message in messages],
        [message.body for message in messages],
        [delay_us(message.delay_s) for message in messages],
    )


def lease_columns(leases: Sequence[Lease]) -> tuple[list[str], list[int], list[int]]:
    """Return ids, arrivals and token numbers, ordered by id; leases whose tokens we never granted are left out.

    A token is "arrival.number": it stays unique even when a message with the same id is stored again later.
    """
    matches = [(lease.message_id, TOKEN.match(lease.token)) for lease in leases]
    rows = sorted((message_id, int(match[1]), int(match[2])) for message_id, match in matches if match)
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


Entry = tuple[int, int, int, int, str | None, str | None, bytes | None, int]


def _entry(settlement: Settlement) -> Entry:
    match settlement:
        case Complete():
            ttl = delay_us(settlement.result_ttl_s)
            return KIND_COMPLETE, 0, 0, 0, None, None, settlement.result, ttl
        case Release():
            delay, error = delay_us(settlement.delay_s), _json(settlement.error)
            counted, crashed = int(settlement.counted), int(settlement.crashed)
            return KIND_RELEASE, delay, counted, crashed, None, error, None, 0
        case Bury():
            reason, error = settlement.reason.value, _json(settlement.error)
            return KIND_BURY, 0, int(settlement.counted), int(settlement.crashed), reason, error, None, 0


def _json(error: ErrorRecord | None) -> str | None:
    return None if error is None else error.to_json()


def settlement_columns(settlements: Settlements) -> list[Any]:
    """Return the sixteen columns of the statement that applies any settlements: eleven of them, five of follow-ups."""
    columns: list[list[Any]] = [[] for _ in range(16)]
    position = 0
    for lease, settlement in settlements:
        ids, seqs, numbers = lease_columns([lease])
        if not ids:
            continue
        position += 1
        values: tuple[Any, ...] = (ids[0], seqs[0], numbers[0], *_entry(settlement))
        for column, value in zip(columns, values, strict=False):
            column.append(value)
        for message in settlement.follow_ups:
            follow = (position, message.id, line_of(message), message.body, delay_us(message.delay_s))
            for column, value in zip(columns[11:], follow, strict=True):
                column.append(value)
    return columns


_in_order = itemgetter(0, 1, 2)


def is_readable(row: Any) -> bool:
    """Say whether the row of a claim is one that a driver of ours may have written."""
    _, _, seq, number, message_id, _, body, attempts, crashes, enqueued_us, _, _ = row
    return (
        is_message(message_id, body, attempts, crashes, enqueued_us)
        and 1 <= seq < TOKEN_PART_END
        and 1 <= number < TOKEN_PART_END
    )


def damaged_columns(rows: Sequence[Any], now_us: int) -> tuple[list[DamagedMessage], list[list[Any]]]:
    """Return the dead letters that rows of a claim become, and the columns of the statement that makes them so."""
    found: list[DamagedMessage] = []
    columns: list[list[Any]] = [[] for _ in range(7)]
    for _, was_us, seq, number, message_id, line, _, attempts, crashes, enqueued_us, _, _ in rows:
        was = {"id": message_id, "arrival": seq, "token": number - 1, "attempts": attempts, "crashes": crashes}
        was |= {"enqueued_us": enqueued_us, "visible_us": was_us}
        dead = damaged_message(queue_in(line), was, arrival=seq, now_us=now_us)
        found.append(dead)
        values = (message_id, number, dead.message_id, dead.attempts, dead.crashes, dead.enqueued_us, dead.error)
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    return found, columns


def leases_from(rows: list[Any]) -> list[Lease]:
    """Return leases in the order of line, visible_at, arrival, which is nearly always how they come."""
    if len(rows) > 1:
        rows.sort(key=_in_order)
    return [
        Lease(
            message_id=message_id,
            queue=queue_in(line),
            body=body,
            token=f"{seq}.{number}",
            attempt=attempts + 1,
            crashes=crashes,
            enqueued_at=enqueued_us / MICROSECONDS,
            expires_at=visible_us / MICROSECONDS,
        )
        for _, _, seq, number, message_id, line, body, attempts, crashes, enqueued_us, visible_us, _ in rows
    ]


def lost_ids(batch: Settlements, won: Sequence[str] | None) -> set[str]:
    """Return the ids of a batch that were not settled; of two leases of one message at most one was the latest."""
    if won is not None and len(won) == len(batch):
        return set()
    settled = set(won or ())
    ids = [lease.message_id for lease, _ in batch]
    return {message_id for message_id in ids if message_id not in settled or ids.count(message_id) > 1}


def first_visible_us(rows: Sequence[Any], lines: Sequence[str], limit: int, now_us: int) -> dict[str, int]:
    """Return where each line that a claim scanned begins: at its first message, or now if it had none."""
    first_us: dict[str, int] = dict.fromkeys(lines, now_us) if len(rows) < limit else {}
    for row in reversed(rows):
        first_us[lines[int(row[0]) - 1]] = row[1]
    return first_us


def message_batches(messages: Sequence[Message]) -> list[list[Message]]:
    """Split messages so that one statement carries neither too many nor too many bytes."""
    return list(
        batches_by_size(
            messages, size_of=lambda message: len(message.body), size_max=CHUNK_BYTES, count_max=CHUNK_MESSAGES
        )
    )


def makes_visible(batch: Settlements, queues: Sequence[str]) -> bool:
    """Say whether a batch makes a message of these queues visible at once, which its own statement can't see."""
    return any(
        (isinstance(settlement, Release) and settlement.delay_s <= 0 and lease.queue in queues)
        or any(message.delay_s <= 0 and message.queue in queues for message in settlement.follow_ups)
        for lease, settlement in batch
    )


class ScanBounds:
    """Where in a line's index the next claim starts its scan.

    Normally at its beginning. While a long transaction anywhere in the database keeps vacuum from removing
    the versions of messages that are done, each claim would scan all of them. After two slow claims the next
    ones therefore start a quarter of a second before the first message found last; the index is scanned from its
    beginning at least every five seconds, for messages of transactions that committed late. Nothing is skipped
    for good, and no message that was committed in time is skipped. A line by rank is always scanned from its beginning:
    ranks begin anew whenever it was empty.
    """

    __slots__ = ("_full_scan_at_us", "_lower_us", "_offset_us", "_slow")

    def __init__(self) -> None:
        self._lower_us: dict[str, int] = {}
        self._slow = 0
        self._full_scan_at_us = 0
        self._offset_us = 0

    def lower_us(self, lines: Sequence[str]) -> list[int]:
        """Return the lower bound of each line for the next statement."""
        if not self._lower_us:
            return [NO_BOUND_US] * len(lines)
        return [self._lower_us.get(line, NO_BOUND_US) for line in lines]

    def forget_if_shifted(self, offset_us: int) -> None:
        """Forget everything if the clock was shifted since the last statement."""
        if offset_us != self._offset_us:
            self._offset_us = offset_us
            self._lower_us.clear()
            self._slow = 0

    def note_scan(self, now_us: int, took_us: int, rows: int, first_us: dict[str, int]) -> None:
        """Note how long a scan took, and where each line that it read begins."""
        if self._lower_us and now_us >= self._full_scan_at_us:
            self._lower_us.clear()
        elif self._lower_us:
            self._advance(now_us, first_us)
        elif took_us <= SLOW_US + rows * SLOW_US_PER_ROW:
            self._slow = 0
        elif self._slow == 0:
            self._slow = 1
        else:
            pause_us = min(max(FULL_SCAN_US_MIN, took_us * FULL_SCAN_COST_FACTOR), FULL_SCAN_US_MAX)
            self._full_scan_at_us = now_us + pause_us
            self._advance(now_us, first_us)

    def note_next_due(self, row: Sequence[int | None], names: Sequence[str]) -> float | None:
        """Note the scan for the first message of these lines; return how many seconds it is until that is visible."""
        now_us, first_us, end_us = row
        assert now_us is not None, "the clock"
        assert end_us is not None, "the clock"
        begins_us = now_us if first_us is None else min(first_us, now_us)
        self.note_scan(now_us, end_us - now_us, 0, dict.fromkeys(names, begins_us))
        return None if first_us is None else (first_us - now_us) / MICROSECONDS

    def _advance(self, now_us: int, first_us: dict[str, int]) -> None:
        for line, visible_us in first_us.items():
            if is_by_rank(line):
                continue
            self._lower_us[line] = max(NO_BOUND_US, min(visible_us, now_us) - MARGIN_US)
