"""The driver contract: what every backend promises. No driver imports another; the worker imports none by name."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

from asynctasq.drivers.capabilities import NO, YES, Capabilities, Support, partial
from asynctasq.kernel.messages import (
    Bury,
    Complete,
    DeadReason,
    Depth,
    ErrorRecord,
    Lease,
    Message,
    Progress,
    Release,
    Settlement,
    State,
    StoredMessage,
    UniqueKey,
    check_queue_name,
    microseconds,
)

__all__ = [
    "END_CHECK_S",
    "NO",
    "YES",
    "BaseDriver",
    "Bury",
    "CancelsRunning",
    "Capabilities",
    "Complete",
    "DeadReason",
    "Depth",
    "Driver",
    "Enqueued",
    "ErrorRecord",
    "Inspectable",
    "KeepsResults",
    "Lease",
    "Message",
    "Migratable",
    "Migration",
    "Notifies",
    "Page",
    "Progress",
    "Release",
    "ReportsProgress",
    "ReservesReleased",
    "Settlement",
    "Settlements",
    "State",
    "StoredMessage",
    "Support",
    "Transactional",
    "UniqueKey",
    "check_queue_name",
    "microseconds",
    "partial",
]

Settlements = Sequence[tuple[Lease, Settlement]]
END_CHECK_S = 15.0
"""How often `wait_result` looks whether a message has ended of whose end it is not woken."""


class Enqueued(list[str]):
    """The ids that are new, in order, and by `holders` why others are not: message id -> the id that holds its key."""

    __slots__ = ("holders",)

    def __init__(self, new: Iterable[str] = (), holders: Mapping[str, str] | None = None) -> None:
        super().__init__(new)
        self.holders: Mapping[str, str] = holders or {}


class Driver(Protocol):
    """A place that keeps messages. Small, batch-first, the same for every backend.

    Each message has ONE timestamp, `visible_at`, that serves delay, retry and lease alike: it is
    visible when `visible_at <= now`. States are derived at each call; there is no background mover.
    `now` is the server's clock plus `clock_offset`; a client's clock decides nothing.

    An instance may be used from several event loops: connections belong to the loop that first
    needed them and are opened lazily. `open` and `close` act for the running loop alone.
    Others may damage what is stored: a reserve makes dead letters of what it can't read and leases what is behind
    it, and every other call bears it. Dead letters go at the age, and beyond the number, that `capabilities` tell.
    Every call may be cancelled at any await: no message is lost and no connection leaks or stays
    desynchronised. No library exception leaves a driver: it becomes a `DriverError`
    (`DriverUnavailable` when trying again may help), with the address but never the password.
    """

    capabilities: Capabilities
    clock_offset: float
    """Seconds added to the server's clock; 0 in production. Assignable; takes effect at the next call."""
    tls: str = ""
    """How its connections are protected, for the worker's banner; empty for a driver that makes none."""
    holder: str = ""
    """Who reserves by this driver, up to `HOLDER_CHARS_MAX` characters of printable ASCII; stored with each lease."""

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """Return a driver for `url`, whose query may hold options; `options` win. Opens nothing.

        Raises: ConfigError for an unknown option or a wrong value.
        """
        ...

    def __str__(self) -> str:
        """Return where the messages are, for banners and errors, without any secret."""
        ...

    async def open(self) -> None:
        """Connect and check the backend, for the running loop. Repeating it changes nothing."""
        ...

    async def close(self) -> None:
        """Release what the running loop holds, within 5 seconds; waiting calls of this loop return nothing.

        Repeating it changes nothing; a later call opens again.
        """
        ...

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        """Store the messages, all or none; return the ids that are new, in the order given.

        While a message with an id lives (dead letters live), the same id again changes nothing, in
        whichever queue. Within a batch the first of equal ids counts. Becomes visible `delay_s` after
        now, never earlier. Messages of one batch arrive in the order given.

        Where `unique` is claimed, a message whose `unique` key another one holds is not stored, or replaces that one:
        `UniqueKey` says when. They are decided in order, by the store. Those that are not stored because of their key
        are told with their holders, as `Enqueued`. Where it is not claimed, a key raises UnsupportedFeature.

        Raises: InvalidQueueName, BodyTooLarge, UniqueConflictError, and UnsupportedFeature for a priority other than
        normal where `priorities` is not claimed, or a fair key where `fair` is not: nothing was stored.
        """
        ...

    async def reserve(self, queues: Sequence[str], *, limit: int, lease_s: float, wait_s: float = 0) -> list[Lease]:
        """Lease up to `limit` visible messages: queues in the order given, within one by `visible_at`, then arrival.

        Where `priorities` is claimed, within a queue by level first: high, normal, low. Of twenty calls of one instance
        that take something from a queue (those of `turn` among them), the tenth begins with normal and the twentieth
        with low.

        Where `fair` is claimed, a message that has a `fair_key` and no delay waits by rank until it is first reserved,
        beside those of its queue and level that wait by `visible_at`. Its rank is given when it is stored: one more
        than the largest rank of a message of its key that waits so, and than that of who is first in line; 1 if nobody
        waits so. Equal ranks go by arrival. Messages that are stored together are ranked one after the other. Of the
        calls of one instance that take something from a queue the first, third and so on begin in each level with the
        messages by `visible_at`, the others with those by rank. A rank is shown nowhere: who waits by rank has been
        visible since it was enqueued.

        Takes over messages whose lease ran out, counting a crash on each. Returns as soon as there is at
        least one, at the latest `wait_s` later with none. Waiting sleeps until the next `visible_at` or a
        wake-up. A lease is granted for `lease_s` from the instant of the grant.
        """
        ...

    async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
        """Let the leases end `lease_s` from now, all at once; return the ids whose token is no longer the latest.

        A lease that ran out but was not taken over is renewed. Where waiting calls are woken, a lease that now ends
        sooner than before wakes them.
        """
        ...

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        """End the attempts, in one round trip; return the message ids of leases that were no longer ours.

        Each entry is atomic, its follow-ups included, and fenced by its token. There is no instant at
        which a message is nowhere or twice. A late one counts while nobody else has reserved the message
        since. Repeating it is safe: the second time the id is returned as lost and nothing changes.

        A follow-up of `Complete` may have the id of the message that is completed: it is a new message, with attempts,
        crashes and `enqueued_at` of its own, under no lease, whatever else is settled in the same call. A follow-up
        whose key is held is not stored; where it would "raise" it is left out.
        """
        ...

    async def turn(
        self, settlements: Settlements, queues: Sequence[str], *, limit: int, lease_s: float
    ) -> tuple[AbstractSet[str], list[Lease]]:
        """Settle, then reserve without waiting, in one round trip where the driver can. `limit` may be 0."""
        lost = await self.settle(settlements) if settlements else frozenset[str]()
        leases = await self.reserve(queues, limit=limit, lease_s=lease_s) if limit else []
        return lost, leases

    async def depth(self, queue: str) -> Depth:
        """Count the messages of one queue; all zero for a queue that never was."""
        ...

    async def redrive(self, queue: str, *, limit: int) -> int:
        """Move up to `limit` dead letters, oldest death first, back to ready.

        They begin anew: attempts and crashes are 0, and `enqueued_at` is now. None holds its unique key again. Returns
        how many were moved.
        """
        ...


BaseDriver = Driver
"""The name that the guide uses for the type of a driver."""


@runtime_checkable
class Notifies(Protocol):
    """A driver that can wait for work without taking it. Claimed as `wakes_waiting`."""

    async def wait_visible(self, queues: Sequence[str], *, wait_s: float) -> bool:
        """Return True as soon as a message of these queues is (probably) visible, False after `wait_s` seconds.

        Takes nothing, so cancelling it loses nothing. Another worker may reserve the message first; True is a hint.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of a listing; give `cursor` back for the next, None at the end."""

    messages: list[StoredMessage]
    cursor: str | None


@runtime_checkable
class Inspectable(Protocol):
    """A driver whose messages an operator can see and remove. Claimed as `inspects`."""

    async def queues(self) -> list[str]:
        """Return the names of all queues that hold a message, sorted."""
        ...

    async def find(self, message_id: str) -> StoredMessage | None:
        """Return the message, None if there is none with this id."""
        ...

    async def list_messages(
        self, queue: str, *, state: State | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        """Return messages of a queue in the order of arrival, page by page."""
        ...

    async def cancel(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        """Remove those that are scheduled or ready (an expired lease counts as ready); return their ids."""
        ...

    async def discard(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        """Remove those that are dead letters; return their ids."""
        ...

    async def redrive_ids(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        """Move those that are dead letters back to ready, as `redrive` does; return their ids."""
        ...

    async def purge(self, queue: str) -> int:
        """Remove every scheduled and ready message of a queue; return how many. Leases and dead letters stay."""
        ...


@runtime_checkable
class KeepsResults(Protocol):
    """A driver that keeps what `Complete.result` holds. Claimed as `keeps_results`."""

    async def fetch_result(self, message_id: str) -> bytes | None:
        """Return the result bytes until `result_ttl_s` after completion, else None."""
        ...

    async def wait_result(self, message_id: str, *, wait_s: float) -> bool:
        """Return True as soon as the message has ended, False after `wait_s` seconds or once the driver is closed.

        It has ended when it is a dead letter, or not there, as one that never was. A settlement that completes it with
        a result, or buries it, and `cancel_running` wake the call where `wakes_waiting` is claimed; any other end is
        noticed within `END_CHECK_S`. Takes nothing, so cancelling it loses nothing.
        """
        ...


@runtime_checkable
class CancelsRunning(Protocol):
    """A driver that removes messages under a lease, too. Claimed as `cancels_running`, with the two protocols above."""

    async def cancel_running(self, message_ids: Sequence[str]) -> Mapping[str, str]:
        """Remove those that are no dead letters, reserved ones too; return by id the token of the lease that each had.

        The token is "" for a message under no lease; a lease that ran out and was not taken over counts. Each removal
        is atomic: either a settlement of that lease has won, or it comes too late, is lost, and stores nothing. For
        `CANCELLED_TTL_S` `fetch_result` returns `cancelled_mark` of that token, in place of an earlier result of the
        id. Calls that wait for the message's end are woken, and `wait_cancelled` of who holds the lease. Repeating it
        is safe: what is removed already is left out.
        """
        ...

    async def wait_cancelled(self, *, wait_s: float) -> bool:
        """Return True as soon as a message that `holder` has reserved was (probably) removed by `cancel_running`.

        False after `wait_s`, or once the driver is closed. Only what is cancelled meanwhile wakes the call; where
        `cancels_running` is claimed in part, not all of it. Takes nothing, so cancelling it loses nothing.
        """
        ...


@runtime_checkable
class ReportsProgress(Protocol):
    """A driver that stores how far a running attempt is. Claimed as `reports_progress`."""

    async def report_progress(self, reports: Sequence[tuple[Lease, Progress]]) -> None:
        """Store each progress with its message, in place of the one before; ignore one whose token is not the latest.

        What is stored is shown while the lease lasts; the next reserve of the message removes it.
        """
        ...


@runtime_checkable
class ReservesReleased(Protocol):
    """A driver that leases released messages again before their delay has passed. Claimed as `reserves_released`."""

    async def reserve_released(self, leases: Sequence[Lease], *, lease_s: float) -> list[Lease]:
        """Lease again the messages that these leases released and nobody has reserved since, in the order given.

        Whether they are visible yet does not matter; those that were cancelled, or are leased, done or dead letters,
        are left out. Of `leases` only ids and tokens count; one that is named twice is leased once. Each message is
        taken in one step, under a new token; no crash and no attempt is counted. Leases that a cancelled call was
        granted may have to run out.
        """
        ...


@runtime_checkable
class Transactional(Protocol):
    """A driver that stores and settles inside a transaction the caller owns. Claimed as `transactional`.

    The caller's commit makes the change visible, its rollback makes it never have been.
    """

    async def enqueue_in(self, connection: Any, messages: Sequence[Message]) -> list[str]:
        """Do `enqueue` on the caller's connection; commits nothing.

        Raises: UnsupportedFeature if this kind of connection can't be used, or points to another database.
        """
        ...

    def enqueue_in_sync(self, connection: Any, messages: Sequence[Message]) -> list[str]:
        """Do `enqueue_in` for a connection that is used from synchronous code."""
        ...

    async def settle_in(self, connection: Any, settlements: Settlements) -> AbstractSet[str]:
        """Do `settle` on the caller's connection; commits nothing.

        Raises: UnsupportedFeature as `enqueue_in`.
        """
        ...

    def settle_in_sync(self, connection: Any, settlements: Settlements) -> AbstractSet[str]:
        """Do `settle_in` for a connection that is used from synchronous code."""
        ...


@runtime_checkable
class Migratable(Protocol):
    """A driver whose schema an operator brings up to date, with `asynctasq migrate`.

    `open` of an unmigrated or outdated database raises `DriverMisconfigured` that says what to run.
    """

    async def schema_version(self) -> int:
        """Return the version the database has; 0 before the first migration."""
        ...

    def migrations(self) -> Sequence["Migration"]:
        """Return all migrations in order; the last one's version is the one this driver needs."""
        ...

    async def migrate(self) -> list[int]:
        """Apply what is missing and return those versions. Idempotent, and safe when run twice at once."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step of a schema: SQL statements with all names already quoted."""

    version: int
    title: str
    statements: tuple[str, ...]
