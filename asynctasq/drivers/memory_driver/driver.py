"""The driver contract in its most readable form: a dict, a heap per queue, and a clock that is given.

Nothing leaves the process. It is the reference that every other driver is compared with, and what
simulations run on; correctness here is read, not optimised.
"""

import asyncio
import heapq
import threading
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Self

from asynctasq.clock import Clock, SystemClock
from asynctasq.drivers.base import NO, YES, Capabilities, Driver, Page, Settlements
from asynctasq.drivers.batches import has_keys
from asynctasq.drivers.checks import check_fair, check_queue_names, check_unique
from asynctasq.drivers.levels import LevelTurns, all_lines_of, is_by_rank
from asynctasq.drivers.memory_driver.ranks import Ranks
from asynctasq.drivers.memory_driver.results import EndWaits, KeptResults, cancels_of
from asynctasq.drivers.memory_driver.row import MemoryRow, depth_of, page_of
from asynctasq.drivers.memory_driver.unique import UniqueKeys
from asynctasq.drivers.memory_driver.waiter import Waiter
from asynctasq.drivers.retention import DEAD_MAX, DEAD_TTL_S, RETENTION_OPTIONS, Retention
from asynctasq.drivers.urls import read_options, split_options
from asynctasq.errors import BodyTooLarge
from asynctasq.kernel.messages import (
    CANCELLED_TTL_S,
    MICROSECONDS,
    Bury,
    Complete,
    Depth,
    Lease,
    Message,
    Progress,
    Release,
    Settlement,
    State,
    StoredMessage,
    cancelled_mark,
    check_queue_name,
    microseconds,
)
from asynctasq.kernel.priority import check_priority

__all__ = ["MemoryDriver"]

NEVER = float("inf")
HALF_A_MICROSECOND_S = 0.5 / MICROSECONDS
"""A rest of a wait that is shorter comes from adding floats: instants here are whole microseconds."""


class MemoryDriver(Driver):
    """Keep messages in this process's memory; they end with it.

    `clock` is where now comes from; a virtual clock makes years pass in milliseconds.
    """

    capabilities = Capabilities(
        durable=NO,
        cross_process=NO,
        ordered=YES,
        wakes_waiting=YES,
        inspects=YES,
        keeps_results=YES,
        reports_progress=YES,
        cancels_running=YES,
        unique=YES,
        reserves_released=YES,
        priorities=YES,
        fair=YES,
    )

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        clock_offset: float = 0.0,
        body_bytes_max: int | None = None,
        dead_ttl: float = DEAD_TTL_S,
        dead_max: int = DEAD_MAX,
    ) -> None:
        self._retention = Retention(dead_ttl, dead_max)
        self.capabilities = replace(type(self).capabilities, dead_ttl=dead_ttl, dead_max=dead_max)
        self.clock_offset = clock_offset
        self._clock = clock or SystemClock()
        self._body_bytes_max = body_bytes_max
        self._lock = threading.Lock()
        self._rows: dict[str, MemoryRow] = {}
        self._keys = UniqueKeys(self._rows)
        self._ranks = Ranks(self._rows)
        self._due: dict[str, list[tuple[int, int, str]]] = {}
        self._levels = LevelTurns()
        self._dead: dict[str, dict[str, None]] = {}
        self._results = KeptResults()
        self._end_waits = EndWaits(self._lock)
        self._arrivals = 0
        self._tokens = 0
        self._waiters: dict[Waiter, None] = {}

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        _, in_url = split_options(url)
        known: dict[str, type] = {"clock": Clock, "clock_offset": float, "body_bytes_max": int, **RETENTION_OPTIONS}
        return cls(**read_options("memory driver", {**in_url, **options}, known))

    def __str__(self) -> str:
        return "memory (this process only)"

    async def open(self) -> None:
        """Do nothing: there is nothing to connect to."""

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        with self._lock:
            for waiter in self._waiters:
                if waiter.loop is loop:
                    waiter.close()
            self._end_waits.close(loop)

    # -- storing ---------------------------------------------------------------------------------

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        self._check(messages)
        with self._lock:
            return self._store(messages)

    def _check(self, messages: Iterable[Message]) -> None:
        for message in messages:
            check_queue_name(message.queue)
            check_priority(message.priority)
            size, limit = len(message.body), self._body_bytes_max
            if limit is not None and size > limit:
                raise BodyTooLarge(f"message {message.id} has {size} bytes; this driver takes {limit}")
            if message.unique is not None:
                check_unique(message.unique)
            if message.fair_key:
                check_fair(message, fair=True)

    def _store(self, messages: Sequence[Message], *, may_raise: bool = True) -> list[str]:
        now = self._now()
        if not has_keys(messages):
            return [message.id for message in messages if self._store_one(message, now)]
        plan = self._keys.plan(messages, now, may_raise=may_raise)
        for message, replaced in plan.order:
            self._remove_now(plan.removed.intersection(replaced), {State.SCHEDULED, State.READY}, now)
            for message_id in self._rows.keys() & replaced:  # those that this batch has stored
                del self._rows[message_id]
            self._store_one(message, now)
            self._keys.hold(self._rows[message.id], now)
        return plan.enqueued(messages)

    def _store_one(self, message: Message, now: int) -> bool:
        if message.id in self._rows:
            return False
        self._arrivals += 1
        row = self._rows[message.id] = MemoryRow(message, self._arrivals, now)
        if is_by_rank(row.line):
            self._ranks.rank(row)
        self._place(row, now + microseconds(message.delay_s))
        return True

    # -- reserving -------------------------------------------------------------------------------

    async def reserve(self, queues: Sequence[str], *, limit: int, lease_s: float, wait_s: float = 0) -> list[Lease]:
        check_queue_names(queues)
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            leases = self._reserve_now(queues, limit, lease_s)
            remaining = deadline - asyncio.get_running_loop().time()
            if leases or not limit or not await self._until_visible(frozenset(queues), remaining):
                return leases

    def _reserve_now(self, queues: Sequence[str], limit: int, lease_s: float) -> list[Lease]:
        leases: list[Lease] = []
        with self._lock:
            now = self._now()
            self._prune(now)
            until = now + microseconds(lease_s)
            for line in self._levels.all_lines(queues):
                while line in self._due and len(leases) < limit and (row := self._first_visible(line, now)):
                    leases.append(self._grant(row, now, until))
            self._levels.note(leases)
        return leases

    async def reserve_released(self, leases: Sequence[Lease], *, lease_s: float) -> list[Lease]:
        with self._lock:
            now, granted = self._now(), list[Lease]()
            for lease in leases:
                row = self._rows.get(lease.message_id)
                if row is not None and self._was_released(row, lease):
                    granted.append(self._grant(row, now, now + microseconds(lease_s)))
            return granted

    def _was_released(self, row: MemoryRow, lease: Lease) -> bool:
        return not row.leased and row.reason is None and str(row.token) == lease.token

    def _first_visible(self, line: str, now: int) -> MemoryRow | None:
        """Return the first row of the line if it is visible."""
        row = self._first_in(line)
        return row if row is not None and row.is_visible(now) else None

    def _first_in(self, line: str) -> MemoryRow | None:
        """Return the first row of the line; drop heap entries that are out of date."""
        heap = self._due[line]
        while heap:
            place, arrival, message_id = heap[0]
            row = self._rows.get(message_id)
            if row is not None and row.arrival == arrival and self._is_current(row, place):
                return row
            heapq.heappop(heap)
        return None

    def _is_current(self, row: MemoryRow, place: int) -> bool:
        """Say whether a heap entry of this row has its present place."""
        return row.reason is None and (row.rank or row.visible_us) == place

    def _grant(self, row: MemoryRow, now: int, until: int) -> Lease:
        row.reserved_us, row.reserved_by, row.progress = now, self.holder, None
        return self._lease(row, until)

    def _lease(self, row: MemoryRow, until: int) -> Lease:
        if row.leased:
            row.crashes += 1
        row.leased = True
        self._tokens += 1  # never the same twice, not even for an id that comes again after it was completed
        row.token, row.rank = self._tokens, 0
        self._place(row, until)
        return Lease(
            message_id=row.message.id,
            queue=row.message.queue,
            body=row.message.body,
            token=str(row.token),
            attempt=row.attempts + 1,
            crashes=row.crashes,
            enqueued_at=row.enqueued_us / MICROSECONDS,
            expires_at=until / MICROSECONDS,
        )

    async def wait_visible(self, queues: Sequence[str], *, wait_s: float) -> bool:
        with self._lock:
            self._prune(self._now())
        return await self._until_visible(frozenset(queues), wait_s)

    async def _until_visible(self, queues: AbstractSet[str], wait_s: float) -> bool:
        """Return True once something is visible; False after `wait_s`, or once closed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            with self._lock:
                now, due_us = self._now(), self._first_due(queues)
                if due_us <= now or deadline - loop.time() < HALF_A_MICROSECOND_S:
                    return due_us <= now
                self._waiters[waiter := Waiter(queues, loop, due_us)] = None
            try:
                if not await waiter.wait((due_us - now) / MICROSECONDS, deadline=deadline):
                    return False
            finally:
                with self._lock:
                    del self._waiters[waiter]

    def _first_due(self, queues: Iterable[str]) -> float:
        """Return the instant at which the first message of these queues becomes, or became, visible; inf if none."""
        first = NEVER
        for line in (line for queue in queues for line in all_lines_of(queue) if line in self._due):
            row = self._first_in(line)
            if row is not None and row.visible_us < first:
                first = row.visible_us
        return first

    # -- settling --------------------------------------------------------------------------------

    async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
        with self._lock:
            until = self._now() + microseconds(lease_s)
            lost: set[str] = set()
            for lease in leases:
                row = self._held(lease)
                if row is None:
                    lost.add(lease.message_id)
                else:
                    self._place(row, until)
            return lost

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        for _, settlement in settlements:
            self._check(settlement.follow_ups)
        with self._lock:
            return self._settle_now(settlements)

    async def turn(
        self, settlements: Settlements, queues: Sequence[str], *, limit: int, lease_s: float
    ) -> tuple[AbstractSet[str], list[Lease]]:
        lost = await self.settle(settlements) if settlements else frozenset[str]()
        return lost, self._reserve_now(queues, limit, lease_s) if limit else []

    def _settle_now(self, settlements: Settlements) -> set[str]:
        lost: set[str] = set()
        for lease, settlement in settlements:
            row = self._held(lease)
            if row is None:
                lost.add(lease.message_id)
            else:
                self._end(row, settlement)
                if settlement.follow_ups:
                    self._follow(settlement.follow_ups)
                if self._end_waits.by_id and not isinstance(settlement, Release):
                    self._end_waits.wake([lease.message_id])
        return lost

    def _follow(self, messages: Sequence[Message]) -> None:
        self._store(messages, may_raise=False)

    def _held(self, lease: Lease) -> MemoryRow | None:
        row = self._rows.get(lease.message_id)
        return row if row is not None and row.leased and str(row.token) == lease.token else None

    def _end(self, row: MemoryRow, settlement: Settlement) -> None:
        now = self._now()
        row.leased = False
        match settlement:
            case Complete():
                del self._rows[row.message.id]
                if settlement.result is not None:
                    expiry = now + microseconds(settlement.result_ttl_s)
                    self._results.keep(row.message.id, settlement.result, expiry=expiry)
            case Release():
                row.attempts += settlement.counted
                row.crashes += settlement.crashed
                row.error = settlement.error or row.error
                self._place(row, now + microseconds(settlement.delay_s))
            case Bury():
                row.attempts += settlement.counted
                row.crashes += settlement.crashed
                row.reason, row.error = settlement.reason, settlement.error
                row.visible_us = now
                self._dead.setdefault(row.message.queue, {})[row.message.id] = None

    # -- inspecting ---------------------------------------------------------------------------------

    async def depth(self, queue: str) -> Depth:
        check_queue_name(queue)
        with self._lock:
            rows = [row for row in self._rows.values() if row.message.queue == queue]
            return depth_of(rows, self._now())

    async def redrive(self, queue: str, *, limit: int) -> int:
        check_queue_name(queue)
        with self._lock:
            return len(self._redrive_now(list(self._dead.get(queue, ()))[:limit]))

    async def redrive_ids(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        with self._lock:
            return self._redrive_now(message_ids)

    def _redrive_now(self, message_ids: Iterable[str]) -> set[str]:
        """Make those that are dead letters ready; return their ids."""
        redriven, now = set[str](), self._now()
        for message_id in message_ids:
            row = self._rows.get(message_id)
            if row is None or row.reason is None:
                continue
            del self._dead[row.message.queue][message_id]
            row.attempts = row.crashes = 0
            row.reason = row.error = None
            row.redriven = True
            row.enqueued_us = now
            self._place(row, now)
            redriven.add(message_id)
        return redriven

    async def queues(self) -> list[str]:
        with self._lock:
            return sorted({row.message.queue for row in self._rows.values()})

    async def find(self, message_id: str) -> StoredMessage | None:
        with self._lock:
            row = self._rows.get(message_id)
            return row.stored(self._now()) if row else None

    async def list_messages(
        self, queue: str, *, state: State | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        with self._lock:
            rows = [row for row in self._rows.values() if row.message.queue == queue]
            return page_of(rows, self._now(), state=state, limit=limit, after=int(cursor) if cursor else 0)

    async def cancel(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return self._remove(message_ids, {State.SCHEDULED, State.READY})

    async def cancel_running(self, message_ids: Sequence[str]) -> Mapping[str, str]:
        return self._cancel_running(message_ids)

    def _cancel_running(self, message_ids: Sequence[str]) -> dict[str, str]:
        with self._lock:
            expiry = self._now() + microseconds(CANCELLED_TTL_S)
            cancelled: dict[str, str] = {}
            for message_id in message_ids:
                row = self._rows.get(message_id)
                if row is None or row.reason is not None:
                    continue
                del self._rows[message_id]
                cancelled[message_id] = token = str(row.token) if row.leased else ""
                self._results.keep(message_id, cancelled_mark(token), expiry=expiry)
                self._end_waits.wake([message_id, *([cancels_of(row.reserved_by)] if row.leased else [])])
            return cancelled

    async def wait_cancelled(self, *, wait_s: float) -> bool:
        return await self._wait_cancelled(self.holder, wait_s)

    async def _wait_cancelled(self, holder: str, wait_s: float) -> bool:
        with self._lock:
            wait = self._end_waits.add(cancels_of(holder))
        return await self._end_waits.wait(wait, wait_s)

    async def discard(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return self._remove(message_ids, {State.DEAD})

    async def purge(self, queue: str) -> int:
        with self._lock:
            ids = [row.message.id for row in self._rows.values() if row.message.queue == queue]
        return len(self._remove(ids, {State.SCHEDULED, State.READY}))

    async def fetch_result(self, message_id: str) -> bytes | None:
        with self._lock:
            return self._results.fetch(message_id, self._now())

    async def wait_result(self, message_id: str, *, wait_s: float) -> bool:
        with self._lock:
            row = self._rows.get(message_id)
            if row is None or row.reason is not None:
                return True
            wait = self._end_waits.add(message_id)
        return await self._end_waits.wait(wait, wait_s)

    async def report_progress(self, reports: Sequence[tuple[Lease, Progress]]) -> None:
        with self._lock:
            for lease, progress in reports:
                row = self._held(lease)
                if row is not None:
                    row.progress = progress

    def _remove(self, message_ids: Sequence[str], states: AbstractSet[State]) -> set[str]:
        with self._lock:
            return self._remove_now(message_ids, states, self._now())

    def _remove_now(self, message_ids: Iterable[str], states: AbstractSet[State], now: int) -> set[str]:
        removed: set[str] = set()
        for message_id in message_ids:
            row = self._rows.get(message_id)
            if row is not None and row.state(now) in states:
                del self._rows[message_id]
                self._dead.get(row.message.queue, {}).pop(message_id, None)
                removed.add(message_id)
        self._end_waits.wake(removed)
        return removed

    def _prune(self, now: int) -> None:
        """Remove expired results, and dead letters that are too old or too many; the oldest death is the first."""
        if not self._results.expiries and not self._dead:
            return
        self._results.prune(now)
        until = now - self._retention.dead_ttl_us
        for dead in self._dead.values():
            while dead:
                message_id = next(iter(dead))
                row = self._rows.get(message_id)
                if row is not None and row.visible_us > until and len(dead) <= self._retention.dead_max:
                    break
                del dead[message_id]
                self._rows.pop(message_id, None)

    def _place(self, row: MemoryRow, visible_us: int) -> None:
        """Make a row visible from an instant on, and put it into the heap of its queue."""
        was_us, row.visible_us = row.visible_us, visible_us
        heapq.heappush(self._due.setdefault(row.line, []), (row.rank or visible_us, row.arrival, row.message.id))
        if self._waiters:
            self._reschedule_waiters(row, was_us)

    def _reschedule_waiters(self, row: MemoryRow, was_us: int) -> None:
        """Let the calls that wait for this row, or for a later one, wait for the row that is first now."""
        for waiter in self._waiters:
            if (row.visible_us < waiter.due_us or was_us == waiter.due_us) and row.message.queue in waiter.queues:
                waiter.due_us = self._first_due(waiter.queues)
                waiter.wake_in(max(0, waiter.due_us - self._now()) / MICROSECONDS)

    def _now(self) -> int:
        return round((self._clock.now() + self.clock_offset) * MICROSECONDS)
