"""End leases on SQS: send a message's replacement, then delete it; and extend leases up to SQS's 12 hours.

A failure between the two calls leaves a second copy of the message, which at-least-once allows, and never loses it.
"""

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from asynctasq.drivers.base import Settlements
from asynctasq.drivers.sqs_driver.batches import Batches, Copy
from asynctasq.drivers.sqs_driver.client import Connection, Failure
from asynctasq.drivers.sqs_driver.leases import GrantedLease, LeaseRegistry
from asynctasq.drivers.sqs_driver.receiver import LEASE_S_MAX, whole_lease_s
from asynctasq.drivers.sqs_driver.wire import Envelope, Outgoing, Writer
from asynctasq.errors import AsyncTasqError, DriverUnavailable
from asynctasq.kernel.messages import Bury, Complete, Lease, Message, Release, Settlement, microseconds
from asynctasq.logs import get_logger

__all__ = ["Settler", "first_copy"]

logger = get_logger(__name__)

VERIFY_S = 30


@dataclass(slots=True)
class _PendingSettlement:
    """One settlement that is being done. `failure`: it may be repeated; `lost`: the lease was not ours any more."""

    lease: Lease
    held: GrantedLease
    settlement: Settlement
    failure: Failure | None = None
    lost: bool = False

    @property
    def is_pending(self) -> bool:
        return not self.lost and self.failure is None and not self.held.deleted

    def copies(self, hide_s: int = 0) -> list[Copy]:
        return [Copy(queue=self.lease.queue, receipt=receipt, hide_s=hide_s) for receipt in self.held.receipts.values()]


def first_copy(writer: Writer, message: Message) -> Outgoing:
    """Return a new message as it is sent first."""
    envelope = Envelope(id=message.id, body=message.body)
    return writer.build(envelope, message.queue, delay_us=max(0, microseconds(message.delay_s)))


class Settler:
    """Settles and extends leases for one event loop."""

    def __init__(self, connection: Connection, batches: Batches, writer: Writer, registry: LeaseRegistry) -> None:
        self._connection = connection
        self._batches = batches
        self._writer = writer
        self._registry = registry
        self._clock = connection.clock
        self._running: dict[str, asyncio.Future[None]] = {}

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        """Do what `Driver.settle` promises, as far as SQS can.

        Of several calls for one lease each waits for the one before, also for one whose caller was cancelled.
        Raises: DriverUnavailable or another error of SQS, if some are not done; repeating all is safe.
        """
        tokens = [lease.token for lease, _ in settlements]
        while before := [self._running[token] for token in tokens if token in self._running]:
            await asyncio.wait(before)
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._running.update(dict.fromkeys(tokens, ended))

        def after() -> None:
            for token in tokens:
                self._running.pop(token, None)
            ended.set_result(None)

        return await self._connection.run_to_end(self._settle(settlements), "settling", after)

    async def _settle(self, settlements: Settlements) -> AbstractSet[str]:
        ends, lost = self._find(settlements)
        await self._verify_late(ends)
        await self._replace(ends)
        await self._delete(ends)
        failed = [end for end in ends if end.failure is not None]
        if failed:
            raise _combined_error(
                [end.failure for end in failed], f"{len(failed)} of {len(ends)} settlements were not done"
            )
        for end in ends:
            self._registry.end(end.held)
        return lost | {end.lease.message_id for end in ends if end.lost}

    def _find(self, settlements: Settlements) -> tuple[list[_PendingSettlement], set[str]]:
        now = self._clock.now()
        ends: dict[str, _PendingSettlement] = {}
        lost: set[str] = set()
        for lease, settlement in settlements:
            held = self._registry.find(lease, now)
            if held is None or lease.token in ends:
                lost.add(lease.message_id)
            else:
                ends[lease.token] = _PendingSettlement(lease, held, settlement)
        return list(ends.values()), lost

    async def _verify_late(self, ends: Sequence[_PendingSettlement]) -> None:
        """Ask SQS whether a lease that ran out is still ours, before another copy is made for it.

        A completed message is deleted without asking: whoever else has it, its work is done.
        """
        now = self._clock.now()
        late = [
            end
            for end in ends
            if end.is_pending
            and not isinstance(end.settlement, Complete)
            and not end.held.replaced
            and now >= end.held.ends_at
        ]
        await self._by_receipt(late, hide_s=VERIFY_S)

    async def _replace(self, ends: Sequence[_PendingSettlement]) -> None:
        for end in ends:
            self._registry.mark_settling(end.held)
        todo = [(end, outgoing) for end in ends for outgoing in self._outgoing(end)]
        failures = await self._batches.send([outgoing for _, outgoing in todo])
        for (end, _), failure in zip(todo, failures, strict=True):
            end.failure = end.failure or failure
        for end in ends:
            end.held.replaced = end.held.replaced or end.is_pending

    def _outgoing(self, end: _PendingSettlement) -> list[Outgoing]:
        if not end.is_pending or end.held.replaced:
            return []
        outgoing = [first_copy(self._writer, message) for message in end.settlement.follow_ups]
        match end.settlement:
            case Complete():
                pass
            case Release(delay_s=delay_s) as release:
                envelope = Envelope.released(end.lease, release)
                outgoing.append(self._build(end, envelope, max(0, microseconds(delay_s))))
            case Bury() as bury:
                outgoing.append(self._build(end, Envelope.released(end.lease, bury), 0))
        return outgoing

    def _build(self, end: _PendingSettlement, envelope: Envelope, delay_us: int) -> Outgoing:
        return self._writer.build(envelope, end.lease.queue, delay_us=delay_us, key=end.lease.token)

    async def _delete(self, ends: Sequence[_PendingSettlement]) -> None:
        deleting = [end for end in ends if end.is_pending]
        await self._by_receipt(deleting, hide_s=None)
        for end in deleting:
            end.held.deleted = end.is_pending
            if end.lost and end.held.replaced and not isinstance(end.settlement, Complete):
                logger.warning(
                    "message %s has two copies now: its lease was over when it was settled", end.lease.message_id
                )

    async def _by_receipt(self, ends: Sequence[_PendingSettlement], *, hide_s: int | None) -> None:
        """Delete all copies of each lease, or hide them; a lease none of whose receipts is valid is lost."""
        copies = [(end, copy) for end in ends for copy in end.copies(hide_s or 0)]
        operation = self._batches.delete if hide_s is None else self._batches.hide
        failures = await operation([copy for _, copy in copies])
        stale: dict[str, int] = {}
        for (end, _), failure in zip(copies, failures, strict=True):
            if failure is not None and failure.final:
                stale[end.lease.token] = stale.get(end.lease.token, 0) + 1
            else:
                end.failure = end.failure or failure
        for end in ends:
            end.lost = stale.get(end.lease.token) == len(end.held.receipts)

    async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
        """Do what `Driver.extend` promises, up to 12 hours after the receive; then a lease is reported lost."""
        now = self._clock.now()
        wanted_s = whole_lease_s(lease_s)
        lost: set[str] = set()
        groups: dict[int, list[_PendingSettlement]] = {}
        for lease in leases:
            held = self._registry.find(lease, now)
            if held is None:
                lost.add(lease.message_id)
                continue
            left_s = int(held.taken_at + LEASE_S_MAX - now) - 1
            if left_s < wanted_s:
                lost.add(lease.message_id)
                logger.warning(
                    "message %s has been leased for almost 12 hours, and SQS gives no more: its attempt must end",
                    lease.message_id,
                )
            if left_s > 0:
                groups.setdefault(min(wanted_s, left_s), []).append(_PendingSettlement(lease, held, Complete()))
        for hide_s, ends in groups.items():
            await self._by_receipt(ends, hide_s=hide_s)
        all_pending = [end for ends in groups.values() for end in ends]
        return lost | self._extended(groups, all_pending, now)

    def _extended(
        self, groups: dict[int, list[_PendingSettlement]], all_pending: Sequence[_PendingSettlement], now: float
    ) -> set[str]:
        for hide_s, ends in groups.items():
            for end in ends:
                if end.is_pending:
                    self._registry.mark_extended(end.held, now + hide_s)
        failed = [end.failure for end in all_pending if end.failure is not None]
        if failed:
            raise _combined_error(failed, f"{len(failed)} of {len(all_pending)} leases were not extended")
        return {end.lease.message_id for end in all_pending if end.lost}


def _combined_error(failures: Sequence[Failure | None], what: str) -> AsyncTasqError:
    """Return the error to raise: the kind of the first, since what one call met the others met too."""
    first = next(failure for failure in failures if failure is not None)
    kind = DriverUnavailable if first.cause is None else type(first.cause)
    return kind(f"{what}; repeating is safe: {first.text}")
