"""The leases that this driver granted, so that it can refuse a stale one where SQS would not; asks no server.

SQS has no compare-and-set: an old receipt handle may still delete or show a message that somebody else holds.
Two copies of one message, which at-least-once allows, are one lease here until that lease ends.
"""

import threading
from dataclasses import dataclass

from asynctasq.drivers.sqs_driver.wire import Received, receipt_of
from asynctasq.kernel.messages import Lease

__all__ = ["GrantedLease", "LeaseRegistry"]

REMEMBERED_MAX = 20_000
SWEEP_AT_LEAST = 1_000
FORGET_AFTER_S = 3_600


@dataclass(slots=True, kw_only=True)
class GrantedLease:
    """One lease that was granted. `receipts` has the latest receipt of each copy; instants as in `Received`."""

    key: tuple[str, str]
    token: str
    copy: int
    receipts: dict[str, str]
    taken_at: float
    ends_at: float
    settling: bool = False
    """Whether its settlement began: a copy that is received from then on may be its replacement."""
    replaced: bool = False
    """Whether its settlement has sent the replacement, so that repeating it does not send twice."""
    deleted: bool = False


class LeaseRegistry:
    """All leases of one driver; its loops and threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, GrantedLease] = {}
        self._latest: dict[tuple[str, str], str] = {}
        self._ended_tokens: dict[str, None] = {}
        self._deleted_ids: dict[str, None] = {}
        self._sweep_at = SWEEP_AT_LEAST

    def was_deleted(self, sqs_id: str) -> bool:
        """Say whether we deleted this copy: SQS may deliver it once more all the same."""
        with self._lock:
            return sqs_id in self._deleted_ids

    def grant(self, received: Received, now: float) -> Lease | None:
        """Make a lease; None if this is another copy, or delivery, of a message that a lease of ours holds."""
        lease = received.lease()
        key = (lease.queue, lease.message_id)
        with self._lock:
            held = self._held.get(self._latest.get(key, ""))
            if held is not None and now < held.ends_at and not held.settling and received.envelope.copy <= held.copy:
                held.receipts[received.sqs_id] = received.receipt
                return None
            if held is not None and not held.settling:
                self._end(held)
            self._add(
                GrantedLease(
                    key=key,
                    token=lease.token,
                    copy=received.envelope.copy,
                    receipts={received.sqs_id: received.receipt},
                    taken_at=received.taken_at,
                    ends_at=received.ends_at,
                ),
                now,
            )
        return lease

    def find(self, lease: Lease, now: float) -> GrantedLease | None:
        """Return the record of a lease, None if it ended or the message was leased again since.

        A lease that another driver granted is believed, unless a lease of ours on that message has not expired.
        """
        with self._lock:
            if lease.token in self._ended_tokens:
                return None
            if (held := self._held.get(lease.token)) is not None:
                return held
            key = (lease.queue, lease.message_id)
            latest = self._held.get(self._latest.get(key, ""))
            if latest is not None and now < latest.ends_at:
                return None
            held = GrantedLease(
                key=key,
                token=lease.token,
                copy=0,  # unknown; no later copy may join it
                receipts={"": receipt_of(lease.token)},
                taken_at=lease.expires_at,
                ends_at=lease.expires_at,
            )
            self._add(held, now)
            return held

    def mark_settling(self, held: GrantedLease) -> None:
        """Mark, before anything is sent, that this lease is being settled."""
        with self._lock:
            held.settling = True

    def mark_extended(self, held: GrantedLease, ends_at: float) -> None:
        """Set the new end of a lease."""
        with self._lock:
            held.ends_at = ends_at

    def end(self, held: GrantedLease) -> None:
        """Remove a lease that was settled or lost; its token, and its copies if deleted, are remembered as ended."""
        with self._lock:
            self._end(held)
            if held.deleted:
                for sqs_id in held.receipts:
                    _remember(self._deleted_ids, sqs_id)

    def _add(self, held: GrantedLease, now: float) -> None:
        self._held[held.token] = held
        self._latest[held.key] = held.token
        if len(self._held) >= self._sweep_at:
            for old in [old for old in self._held.values() if old.ends_at + FORGET_AFTER_S < now]:
                self._end(old)
            self._sweep_at = max(SWEEP_AT_LEAST, 2 * len(self._held))

    def _end(self, held: GrantedLease) -> None:
        self._held.pop(held.token, None)
        if self._latest.get(held.key) == held.token:
            del self._latest[held.key]
        _remember(self._ended_tokens, held.token)


def _remember(memory: dict[str, None], key: str) -> None:
    memory[key] = None
    if len(memory) > REMEMBERED_MAX:
        del memory[next(iter(memory))]
