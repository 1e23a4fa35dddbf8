"""One worker's line to the store of a simulation: it can be shut while nothing is asked to run, and cut for good."""

import asyncio
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Self, cast

from asynctasq.drivers.base import YES, Capabilities, Driver, Notifies, Settlements, Transactional
from asynctasq.errors import DriverUnavailable
from asynctasq.kernel.messages import Depth, Lease, Message
from asynctasq.testing.engine.fence import Fence
from asynctasq.testing.engine.store import FakeStore

__all__ = ["Gate", "WorkerLink", "link_of_this_worker"]


class Gate:
    """Whether workers may take messages now, and how many more (`quota` None: any number)."""

    def __init__(self) -> None:
        self.open = False
        self.quota: int | None = None
        self._opened = asyncio.Event()

    def set(self, *, open_: bool) -> None:
        """Open or shut it."""
        self.open = open_
        self._let_pass()

    def grant(self, wanted: int) -> int:
        """Return how many of `wanted` messages may be taken, and count them."""
        if not self.open:
            return 0
        if self.quota is None:
            return wanted
        granted = min(wanted, self.quota)
        self.quota -= granted
        self._let_pass()
        return granted

    def give_back(self, count: int) -> None:
        """Uncount what was granted but not taken."""
        if self.quota is not None:
            self.quota += count
            self._let_pass()

    def _let_pass(self) -> None:
        # A worker that may take nothing must not wait for what is visible already: it would find it again and again.
        if self.open and self.quota != 0:
            self._opened.set()
        else:
            self._opened.clear()

    async def passed(self) -> None:
        """Wait until it is open and something may be taken."""
        await self._opened.wait()


class WorkerLink(Driver, Notifies, Transactional):
    """The driver as one worker sees it. `inner` is the store, or what injects faults before it.

    It takes part in no transaction: what is stored or settled "in" a connection is so at once, so that tasks
    which do it can be run without a database.

    With `queues` None the worker serves every queue there is, in order of their first message.
    """

    def __init__(self, store: FakeStore, inner: Driver, gate: Gate, *, all_queues: bool) -> None:
        self.capabilities: Capabilities = replace(inner.capabilities, transactional=YES)
        self.clock_offset = 0.0
        self._store = store
        self._inner = inner
        self._gate = gate
        self._all_queues = all_queues
        self._cut: asyncio.Future[None] | None = None
        self.fence = Fence()
        self.on_settled: Callable[[Settlements, AbstractSet[str]], None] = _tell_nobody
        """Hears what `settle_in_sync` did, which passes by what injects faults."""

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        raise NotImplementedError(f"a worker's link is made by a simulation, not from {url!r} and {options}")

    def __str__(self) -> str:
        return "simulated queue"

    def cut(self) -> None:
        """Let nothing of this worker reach the store any more, and no code of it run again."""
        self._cut = asyncio.get_running_loop().create_future()
        self.fence.kill()

    @property
    def is_cut(self) -> bool:
        """Whether the worker behind it is dead."""
        return self._cut is not None

    async def _pass(self) -> None:
        if self._cut is not None:
            await asyncio.shield(self._cut)

    async def open(self) -> None:
        await self._inner.open()

    async def close(self) -> None:
        """Do nothing: the store outlives its workers."""

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        await self._pass()
        return await self._inner.enqueue(messages)

    async def reserve(self, queues: Sequence[str], *, limit: int, lease_s: float, wait_s: float = 0) -> list[Lease]:
        await self._gate.passed()
        await self._pass()
        return await self._inner.reserve(self._queues(queues), limit=limit, lease_s=lease_s, wait_s=wait_s)

    async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
        await self._pass()
        return await self._inner.extend(leases, lease_s=lease_s)

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        await self._pass()
        return await self._inner.settle(settlements)

    async def enqueue_in(self, connection: Any, messages: Sequence[Message]) -> list[str]:  # noqa: ARG002
        return await self.enqueue(messages)

    def enqueue_in_sync(self, connection: Any, messages: Sequence[Message]) -> list[str]:  # noqa: ARG002
        return self._store.enqueue_now(messages)

    async def settle_in(self, connection: Any, settlements: Settlements) -> AbstractSet[str]:  # noqa: ARG002
        return await self.settle(settlements)

    def settle_in_sync(self, connection: Any, settlements: Settlements) -> AbstractSet[str]:  # noqa: ARG002
        if self._cut is not None:
            raise DriverUnavailable("this simulated worker has crashed; nothing of it reaches the queue")
        lost = self._store.settle_now(settlements)
        self.on_settled(settlements, lost)
        return lost

    async def turn(
        self, settlements: Settlements, queues: Sequence[str], *, limit: int, lease_s: float
    ) -> tuple[AbstractSet[str], list[Lease]]:
        if self._cut is not None:
            await self._pass()
        granted, taken = self._gate.grant(limit), 0
        try:
            lost, leases = await self._inner.turn(settlements, self._queues(queues), limit=granted, lease_s=lease_s)
            taken = len(leases)
        finally:
            self._gate.give_back(granted - taken)
        return lost, leases

    async def wait_visible(self, queues: Sequence[str], *, wait_s: float) -> bool:
        await self._gate.passed()
        await self._pass()
        return await cast("Notifies", self._inner).wait_visible(() if self._all_queues else queues, wait_s=wait_s)

    async def depth(self, queue: str) -> Depth:
        return await self._inner.depth(queue)

    async def redrive(self, queue: str, *, limit: int) -> int:
        return await self._inner.redrive(queue, limit=limit)

    def _queues(self, queues: Sequence[str]) -> Sequence[str]:
        return self._store.queue_names() if self._all_queues else queues


def _tell_nobody(settlements: Settlements, lost: AbstractSet[str]) -> None:
    del settlements, lost


link_of_this_worker: ContextVar[WorkerLink | None] = ContextVar("asynctasq_worker_link", default=None)
"""The line of the simulated worker that the current code runs in; None outside of workers."""
