"""What an operator, or who waits for a task, reads and changes in MySQL/MariaDB; on no worker's hot path."""

from collections.abc import Callable, Sequence

from asynctasq.drivers.base import Page
from asynctasq.drivers.checks import is_message_id
from asynctasq.drivers.damaged import queue_names
from asynctasq.drivers.levels import lines_of
from asynctasq.drivers.mysql_driver.statement_runner import StatementRunner
from asynctasq.drivers.mysql_driver.statements import Statements, server_now
from asynctasq.drivers.mysql_driver.steps import cancel_running, parse_token, redrive_ids, remove, to_stored_message
from asynctasq.drivers.sql.rows import depth_from
from asynctasq.kernel.messages import Depth, Lease, Progress, State, StoredMessage

__all__ = ["Inspection"]

BATCH_ROWS = 5000


class Inspection:
    """The operations of `Inspectable`, and depth, redrive, results and progress."""

    def __init__(self, runner: StatementRunner, sql: Statements, offset_us: Callable[[], int]) -> None:
        self._runner = runner
        self._sql = sql
        self._offset_us = offset_us

    @property
    def _now(self) -> str:
        return server_now(self._offset_us())

    async def depth(self, queue: str) -> Depth:
        """Do `Driver.depth`."""
        found = await self._runner.run(self._sql.depth(queue, now=self._now))
        ((now, ready, scheduled, reserved, dead, oldest),) = found.rows
        return depth_from(ready=ready, scheduled=scheduled, reserved=reserved, dead=dead, oldest_us=oldest, now_us=now)

    async def redrive(self, queue: str, limit: int) -> int:
        """Do `Driver.redrive`."""
        moved = 0
        while moved < limit:
            rows = min(limit - moved, BATCH_ROWS)
            found = (await self._runner.run(self._sql.redrive(queue, limit=rows, now=self._now))).affected
            moved += found
            if found < rows:
                break
        return moved

    async def queues(self) -> list[str]:
        """Do `Inspectable.queues`."""
        return queue_names(row[0] for row in (await self._runner.run(self._sql.queues())).rows)

    async def find(self, message_id: str) -> StoredMessage | None:
        """Do `Inspectable.find`."""
        if not is_message_id(message_id):
            return None
        rows = (await self._runner.run(self._sql.find(message_id, now=self._now))).rows
        return to_stored_message(rows[0][1:], rows[0][0]) if rows else None

    async def list_messages(self, queue: str, state: State | None, limit: int, cursor: str | None) -> Page:
        """Do `Inspectable.list_messages`."""
        statement = self._sql.list_messages(queue, state, after=int(cursor or 0), limit=limit + 1, now=self._now)
        rows = (await self._runner.run(statement)).rows
        more = str(rows[limit - 1][1]) if len(rows) > limit else None
        return Page(messages=[to_stored_message(row[2:], row[0]) for row in rows[:limit]], cursor=more)

    async def remove(self, message_ids: Sequence[str], *, dead: bool) -> set[str]:
        """Do `discard`, or else `cancel`."""
        ids = _possible(message_ids)
        if not ids:
            return set()
        return await self._runner.run_steps(
            lambda: remove(self._sql, ids, dead=dead, offset_us=self._offset_us()), brief=False
        )

    async def redrive_ids(self, message_ids: Sequence[str]) -> dict[str, str]:
        """Do `Inspectable.redrive_ids`; return the ids with their queues."""
        ids = _possible(message_ids)
        if not ids:
            return {}
        return await self._runner.run_steps(
            lambda: redrive_ids(self._sql, ids, offset_us=self._offset_us()), brief=False
        )

    async def cancel_running(self, message_ids: Sequence[str]) -> tuple[dict[str, str], set[str]]:
        """Do `CancelsRunning.cancel_running`; return the holders of the leases, too."""
        ids = _possible(message_ids)
        if not ids:
            return {}, set()
        return await self._runner.run_steps(
            lambda: cancel_running(self._sql, ids, offset_us=self._offset_us()), brief=False
        )

    async def purge(self, queue: str) -> int:
        """Do `Inspectable.purge`."""
        removed = 0
        now, last = (await self._runner.run(self._sql.last_seq(now=self._now))).rows[0]
        for line in lines_of(queue):
            found = BATCH_ROWS
            while found >= BATCH_ROWS:
                statement = self._sql.purge(line, up_to=last, limit=BATCH_ROWS, now=str(now))
                found = (await self._runner.run(statement)).affected
                removed += found
        return removed

    async def fetch_result(self, message_id: str) -> bytes | None:
        """Do `KeepsResults.fetch_result`."""
        if not is_message_id(message_id):
            return None
        rows = (await self._runner.run(self._sql.result(message_id, now=self._now))).rows
        return rows[0][0] if rows else None

    async def has_ended(self, message_id: str) -> bool:
        """Say whether a message is a dead letter, or not there."""
        return not is_message_id(message_id) or not (await self._runner.run(self._sql.lives(message_id))).rows

    async def report_progress(self, reports: Sequence[tuple[Lease, Progress]]) -> None:
        """Do `ReportsProgress.report_progress`."""
        for lease, progress in reports:
            held = parse_token(lease.token)
            if held is not None:
                await self._runner.run(self._sql.report_progress(held, progress.to_json()), brief=True)


def _possible(message_ids: Sequence[str]) -> list[str]:
    return [message_id for message_id in message_ids if is_message_id(message_id)]
