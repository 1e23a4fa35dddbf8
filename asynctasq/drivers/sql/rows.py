"""From the columns of a statement to the values of the contract; pure."""

from typing import Any, TypedDict

from asynctasq.drivers.damaged import (
    read_bytes,
    read_count,
    read_error,
    read_instant_us,
    read_progress,
    read_reason,
    read_text,
)
from asynctasq.drivers.levels import is_by_rank, priority_in, queue_in
from asynctasq.kernel.lifecycle import derive_state
from asynctasq.kernel.messages import MICROSECONDS, Depth, Progress, State, StoredMessage

__all__ = ["depth_from", "stored_message"]


class LeaseFacts(TypedDict):
    """What a `StoredMessage` says of a lease."""

    reserved_at: float | None
    reserved_by: str
    progress: Progress | None


def stored_message(row: tuple[Any, ...], now_us: int, *, dead: bool) -> StoredMessage:
    """Return what an operator sees of one row, however damaged.

    Its columns: id, queue, body, leased, attempts, crashes, enqueued_us, visible_us, reason, error (JSON), reserved_us,
    reserved_by, progress (JSON).
    """
    message_id, queue, body, leased, attempts, crashes, enqueued_us, visible_us, reason, error, *lease = row
    line = read_text(queue)
    visible_us = read_instant_us(enqueued_us if is_by_rank(line) else visible_us)
    state = State.DEAD if dead else derive_state(leased=bool(leased), visible_at=visible_us, now=now_us)
    return StoredMessage(
        id=read_text(message_id),
        queue=queue_in(line),
        body=read_bytes(body),
        state=state,
        attempts=read_count(attempts),
        crashes=read_count(crashes),
        enqueued_at=read_instant_us(enqueued_us) / MICROSECONDS,
        visible_at=visible_us / MICROSECONDS,
        reason=read_reason(reason) if dead else None,
        error=read_error(error),
        priority=priority_in(line),
        **_lease_facts(*lease, reserved=state is State.RESERVED),
    )


def _lease_facts(reserved_us: object, reserved_by: object, progress: object, *, reserved: bool) -> LeaseFacts:
    """Return what is stored of a lease, nothing for a message that is not reserved."""
    if not reserved:
        return {"reserved_at": None, "reserved_by": "", "progress": None}
    return {
        "reserved_at": None if reserved_us is None else read_instant_us(reserved_us) / MICROSECONDS,
        "reserved_by": "" if reserved_by is None else read_text(reserved_by),
        "progress": read_progress(progress),
    }


def depth_from(*, ready: int, scheduled: int, reserved: int, dead: int, oldest_us: int | None, now_us: int) -> Depth:
    """Return a `Depth` from counts and the smallest visible_us among the ready."""
    age_s = None if oldest_us is None else (now_us - oldest_us) / MICROSECONDS
    return Depth(ready=ready, scheduled=scheduled, reserved=reserved, dead=dead, oldest_age_s=age_s)
