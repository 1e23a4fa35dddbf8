"""Messages, settlements and leases as arguments and replies of the scripts. scripts/common.lua has the shapes."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from asynctasq.drivers.base import Enqueued, Settlements
from asynctasq.drivers.batches import UniqueOutcome, conflict, has_keys
from asynctasq.drivers.damaged import (
    DamagedMessage,
    read_count,
    read_error,
    read_instant_us,
    read_progress,
    read_reason,
    read_text,
)
from asynctasq.drivers.levels import is_by_rank, line_of, priority_in, queue_in
from asynctasq.drivers.redis_driver.pool import Argument
from asynctasq.kernel.lifecycle import derive_state
from asynctasq.kernel.messages import (
    MICROSECONDS,
    Bury,
    Complete,
    ErrorRecord,
    Lease,
    Message,
    Progress,
    Release,
    Settlement,
    State,
    StoredMessage,
    microseconds,
)

__all__ = [
    "decode_damaged",
    "decode_keyed",
    "decode_leases",
    "decode_stored",
    "encode_keyed",
    "encode_messages",
    "encode_progress",
    "encode_settlements",
]


def encode_messages(messages: Iterable[Message]) -> list[Argument]:
    """Return the number of runs (of equal line and delay), then the runs."""
    arguments: list[Argument] = [0]
    runs = 0
    for (line, delay_s), group in groupby(messages, key=_line_and_delay):
        run = list(group)
        arguments += (line, microseconds(delay_s), len(run))
        arguments += [message.id for message in run]
        arguments += [message.body for message in run]
        runs += 1
    arguments[0] = runs
    return arguments


def encode_keyed(messages: Sequence[Message], *, may_raise: bool) -> list[Argument]:
    """Return the number of messages of which some have unique or fair keys, then each as keyed.lua reads it."""
    arguments: list[Argument] = [len(messages)]
    for message in messages:
        line, unique = line_of(message), message.unique
        arguments += (line, microseconds(message.delay_s), message.id, message.body)
        if unique is None:
            arguments += ("", "", 0, "")
        else:
            held = unique.until[0] if unique.window_s is None else "w"
            on_conflict = unique.on_conflict if may_raise or unique.on_conflict != "raise" else "skip"
            arguments += (unique.key, held, microseconds(unique.window_s or 0.0), on_conflict)
        arguments.append(message.fair_key if is_by_rank(line) else "")
    return arguments


def decode_keyed(reply: Sequence[Any], messages: Sequence[Message]) -> Enqueued:
    """Return what `enqueue` of these messages returns.

    Raises: UniqueConflictError.
    """
    new, refused, replaced, failed = reply
    outcome = UniqueOutcome()
    for message_id, holder in _pairs(refused):
        if failed and message_id == refused[-2].decode():
            raise conflict(message_id, holder)
        outcome.refused(message_id, holder)
    for message_id, holder in _pairs(replaced):
        outcome.replaced(message_id, holder)
    return outcome.enqueued((message_id.decode() for message_id in new), messages)


def _pairs(texts: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    return zip((text.decode() for text in texts[::2]), (text.decode() for text in texts[1::2]), strict=True)


def _line_and_delay(message: Message) -> tuple[str, float]:
    return line_of(message), message.delay_s


def encode_settlements(settlements: Settlements) -> list[Argument]:
    """Return the count, ids, tokens, operations, and what the operations other than 'C' need."""
    operations: list[Argument] = []
    details: list[Argument] = []
    for _, settlement in settlements:
        if type(settlement) is Complete and settlement.result is None and not settlement.follow_ups:
            operations.append("C")
        else:
            operations.append(_encode_settlement(settlement, details))
    arguments: list[Argument] = [len(operations)]
    arguments += [lease.message_id for lease, _ in settlements]
    arguments += [lease.token for lease, _ in settlements]
    arguments += operations
    arguments += details
    return arguments


def _encode_settlement(settlement: Settlement, details: list[Argument]) -> str:
    """Append detail, flags, text and follow-ups; return the operation."""
    match settlement:
        case Complete():
            kept = settlement.result is not None
            details += (microseconds(settlement.result_ttl_s), f"00{kept:d}", settlement.result or b"")
            operation = "K"
        case Release():
            details += (microseconds(settlement.delay_s), _flags(settlement), _error_text(settlement.error))
            operation = "R"
        case Bury():
            details += (settlement.reason.value, _flags(settlement), _error_text(settlement.error))
            operation = "B"
    if has_keys(settlement.follow_ups):
        details += (-len(settlement.follow_ups), *encode_keyed(settlement.follow_ups, may_raise=False)[1:])
    else:
        details += encode_messages(settlement.follow_ups)
    return operation


def encode_progress(reports: Sequence[tuple[Lease, Progress]]) -> list[Argument]:
    """Return the count, ids, tokens and texts."""
    arguments: list[Argument] = [len(reports)]
    arguments += [lease.message_id for lease, _ in reports]
    arguments += [lease.token for lease, _ in reports]
    arguments += [progress.to_json() for _, progress in reports]
    return arguments


def _flags(settlement: Release | Bury) -> str:
    return f"{settlement.counted:d}{settlement.crashed:d}0"


def _error_text(error: ErrorRecord | None) -> str:
    return error.to_json() if error is not None else ""


def decode_leases(reply: Sequence[bytes]) -> list[Lease]:
    """Rebuild leases from the end of all of them, then id, state and stored message of each."""
    if not reply:
        return []
    expires_at = int(reply[0]) / MICROSECONDS
    # The script has looked at each of them: what could not be read here is a dead letter.
    return [
        _decode_lease(message_id, state, value, expires_at)
        for message_id, state, value in zip(reply[1::3], reply[2::3], reply[3::3], strict=True)
    ]


def _decode_lease(message_id: bytes, state: bytes, value: bytes, expires_at: float) -> Lease:
    end = value.index(0, 32)
    return Lease(
        message_id=message_id.decode(),
        queue=queue_in(value[32:end].decode()),
        body=value[end + 1 :],
        token=state[:32].decode(),
        attempt=int(state[34:50]) + 1,
        crashes=int(state[50:66]),
        enqueued_at=int(value[16:32]) / MICROSECONDS,
        expires_at=expires_at,
    )


def decode_stored(reply: Sequence[Any]) -> list[StoredMessage]:
    """Rebuild messages from the time of the call, then id, stored message, state, error, visible_at, holder of each."""
    now = int(reply[0]) / MICROSECONDS
    return [_decode_stored(reply[first : first + 6], now) for first in range(1, len(reply), 6)]


def _decode_stored(fields: Sequence[bytes], now: float) -> StoredMessage:
    message_id, value, state, error, visible, holder = fields
    stored_line, _, body = value[32:].partition(b"\0")
    line = read_text(stored_line)
    shown_as_visible = value[16:32] if is_by_rank(line) else visible
    visible_at = read_instant_us(_number(shown_as_visible)) / MICROSECONDS
    mode, dead = state[32:33], state.split(b"\0")[1:2]
    reason = read_reason(b"".join(dead)) if mode == b"D" else None
    derived = State.DEAD if reason else derive_state(leased=mode == b"L", visible_at=visible_at, now=now)
    reserved = derived is State.RESERVED
    name, _, progress = holder.partition(b"\0")
    return StoredMessage(
        id=read_text(message_id),
        queue=queue_in(line),
        body=body,
        state=derived,
        attempts=read_count(_number(state[34:50])),
        crashes=read_count(_number(state[50:66])),
        enqueued_at=read_instant_us(_number(value[16:32])) / MICROSECONDS,
        visible_at=visible_at,
        reason=reason,
        error=read_error(error or None),
        # The second half of a token is the time of the reserve.
        reserved_at=read_instant_us(_number(state[16:32])) / MICROSECONDS if reserved else None,
        reserved_by=read_text(name) if reserved else "",
        progress=read_progress(progress) if reserved else None,
        priority=priority_in(line),
    )


def _number(text: bytes) -> int | float:
    """Return a number as the server writes it, 0 for what is none; large scores have an exponent."""
    if text.isdigit():
        return int(text)
    try:
        number = float(text)
    except ValueError:
        return 0
    return number if number == number else 0  # noqa: PLR0124 - NaN


def decode_damaged(reply: Sequence[bytes]) -> list[DamagedMessage]:
    """Return what a reserve made dead letters of, or only removed, from id or nothing, queue and error of each."""
    return [
        DamagedMessage(read_text(message_id), queue_in(read_text(line)), error=error.decode(errors="replace"))
        for message_id, line, error in zip(reply[::3], reply[1::3], reply[2::3], strict=True)
    ]
