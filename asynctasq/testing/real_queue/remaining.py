"""What is still to be done in a store, asked of its driver."""

from collections.abc import Collection, Iterable, Sequence
from typing import cast

from asynctasq.drivers.base import Driver, Inspectable
from asynctasq.kernel.limits import is_queue_of_limits
from asynctasq.kernel.messages import State, StoredMessage

__all__ = ["Remaining"]


class Remaining:
    """Questions to a driver; where it can't list its messages the answers are what its counts say."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    @property
    def _inspects(self) -> Inspectable | None:
        return cast("Inspectable", self._driver) if self._driver.capabilities.inspects else None

    async def queues(self, known: Iterable[str]) -> list[str]:
        """Return the known queues in their order, then the others that hold messages."""
        found = dict.fromkeys(known)
        if self._inspects is not None:
            stored = await self._inspects.queues()
            found |= dict.fromkeys(queue for queue in stored if not is_queue_of_limits(queue))
        return list(found)

    async def any_visible(self, queues: Sequence[str], *, known: Collection[str]) -> bool:
        """Say whether a worker would find something in one of them; `known` are those that were just found empty."""
        if self._inspects is None:
            return any(queue not in known for queue in queues)
        for queue in queues:
            if (await self._inspects.list_messages(queue, state=State.READY, limit=1)).messages:
                return True
        return False

    async def next_due(self, queues: Sequence[str]) -> float | None:
        """Return when the next message becomes visible: delayed, retried, or its lease runs out; None if none does."""
        instants = [
            message.visible_at
            for queue in queues
            for state in (State.SCHEDULED, State.RESERVED)
            for message in await self._listed(queue, state)
        ]
        return min(instants, default=None)

    async def unfinished(self, queues: Sequence[str]) -> dict[str, int]:
        """Return how many messages are left in each queue that are no dead letters."""
        left: dict[str, int] = {}
        for queue in queues:
            depth = await self._driver.depth(queue)
            if count := depth.ready + depth.scheduled + depth.reserved:
                left[queue] = count
        return left

    async def existing(self, message_ids: Sequence[str]) -> list[str]:
        """Return those that are stored."""
        return [message_id for message_id in message_ids if await self._find(message_id) is not None]

    async def waiting(self, message_ids: Sequence[str]) -> list[str]:
        """Return those that are stored and no dead letters."""
        found = [(message_id, await self._find(message_id)) for message_id in message_ids]
        return [message_id for message_id, stored in found if stored is not None and stored.state is not State.DEAD]

    async def _find(self, message_id: str) -> StoredMessage | None:
        return await cast("Inspectable", self._driver).find(message_id)

    async def _listed(self, queue: str, state: State) -> list[StoredMessage]:
        if self._inspects is None:
            return []
        found: list[StoredMessage] = []
        cursor: str | None = None
        while True:
            page = await self._inspects.list_messages(queue, state=state, limit=1000, cursor=cursor)
            found += page.messages
            cursor = page.cursor
            if cursor is None:
                return found
