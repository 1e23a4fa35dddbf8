"""What a worker enters in the ledger: what became of the leases it held. Decides nothing."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from asynctasq.core.hooks import AttemptEnvironment
from asynctasq.core.in_flight import InFlightAttempt
from asynctasq.core.settling import released_until, settlement_detail
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.messages import Lease, Progress, Settlement
from asynctasq.logs import get_logger

__all__ = ["WorkerLedger"]

logger = get_logger(__name__)


class WorkerLedger:
    """Enters events under the worker's name; where nobody listens, it only logs what was lost."""

    def __init__(self, environment: AttemptEnvironment) -> None:
        self._environment = environment

    def settled(
        self, settlements: Sequence[tuple[Lease, Settlement]], lost: AbstractSet[str], asked_now: float
    ) -> None:
        """Enter what a call settled, and which leases it found lost."""
        for lease, settlement in settlements:
            if lease.message_id in lost:
                logger.warning("the lease of message %s was lost before its attempt was settled", lease.message_id)
            if self._environment.record is not None:
                kind = Kind.LOST if lease.message_id in lost else Kind.SETTLED
                self._enter(lease, kind, settlement, released_until(settlement, asked_now))

    def without_stale(
        self, settlements: Sequence[tuple[Lease, Settlement]], leases: Sequence[Lease]
    ) -> list[tuple[Lease, Settlement]]:
        """Drop the settlements of messages that have been reserved again: their tokens are no longer valid."""
        reserved_again = {lease.message_id for lease in leases}
        valid: list[tuple[Lease, Settlement]] = []
        for lease, settlement in settlements:
            if lease.message_id not in reserved_again:
                valid.append((lease, settlement))
            else:
                self._enter(lease, Kind.LOST, settlement, 0.0)
        return valid

    def attempt(self, attempt: InFlightAttempt, kind: Kind, *, due_at: float = 0.0) -> None:
        """Enter an event of an attempt."""
        self._enter(attempt.lease, kind, None, due_at)

    def progress(self, attempt: InFlightAttempt, progress: Progress) -> None:
        """Enter how far an attempt says it is."""
        if self._environment.record is not None:
            at, worker = self._environment.clock.now(), self._environment.name
            entry = Entry.of(attempt.lease, Kind.PROGRESS, at=at, worker=worker, detail=str(progress), value=progress)
            self._environment.record(entry)

    def stopped(self) -> None:
        """Enter that the worker has ended."""
        if self._environment.record is not None:
            at, worker = self._environment.clock.now(), self._environment.name
            self._environment.record(Entry(at=at, kind=Kind.STOPPED, worker=worker))

    def _enter(self, lease: Lease, kind: Kind, settlement: Settlement | None, due_at: float) -> None:
        if self._environment.record is not None:
            at, worker = self._environment.clock.now(), self._environment.name
            detail = "" if settlement is None else settlement_detail(settlement)
            self._environment.record(Entry.of(lease, kind, at=at, worker=worker, detail=detail, due_at=due_at))
