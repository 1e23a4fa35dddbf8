"""Passes the optional protocols of a wrapped driver through unchanged: faults concern workers, not operators."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, cast

from asynctasq.drivers.base import (
    CancelsRunning,
    Driver,
    Inspectable,
    KeepsResults,
    Migratable,
    Migration,
    Page,
    ReportsProgress,
    Settlements,
    Transactional,
)
from asynctasq.errors import UnsupportedFeature
from asynctasq.kernel.messages import Lease, Message, Progress, State, StoredMessage

__all__ = ["PassThrough"]


class PassThrough(Inspectable, KeepsResults, CancelsRunning, ReportsProgress, Transactional, Migratable):
    """Every optional protocol; `capabilities`, the inner driver's, says which of them it keeps."""

    inner: Driver

    def _checked(self, name: str, *, kept: bool) -> Driver:
        if not kept:
            raise UnsupportedFeature(f"{self.inner} is not {name}")
        return self.inner

    @property
    def _inspects(self) -> Inspectable:
        return cast("Inspectable", self._checked("Inspectable", kept=bool(self.inner.capabilities.inspects)))

    @property
    def _keeps_results(self) -> KeepsResults:
        return cast("KeepsResults", self._checked("KeepsResults", kept=bool(self.inner.capabilities.keeps_results)))

    @property
    def _cancels_running(self) -> CancelsRunning:
        kept = bool(self.inner.capabilities.cancels_running)
        return cast("CancelsRunning", self._checked("CancelsRunning", kept=kept))

    @property
    def _reports_progress(self) -> ReportsProgress:
        kept = bool(self.inner.capabilities.reports_progress)
        return cast("ReportsProgress", self._checked("ReportsProgress", kept=kept))

    @property
    def _transactional(self) -> Transactional:
        return cast("Transactional", self._checked("Transactional", kept=bool(self.inner.capabilities.transactional)))

    @property
    def _migrates(self) -> Migratable:
        return cast("Migratable", self._checked("Migratable", kept=isinstance(self.inner, Migratable)))

    async def queues(self) -> list[str]:
        return await self._inspects.queues()

    async def find(self, message_id: str) -> StoredMessage | None:
        return await self._inspects.find(message_id)

    async def list_messages(
        self, queue: str, *, state: State | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        return await self._inspects.list_messages(queue, state=state, limit=limit, cursor=cursor)

    async def cancel(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return await self._inspects.cancel(message_ids)

    async def discard(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return await self._inspects.discard(message_ids)

    async def redrive_ids(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return await self._inspects.redrive_ids(message_ids)

    async def purge(self, queue: str) -> int:
        return await self._inspects.purge(queue)

    async def fetch_result(self, message_id: str) -> bytes | None:
        return await self._keeps_results.fetch_result(message_id)

    async def wait_result(self, message_id: str, *, wait_s: float) -> bool:
        return await self._keeps_results.wait_result(message_id, wait_s=wait_s)

    async def cancel_running(self, message_ids: Sequence[str]) -> Mapping[str, str]:
        return await self._cancels_running.cancel_running(message_ids)

    async def wait_cancelled(self, *, wait_s: float) -> bool:
        return await self._cancels_running.wait_cancelled(wait_s=wait_s)

    async def report_progress(self, reports: Sequence[tuple[Lease, Progress]]) -> None:
        await self._reports_progress.report_progress(reports)

    async def enqueue_in(self, connection: Any, messages: Sequence[Message]) -> list[str]:
        return await self._transactional.enqueue_in(connection, messages)

    def enqueue_in_sync(self, connection: Any, messages: Sequence[Message]) -> list[str]:
        return self._transactional.enqueue_in_sync(connection, messages)

    async def settle_in(self, connection: Any, settlements: Settlements) -> AbstractSet[str]:
        return await self._transactional.settle_in(connection, settlements)

    def settle_in_sync(self, connection: Any, settlements: Settlements) -> AbstractSet[str]:
        return self._transactional.settle_in_sync(connection, settlements)

    async def schema_version(self) -> int:
        return await self._migrates.schema_version()

    def migrations(self) -> Sequence[Migration]:
        return self._migrates.migrations()

    async def migrate(self) -> list[int]:
        return await self._migrates.migrate()
