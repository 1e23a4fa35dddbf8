"""What a wrapped driver offers beside the contract, handed on untouched: operators are not what faults are about."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, cast

from asynctasq.drivers.base import (
    Driver,
    Inspectable,
    KeepsResults,
    Migratable,
    Migration,
    Page,
    Settlements,
    Transactional,
)
from asynctasq.kernel.messages import Message, State, StoredMessage

__all__ = ["PassThrough"]


class PassThrough(Inspectable, KeepsResults, Transactional, Migratable):
    """Every optional protocol; `capabilities`, the inner driver's, says which of them it keeps."""

    inner: Driver

    async def queues(self) -> list[str]:
        return await cast("Inspectable", self.inner).queues()

    async def find(self, message_id: str) -> StoredMessage | None:
        return await cast("Inspectable", self.inner).find(message_id)

    async def list_messages(
        self, queue: str, *, state: State | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        return await cast("Inspectable", self.inner).list_messages(queue, state=state, limit=limit, cursor=cursor)

    async def cancel(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return await cast("Inspectable", self.inner).cancel(message_ids)

    async def discard(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return await cast("Inspectable", self.inner).discard(message_ids)

    async def purge(self, queue: str) -> int:
        return await cast("Inspectable", self.inner).purge(queue)

    async def fetch_result(self, message_id: str) -> bytes | None:
        return await cast("KeepsResults", self.inner).fetch_result(message_id)

    async def enqueue_in(self, connection: Any, messages: Sequence[Message]) -> list[str]:
        return await cast("Transactional", self.inner).enqueue_in(connection, messages)

    def enqueue_in_sync(self, connection: Any, messages: Sequence[Message]) -> list[str]:
        return cast("Transactional", self.inner).enqueue_in_sync(connection, messages)

    async def settle_in(self, connection: Any, settlements: Settlements) -> AbstractSet[str]:
        return await cast("Transactional", self.inner).settle_in(connection, settlements)

    async def schema_version(self) -> int:
        return await cast("Migratable", self.inner).schema_version()

    def migrations(self) -> Sequence[Migration]:
        return cast("Migratable", self.inner).migrations()

    async def migrate(self) -> list[int]:
        return await cast("Migratable", self.inner).migrate()
