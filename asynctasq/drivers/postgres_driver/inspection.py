"""What an operator reads and changes in PostgreSQL, and what is removed in the end; on no worker's hot path."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from asynctasq.drivers.base import Page
from asynctasq.drivers.batches import chunks
from asynctasq.drivers.checks import is_message_id
from asynctasq.drivers.damaged import log_damaged, queue_names
from asynctasq.drivers.levels import all_lines_of, lines_of, queue_in, ranked_lines_of
from asynctasq.drivers.postgres_driver.rows import damaged_columns, lease_columns
from asynctasq.drivers.postgres_driver.statements import Statements
from asynctasq.drivers.retention import Retention
from asynctasq.drivers.sql.rows import depth_from, stored_message
from asynctasq.kernel.messages import (
    CANCELLED_TTL_S,
    Depth,
    Lease,
    Progress,
    State,
    StoredMessage,
    cancelled_mark,
    microseconds,
)

__all__ = ["Inspection"]

IDS_PER_STATEMENT = 5_000
LISTED_STATES = frozenset({State.SCHEDULED, State.READY, State.RESERVED, State.DEAD})
BIGINT_MAX = 2**63 - 1


class Inspection:
    """The operations of `Inspectable`, and depth, redrive and results, through `fetch`."""

    def __init__(
        self, statements: Statements, fetch: Callable[..., Awaitable[list[Any]]], offset_us: Callable[[], int]
    ) -> None:
        self._sql = statements
        self._fetch = fetch
        self._offset_us = offset_us

    async def depth(self, queue: str) -> Depth:
        """Do `Driver.depth`."""
        [(ready, scheduled, reserved, dead, oldest_us, now_us)] = await self._fetch(
            self._sql.depth, self._offset_us(), lines_of(queue), ranked_lines_of(queue)
        )
        return depth_from(
            ready=ready, scheduled=scheduled, reserved=reserved, dead=dead, oldest_us=oldest_us, now_us=now_us
        )

    async def redrive(self, queue: str, limit: int) -> int:
        """Do `Driver.redrive`."""
        values = lines_of(queue), max(0, min(limit, BIGINT_MAX))
        [(moved, _)] = await self._fetch(self._sql.redrive, self._offset_us(), *values)
        return int(moved)

    async def redrive_ids(self, message_ids: Sequence[str]) -> dict[str, str]:
        """Do `Inspectable.redrive_ids`; return the ids with their queues."""
        ids = sorted({message_id for message_id in message_ids if is_message_id(message_id)})
        queues: dict[str, str] = {}
        for batch in chunks(ids, IDS_PER_STATEMENT):
            rows = await self._fetch(self._sql.redrive_ids, self._offset_us(), list(batch))
            queues.update((message_id, queue_in(line)) for message_id, line, _ in rows)
        return queues

    async def queues(self) -> list[str]:
        """Do `Inspectable.queues`."""
        return queue_names(row[0] for row in await self._fetch(self._sql.queues))

    async def find(self, message_id: str) -> StoredMessage | None:
        """Do `Inspectable.find`."""
        if not is_message_id(message_id):
            return None
        rows = await self._fetch(self._sql.find, self._offset_us(), message_id)
        return _stored_message(rows[0][1:], rows[0][0]) if rows else None

    async def list_messages(self, queue: str, state: State | None, limit: int, cursor: str | None) -> Page:
        """Do `Inspectable.list_messages`; the cursor is the arrival of the last message shown."""
        if limit <= 0 or (state is not None and state not in LISTED_STATES):
            return Page(messages=[], cursor=None)
        wanted = None if state is None else state.value
        values = all_lines_of(queue), int(cursor) if cursor else 0, wanted, limit + 1
        rows = await self._fetch(self._sql.list_messages, self._offset_us(), *values)
        shown = rows[:limit]
        messages = [_stored_message(row[1:-1], row[0]) for row in shown]
        return Page(messages=messages, cursor=str(shown[-1][-1]) if len(rows) > limit else None)

    async def remove(self, statement: str, message_ids: Sequence[str]) -> set[str]:
        """Do `cancel` or `discard`: ids in one order, so that two calls lock rows in one order."""
        ids = sorted({message_id for message_id in message_ids if is_message_id(message_id)})
        removed: set[str] = set()
        for batch in chunks(ids, IDS_PER_STATEMENT):
            removed.update(row[0] for row in await self._fetch(statement, self._offset_us(), list(batch)))
        return removed

    async def cancel_running(self, message_ids: Sequence[str]) -> tuple[dict[str, str], set[str]]:
        """Do `CancelsRunning.cancel_running`; return the holders of the leases, too."""
        ids = sorted({message_id for message_id in message_ids if is_message_id(message_id)})
        tokens: dict[str, str] = {}
        holders: set[str] = set()
        for batch in chunks(ids, IDS_PER_STATEMENT):
            values = self._offset_us(), list(batch), cancelled_mark(""), microseconds(CANCELLED_TTL_S)
            for message_id, token, holder, _ in await self._fetch(self._sql.cancel_running, *values):
                tokens[message_id] = token
                holders.update([holder] if holder else [])
        return tokens, holders

    async def purge(self, queue: str) -> int:
        """Do `Inspectable.purge`."""
        [(removed,)] = await self._fetch(self._sql.purge, self._offset_us(), all_lines_of(queue))
        return int(removed)

    async def fetch_result(self, message_id: str) -> bytes | None:
        """Do `KeepsResults.fetch_result`."""
        if not is_message_id(message_id):
            return None
        rows = await self._fetch(self._sql.fetch_result, self._offset_us(), message_id)
        return rows[0][0] if rows else None

    async def has_ended(self, message_id: str) -> bool:
        """Say whether a message is a dead letter, or not there."""
        return not is_message_id(message_id) or not await self._fetch(self._sql.lives, message_id)

    async def report_progress(self, reports: Sequence[tuple[Lease, Progress]]) -> None:
        """Do `ReportsProgress.report_progress`."""
        texts = {(lease.message_id, lease.token): progress.to_json() for lease, progress in reports}
        ids, seqs, numbers = lease_columns([lease for lease, _ in reports])
        told = [texts[key, f"{seq}.{number}"] for key, seq, number in zip(ids, seqs, numbers, strict=True)]
        if ids:
            await self._fetch(self._sql.report_progress, ids, seqs, numbers, told)

    async def bury_damaged(self, rows: Sequence[Any], now_us: int, where: str) -> None:
        """Make dead letters of rows of a claim that can't be read."""
        found, columns = damaged_columns(rows, now_us)
        await self._fetch(self._sql.bury_damaged, self._offset_us(), *columns)
        log_damaged(where, found)

    async def prune(self, queues: Sequence[str], keep: Retention, most: int) -> bool:
        """Remove up to `most` expired results, and dead letters of each queue; return whether there may be more."""
        offset_us, lines = self._offset_us(), [line for queue in dict.fromkeys(queues) for line in lines_of(queue)]
        [(results,)] = await self._fetch(self._sql.prune_results, offset_us, most)
        values = (lines, keep.dead_ttl_us, keep.dead_max, most)
        [(dead,)] = await self._fetch(self._sql.prune_dead, offset_us, *values)
        return int(max(results, dead)) >= most


def _stored_message(row: Any, now_us: int) -> StoredMessage:
    return stored_message(row, now_us, dead=row[8] is not None)
