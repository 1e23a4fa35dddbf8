"""The driver of one simulated worker: its reserves wait while the gate is closed, its calls hang once it is killed."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any, Self, cast

from asynctasq.drivers.base import (
    YES,
    CancelsRunning,
    Capabilities,
    Driver,
    Inspectable,
    KeepsResults,
    Notifies,
    Page,
    ReportsProgress,
    ReservesReleased,
    Settlements,
    Transactional,
)
from asynctasq.errors import DriverUnavailable
from asynctasq.kernel.limits import is_queue_of_limits, runs_no_task
from asynctasq.kernel.messages import Depth, Lease, Message, Progress, State, StoredMessage
from asynctasq.testing.engine.process import SimulatedProcess
from asynctasq.testing.engine.store import FakeStore
from asynctasq.testing.transactions import Change, Transactions
from asynctasq.testing.transactions.watches import Watch

__all__ = ["ReserveGate", "WorkerDriver", "current_worker_driver"]


class ReserveGate:
    """Whether workers may reserve messages now, and how many more (`quota` None: any number)."""

    def __init__(self) -> None:
        self.is_open = False
        self.quota: int | None = None
        self._opened = asyncio.Event()

    def set_open(self, *, is_open: bool) -> None:
        """Open or close the gate."""
        self.is_open = is_open
        self._update_opened()

    def grant(self, wanted: int) -> int:
        """Return how many of `wanted` messages may be reserved, and count them."""
        if not self.is_open:
            return 0
        if self.quota is None:
            return wanted
        granted = min(wanted, self.quota)
        self.quota -= granted
        self._update_opened()
        return granted

    def return_unused(self, count: int) -> None:
        """Uncount what was granted but not reserved."""
        if self.quota is not None:
            self.quota += count
            self._update_opened()

    def _update_opened(self) -> None:
        # A worker that may reserve nothing must not wait for one that is visible: it would wake again and again.
        if self.is_open and self.quota != 0:
            self._opened.set()
        else:
            self._opened.clear()

    async def wait_open(self) -> None:
        """Wait until it is open and something may be reserved."""
        await self._opened.wait()


class WorkerDriver(
    Driver, Inspectable, KeepsResults, CancelsRunning, Notifies, ReportsProgress, ReservesReleased, Transactional
):
    """The driver as one worker sees it. `inner` is the store, or a faulty driver around it.

    What is stored or settled "in" a connection is so when the transaction of that connection commits.

    With `queues` None the worker serves every queue there is, in order of their first message.
    """

    def __init__(
        self,
        store: FakeStore,
        inner: Driver,
        gate: ReserveGate,
        transactions: Transactions,
        *,
        worker: str,
        all_queues: bool,
        stands_for: Driver | None = None,
    ) -> None:
        """Claim the transactions of the driver that this one stands for; None stands for any."""
        self.worker = worker
        self._transactional = YES if stands_for is None else stands_for.capabilities.transactional
        self.capabilities: Capabilities = replace(inner.capabilities, transactional=self._transactional)
        self.clock_offset = 0.0
        self._transactions = transactions
        self._stands_for = stands_for
        self._store = store
        self._inner = inner
        self._gate = gate
        self._all_queues = all_queues
        self._killed: asyncio.Future[None] | None = None
        self.process = SimulatedProcess()
        self.on_settled: Callable[[Settlements, AbstractSet[str]], None] = _ignore_settled
        """Is told what was settled by the commit of a task's own transaction, which is no call of the driver."""

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        raise NotImplementedError(f"a worker's driver is made by a simulation, not from {url!r} and {options}")

    def __str__(self) -> str:
        return "simulated queue" if self._transactional else str(self._stands_for)

    def kill(self) -> None:
        """Let nothing of this worker reach the store any more, and no code of it run again."""
        self._killed = asyncio.get_running_loop().create_future()
        self._transactions.drop(self)
        self.process.kill()

    @property
    def is_killed(self) -> bool:
        """Whether the worker was killed."""
        return self._killed is not None

    async def _block_if_killed(self) -> None:
        if self._killed is not None:
            await asyncio.shield(self._killed)

    async def open(self) -> None:
        await self._inner.open()

    async def close(self) -> None:
        """Do nothing: the store outlives its workers."""

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        await self._block_if_killed()
        if not self._store.has_own_messages and any(runs_no_task(message.id) for message in messages):
            self._store.has_own_messages = True
        return await self._inner.enqueue(messages)

    async def reserve(self, queues: Sequence[str], *, limit: int, lease_s: float, wait_s: float = 0) -> list[Lease]:
        if not _are_of_limits(queues):  # a token is taken by an attempt that has been let through
            await self._gate.wait_open()
        await self._block_if_killed()
        return await self._inner.reserve(self._queues(queues), limit=limit, lease_s=lease_s, wait_s=wait_s)

    async def reserve_released(self, leases: Sequence[Lease], *, lease_s: float) -> list[Lease]:
        await self._block_if_killed()
        return await cast("ReservesReleased", self._inner).reserve_released(leases, lease_s=lease_s)

    async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
        await self._block_if_killed()
        self._transactions.refuse_settling(lease.message_id for lease in leases)
        return await self._inner.extend(leases, lease_s=lease_s)

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        await self._block_if_killed()
        return await self._inner.settle(settlements)

    async def enqueue_in(self, connection: Any, messages: Sequence[Message]) -> list[str]:
        await self._block_if_killed()
        return await self.enqueue_on(await self._transactions.begin(connection, self._stands_for), messages)

    async def enqueue_on(self, watch: Watch, messages: Sequence[Message]) -> list[str]:
        """Do `enqueue` when the transaction commits that `watch` follows."""
        await self._block_if_killed()
        with self._store.deferring(partial(self._defer, watch)):
            return await self._inner.enqueue(messages)

    def enqueue_in_sync(self, connection: Any, messages: Sequence[Message]) -> list[str]:
        return self.enqueue_on_sync(self._transactions.begin_sync(connection, self._stands_for), messages)

    def enqueue_on_sync(self, watch: Watch, messages: Sequence[Message]) -> list[str]:
        """Do `enqueue_on` from synchronous code."""
        self._raise_if_killed()
        with self._store.deferring(partial(self._defer, watch)):
            return self._store.enqueue_now(messages)

    async def settle_in(self, connection: Any, settlements: Settlements) -> AbstractSet[str]:
        await self._block_if_killed()
        watch = await self._transactions.begin(connection, self._stands_for)
        with self._store.deferring(partial(self._defer, watch)):
            return await self._inner.settle(settlements)

    def settle_in_sync(self, connection: Any, settlements: Settlements) -> AbstractSet[str]:
        self._raise_if_killed()
        watch = self._transactions.begin_sync(connection, self._stands_for)
        with self._store.deferring(partial(self._defer, watch)):
            return self._store.settle_now(settlements)

    def _defer(self, watch: Watch, change: Change) -> None:
        """Let a change of this worker's wait for the commit."""
        change.owner, change.on_settled = self, self.on_settled
        self._transactions.add(watch, change)

    def _raise_if_killed(self) -> None:
        if self._killed is not None:
            raise DriverUnavailable("this simulated worker has crashed; nothing of it reaches the queue")

    async def turn(
        self, settlements: Settlements, queues: Sequence[str], *, limit: int, lease_s: float
    ) -> tuple[AbstractSet[str], list[Lease]]:
        if self._killed is not None:
            await self._block_if_killed()
        self._transactions.refresh()
        granted, taken = self._gate.grant(limit), 0
        try:
            lost, leases = await self._inner.turn(settlements, self._queues(queues), limit=granted, lease_s=lease_s)
            taken = len(leases)
        finally:
            self._gate.return_unused(granted - taken)
        return lost, leases

    async def wait_visible(self, queues: Sequence[str], *, wait_s: float) -> bool:
        await self._gate.wait_open()
        await self._block_if_killed()
        names = [queue for queue in queues if is_queue_of_limits(queue)] if self._all_queues else queues
        return await cast("Notifies", self._inner).wait_visible(names, wait_s=wait_s)

    async def report_progress(self, reports: Sequence[tuple[Lease, Progress]]) -> None:
        await self._block_if_killed()
        await cast("ReportsProgress", self._inner).report_progress(reports)

    async def fetch_result(self, message_id: str) -> bytes | None:
        await self._block_if_killed()
        return await cast("KeepsResults", self._inner).fetch_result(message_id)

    async def wait_result(self, message_id: str, *, wait_s: float) -> bool:
        await self._block_if_killed()
        return await cast("KeepsResults", self._inner).wait_result(message_id, wait_s=wait_s)

    async def cancel_running(self, message_ids: Sequence[str]) -> Mapping[str, str]:
        await self._block_if_killed()
        self._transactions.refuse_settling(message_ids)
        return await cast("CancelsRunning", self._inner).cancel_running(message_ids)

    async def wait_cancelled(self, *, wait_s: float) -> bool:
        return await cast("CancelsRunning", self._inner).wait_cancelled(wait_s=wait_s)

    async def queues(self) -> list[str]:
        return await (await self._inspected()).queues()

    async def find(self, message_id: str) -> StoredMessage | None:
        return await (await self._inspected()).find(message_id)

    async def list_messages(
        self, queue: str, *, state: State | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        return await (await self._inspected()).list_messages(queue, state=state, limit=limit, cursor=cursor)

    async def cancel(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return await (await self._inspected()).cancel(message_ids)

    async def discard(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return await (await self._inspected()).discard(message_ids)

    async def redrive_ids(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return await (await self._inspected()).redrive_ids(message_ids)

    async def purge(self, queue: str) -> int:
        return await (await self._inspected()).purge(queue)

    async def _inspected(self) -> Inspectable:
        await self._block_if_killed()
        return cast("Inspectable", self._inner)

    async def depth(self, queue: str) -> Depth:
        return await self._inner.depth(queue)

    async def redrive(self, queue: str, *, limit: int) -> int:
        return await self._inner.redrive(queue, limit=limit)

    def _queues(self, queues: Sequence[str]) -> Sequence[str]:
        return self._store.queue_names() if self._all_queues and not _are_of_limits(queues) else queues


def _are_of_limits(queues: Sequence[str]) -> bool:
    return bool(queues) and is_queue_of_limits(queues[0])


def _ignore_settled(settlements: Settlements, lost: AbstractSet[str]) -> None:
    del settlements, lost


current_worker_driver: ContextVar[WorkerDriver | None] = ContextVar("asynctasq_worker_driver", default=None)
"""The driver of the simulated worker that the current code runs in; None outside of workers."""
