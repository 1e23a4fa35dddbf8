"""From the columns of a statement to the values of the contract; pure."""

from asynctasq.kernel.lifecycle import derive_state
from asynctasq.kernel.messages import MICROSECONDS, DeadReason, Depth, ErrorRecord, State, StoredMessage

__all__ = ["depth_from", "stored_message"]


def stored_message(
    row: tuple[str, str, bytes, bool, int, int, int, int, str | None, str | None], now_us: int
) -> StoredMessage:
    """Return what an operator sees of one row.

    Its columns: id, queue, body, leased, attempts, crashes, enqueued_us, visible_us, reason, error (JSON).
    """
    message_id, queue, body, leased, attempts, crashes, enqueued_us, visible_us, reason, error = row
    state = State.DEAD if reason is not None else derive_state(leased=leased, visible_at=visible_us, now=now_us)
    return StoredMessage(
        id=message_id,
        queue=queue,
        body=body,
        state=state,
        attempts=attempts,
        crashes=crashes,
        enqueued_at=enqueued_us / MICROSECONDS,
        visible_at=visible_us / MICROSECONDS,
        reason=DeadReason(reason) if reason is not None else None,
        error=ErrorRecord.from_json(error) if error is not None else None,
    )


def depth_from(*, ready: int, scheduled: int, reserved: int, dead: int, oldest_us: int | None, now_us: int) -> Depth:
    """Return a `Depth` from counts and the smallest visible_us among the ready."""
    age_s = None if oldest_us is None else (now_us - oldest_us) / MICROSECONDS
    return Depth(ready=ready, scheduled=scheduled, reserved=reserved, dead=dead, oldest_age_s=age_s)
