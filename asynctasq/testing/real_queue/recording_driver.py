"""The driver of a RealQueue: it does what the real one does, and tells what was stored and what was reserved."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Self, cast
from weakref import WeakSet

from asynctasq.drivers.base import Capabilities, Driver, Enqueued, Notifies, ReservesReleased, Settlements
from asynctasq.drivers.loops import running_loop
from asynctasq.kernel.messages import Depth, Lease, Message
from asynctasq.testing.faults.passthrough import PassThrough

__all__ = ["RecordingDriver"]


class RecordingDriver(PassThrough, ReservesReleased, Notifies, Driver):
    """`on_stored` hears of new messages, `on_stored_in` of those in a transaction, which may be rolled back.

    `on_cancelled` hears of messages that were cancelled, and of the tokens of their leases.
    `on_skipped` hears of what is not stored because of its unique key.
    """

    capabilities: Capabilities

    def __init__(self, inner: Driver) -> None:
        self.inner = inner
        self.capabilities = inner.capabilities
        self.loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
        """Those in which the driver may have connections."""
        self.on_stored: Callable[[Sequence[Message]], None] = _ignore
        self.on_stored_in: Callable[[Sequence[Message]], None] = _ignore
        self.on_cancelled: Callable[[Mapping[str, str]], None] = _ignore
        self.on_skipped: Callable[[Sequence[Message]], None] = _ignore
        self.on_reserved: Callable[[Sequence[Lease]], None] = _ignore

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        raise NotImplementedError(f"a RecordingDriver wraps another driver; it is not made from {url!r} and {options}")

    def __str__(self) -> str:
        return str(self.inner)

    @property
    def clock_offset(self) -> float:
        return self.inner.clock_offset

    @clock_offset.setter
    def clock_offset(self, seconds: float) -> None:  # pyright: ignore[reportIncompatibleVariableOverride] - inner's own
        self.inner.clock_offset = seconds

    @property
    def holder(self) -> str:
        return self.inner.holder

    @holder.setter
    def holder(self, name: str) -> None:  # pyright: ignore[reportIncompatibleVariableOverride] - inner's own
        self.inner.holder = name

    def _used(self) -> Driver:
        loop = running_loop()
        if loop is not None:
            self.loops.add(loop)
        return self.inner

    def _checked(self, name: str, *, kept: bool) -> Driver:
        self._used()
        return super()._checked(name, kept=kept)

    async def open(self) -> None:
        await self._used().open()

    async def close(self) -> None:
        await self.inner.close()

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        new = await self._used().enqueue(messages)
        self.on_stored(self._chosen(messages, new))
        return new

    async def reserve(self, queues: Sequence[str], *, limit: int, lease_s: float, wait_s: float = 0) -> list[Lease]:
        leases = await self._used().reserve(queues, limit=limit, lease_s=lease_s, wait_s=wait_s)
        self.on_reserved(leases)
        return leases

    async def reserve_released(self, leases: Sequence[Lease], *, lease_s: float) -> list[Lease]:
        kept = bool(self.capabilities.reserves_released)
        inner = cast("ReservesReleased", self._checked("ReservesReleased", kept=kept))
        granted = await inner.reserve_released(leases, lease_s=lease_s)
        self.on_reserved(granted)
        return granted

    async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
        return await self._used().extend(leases, lease_s=lease_s)

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        return await self._used().settle(settlements)

    async def turn(
        self, settlements: Settlements, queues: Sequence[str], *, limit: int, lease_s: float
    ) -> tuple[AbstractSet[str], list[Lease]]:
        lost, leases = await self._used().turn(settlements, queues, limit=limit, lease_s=lease_s)
        self.on_reserved(leases)
        return lost, leases

    async def depth(self, queue: str) -> Depth:
        return await self._used().depth(queue)

    async def redrive(self, queue: str, *, limit: int) -> int:
        return await self._used().redrive(queue, limit=limit)

    async def wait_visible(self, queues: Sequence[str], *, wait_s: float) -> bool:
        return await cast("Notifies", self._used()).wait_visible(queues, wait_s=wait_s)

    async def cancel_running(self, message_ids: Sequence[str]) -> Mapping[str, str]:
        tokens = await super().cancel_running(message_ids)
        self.on_cancelled(tokens)
        return tokens

    async def enqueue_in(self, connection: Any, messages: Sequence[Message]) -> list[str]:
        new = await super().enqueue_in(connection, messages)
        self.on_stored_in(self._chosen(messages, new))
        return new

    def enqueue_in_sync(self, connection: Any, messages: Sequence[Message]) -> list[str]:
        new = super().enqueue_in_sync(connection, messages)
        self.on_stored_in(self._chosen(messages, new))
        return new

    def _chosen(self, messages: Sequence[Message], new: Sequence[str]) -> list[Message]:
        """Return the messages that are new; of equal ones the first, which is what a driver stores."""
        if isinstance(new, Enqueued) and new.holders:
            self.on_skipped([message for message in messages if message.id in new.holders])
        found = {message.id: message for message in reversed(messages)}
        return [found[message_id] for message_id in new]


def _ignore(_: object) -> None:
    """Hear of nothing."""
