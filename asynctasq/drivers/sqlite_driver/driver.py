"""The embedded default: messages in one SQLite file, shared by every process of a machine; needs no server.

One thread per event loop works on the file. The driver does nothing in the background but check for commits of other
processes while a call waits.
"""

import asyncio
import json
import os
import random
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import replace
from functools import partial as bound
from typing import Any, Self, TypeVar
from urllib.parse import unquote

from asynctasq.clock import SystemClock
from asynctasq.drivers.base import END_CHECK_S, YES, Capabilities, Driver, Page, Settlements, partial
from asynctasq.drivers.checks import check_follow_ups, check_messages, check_queue_names, is_message_id
from asynctasq.drivers.damaged import log_damaged
from asynctasq.drivers.levels import LevelTurns
from asynctasq.drivers.loops import PerLoop
from asynctasq.drivers.retention import DEAD_MAX, DEAD_TTL_S, RETENTION_OPTIONS, Retention
from asynctasq.drivers.sql.settlements import cancels_of, end_of, queues_to_wake
from asynctasq.drivers.sql.waiting import PollBackoff, Wakeups, wait_until_ended
from asynctasq.drivers.sqlite_driver import cancelling, endings, inspection, retention, statements
from asynctasq.drivers.sqlite_driver.callers_transaction import run_in, run_in_async
from asynctasq.drivers.sqlite_driver.commit_notices import notice_folder, send_notices
from asynctasq.drivers.sqlite_driver.endings import EndChecks
from asynctasq.drivers.sqlite_driver.options import absolute_path, check_limits, check_options
from asynctasq.drivers.sqlite_driver.schema import SQLiteFile, Steps, mapped_errors
from asynctasq.drivers.sqlite_driver.statements import ReserveResult
from asynctasq.drivers.sqlite_driver.thread import Operation, Session
from asynctasq.drivers.urls import read_options, split_options
from asynctasq.errors import ConfigError
from asynctasq.kernel.messages import (
    MICROSECONDS,
    Depth,
    Lease,
    Message,
    Progress,
    State,
    StoredMessage,
    check_queue_name,
)

__all__ = ["SQLiteDriver"]

T = TypeVar("T")

DEFAULT_PATH = ".asynctasq/queue.db"
BODY_BYTES_MAX = 16 * 1024 * 1024
RECHECK_S = 5.0
NEWS_CHECK_S = 1.0
"""How often a worker looks whether another process has cancelled something of it."""
NORMAL_DURABILITY = (
    "with durability=normal the last commits may be lost when the machine loses power, not when processes die"
)


class SQLiteDriver(Driver):
    """Keep messages in a SQLite file on a local disk; folder and file are made when first needed.

    durability: "full" has every commit on the disk before it is acknowledged; "normal" is faster and may lose the
    last commits, but nothing else, when the machine loses power.
    busy_timeout_s: how long to wait for another connection's write transaction.
    poll_s: how often to check for commits of other processes, only while a call waits, and ten times a second at most
    once nothing has happened for two seconds: who stores messages gives notice.
    max_page_count: limit of the file's size in pages (of 4096 bytes unless the file says otherwise).
    dead_ttl, dead_max: how many seconds dead letters stay, and how many in a queue.
    """

    capabilities = Capabilities(
        durable=YES,
        cross_process=YES,
        ordered=YES,
        wakes_waiting=YES,
        inspects=YES,
        keeps_results=YES,
        reports_progress=YES,
        cancels_running=YES,
        reserves_released=YES,
        transactional=YES,
        unique=YES,
        priorities=YES,
        fair=YES,
        body_bytes_max=BODY_BYTES_MAX,
    )

    def __init__(  # noqa: PLR0913 - the options of an address
        self,
        path: str | os.PathLike[str] = DEFAULT_PATH,
        *,
        durability: str = "full",
        clock_offset: float = 0.0,
        busy_timeout_s: float = 5.0,
        poll_s: float = 0.01,
        body_bytes_max: int | None = BODY_BYTES_MAX,
        max_page_count: int | None = None,
        dead_ttl: float = DEAD_TTL_S,
        dead_max: int = DEAD_MAX,
    ) -> None:
        check_options(durability, busy_timeout_s, poll_s)
        check_limits(body_bytes_max, max_page_count)
        self.clock_offset = clock_offset
        self._file = SQLiteFile(
            path=absolute_path(path),
            durable_commits=durability == "full",
            busy_timeout_s=busy_timeout_s,
            max_page_count=max_page_count,
        )
        self._poll_s = poll_s
        self._clock = SystemClock()
        self._wakeups = Wakeups.for_store(f"sqlite:{os.path.realpath(self._file.path)}")
        durable = YES if durability == "full" else partial(NORMAL_DURABILITY)
        self._retention = Retention(dead_ttl, dead_max)
        self.capabilities = replace(
            type(self).capabilities,
            durable=durable,
            body_bytes_max=body_bytes_max,
            dead_ttl=dead_ttl,
            dead_max=dead_max,
        )
        self._levels = LevelTurns()
        self._sessions = PerLoop(self._start_session, Session.close, Session.abandon)
        self._end_checks = EndChecks(lambda ids: self._read(lambda _: endings.living(ids)))

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        address, in_url = split_options(url)
        path = address.removeprefix("sqlite://")
        if path and not path.startswith("/"):
            raise ConfigError(
                "the SQLite address names a host; write sqlite:///relative/path.db with three slashes, "
                "or sqlite:////absolute/path.db with four"
            )
        known: dict[str, type] = {
            "durability": str,
            "clock_offset": float,
            "busy_timeout_s": float,
            "poll_s": float,
            "body_bytes_max": int,
            "max_page_count": int,
            **RETENTION_OPTIONS,
        }
        return cls(unquote(path[1:]) or DEFAULT_PATH, **read_options("SQLite driver", {**in_url, **options}, known))

    def __str__(self) -> str:
        return str(self._file)

    async def open(self) -> None:
        await self._sessions.get()

    async def close(self) -> None:
        await self._sessions.close()

    async def _start_session(self) -> Session:
        session = Session(self._file, self._wakeups, self._poll_s)
        await session.start()
        session.end_when_collected(self)
        return session

    async def _run(self, operation: Operation[T]) -> T:
        session = await self._sessions.get()
        return await session.submit(operation)

    async def _write(self, steps: Callable[[int], Steps[T]], wakes: Iterable[str] = ()) -> T:
        return await self._run(Operation(steps=steps, now_us=self._now_us, wakes=frozenset(wakes)))

    async def _read(self, steps: Callable[[int], Steps[T]]) -> T:
        return await self._run(Operation(steps=steps, now_us=self._now_us, writes=False))

    def _now_us(self) -> int:
        return round((self._clock.now() + self.clock_offset) * MICROSECONDS)

    # -- storing and reserving -------------------------------------------------------------------

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        messages = self._checked(messages)
        if not messages:
            return []
        return await self._write(lambda now_us: statements.store(messages, now_us), {each.queue for each in messages})

    def _checked(self, messages: Sequence[Message]) -> Sequence[Message]:
        check_messages(messages, body_bytes_max=self.capabilities.body_bytes_max, fair=True)
        return tuple(messages)

    async def reserve(self, queues: Sequence[str], *, limit: int, lease_s: float, wait_s: float = 0) -> list[Lease]:
        check_queue_names(queues)
        if limit <= 0:
            return []
        await self._prune(queues)
        operation = Operation(
            steps=lambda now_us: statements.reserve(
                self._levels.all_lines(queues), limit, lease_s, now_us, self.holder
            ),
            now_us=self._now_us,
            try_read=lambda now_us: statements.next_due_unless_visible(queues, now_us),
            on_cancelled=self._hand_back,
        )
        if wait_s <= 0:
            return self._leases(await self._run(operation))
        found = await self._wait(queues, wait_s, operation, lambda reserved: bool(reserved.leases))
        return self._leases(found) if found else []

    async def reserve_released(self, leases: Sequence[Lease], *, lease_s: float) -> list[Lease]:
        if not leases:
            return []
        return await self._write(lambda now_us: statements.reserve_released(leases, lease_s, now_us, self.holder))

    async def _prune(self, queues: Sequence[str]) -> bool:
        """Remove some of what has expired, if it is time to look; return whether there is more."""

        def step() -> Awaitable[bool]:
            operation = Operation(
                steps=lambda now_us: retention.prune(queues, self._retention, now_us),
                now_us=self._now_us,
                try_read=lambda now_us: retention.nothing_to_prune(queues, self._retention, now_us),
            )
            return self._run(operation)

        return await self._retention.prune(step, clock_offset=self.clock_offset)

    async def wait_visible(self, queues: Sequence[str], *, wait_s: float) -> bool:
        check_queue_names(queues)
        if await self._prune(queues):
            return True  # the caller's next reserve removes more
        operation = Operation(
            steps=lambda now_us: statements.next_due(queues, now_us), now_us=self._now_us, writes=False
        )
        return await self._wait(queues, wait_s, operation, lambda reserved: reserved.due_in_s() == 0) is not None

    async def _wait(
        self,
        queues: Sequence[str],
        wait_s: float,
        operation: Operation[ReserveResult],
        is_found: Callable[[ReserveResult], bool],
    ) -> ReserveResult | None:
        """Run the operation at every wake-up and whenever a message is due, until it finds something."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        session = await self._sessions.get()
        with session.waiting(queues) as waiter:
            while not waiter.closed:
                reserved = await session.submit(operation)
                if is_found(reserved):
                    return reserved
                log_damaged(self, reserved.damaged)
                remaining_s = deadline - loop.time()
                if remaining_s <= 0:
                    break
                due_s = reserved.due_in_s()
                await waiter.wait(min(remaining_s, RECHECK_S if due_s is None else min(due_s, RECHECK_S)))
        return None

    def _hand_back(self, reserved: ReserveResult) -> Operation[None] | None:
        if not reserved.leases:
            return None
        queues = frozenset(lease.queue for lease in reserved.leases)
        return Operation(steps=lambda now_us: statements.hand_back(reserved, now_us), now_us=self._now_us, wakes=queues)

    # -- settling --------------------------------------------------------------------------------

    async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
        if not leases:
            return frozenset()
        operation = Operation(
            steps=lambda now_us: statements.extend(leases, lease_s, now_us),
            now_us=self._now_us,
            wakes_from_result=lambda result: result[1],
        )
        lost, _ = await self._run(operation)
        return lost

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        wakes = self._check_settlements(settlements)
        if not settlements:
            return frozenset()
        return await self._write(lambda now_us: statements.settle(settlements, now_us), wakes)

    async def turn(
        self, settlements: Settlements, queues: Sequence[str], *, limit: int, lease_s: float
    ) -> tuple[AbstractSet[str], list[Lease]]:
        if not settlements:
            return frozenset(), await self.reserve(queues, limit=limit, lease_s=lease_s)
        if limit <= 0:
            return await self.settle(settlements), []
        check_queue_names(queues)
        await self._prune(queues)
        lines = self._levels.all_lines(queues)
        operation = Operation(
            steps=lambda now_us: statements.turn(settlements, lines, limit, lease_s, now_us, self.holder),
            now_us=self._now_us,
            wakes=self._check_settlements(settlements),
            on_cancelled=lambda result: self._hand_back(result[1]),
        )
        lost, reserved = await self._run(operation)
        return lost, self._leases(reserved)

    def _leases(self, reserved: ReserveResult) -> list[Lease]:
        log_damaged(self, reserved.damaged)
        self._levels.note(reserved.leases)
        return reserved.leases

    def _check_settlements(self, settlements: Settlements) -> frozenset[str]:
        """Raise if a follow-up can't be stored; return the queues to wake."""
        check_follow_ups(settlements, body_bytes_max=self.capabilities.body_bytes_max, fair=True)
        return frozenset(queues_to_wake(settlements))

    # -- inspecting ---------------------------------------------------------------------------------

    async def depth(self, queue: str) -> Depth:
        check_queue_name(queue)
        return await self._read(lambda now_us: inspection.depth(queue, now_us))

    async def redrive(self, queue: str, *, limit: int) -> int:
        check_queue_name(queue)
        return await self._write(lambda now_us: inspection.redrive(queue, limit, now_us), {queue})

    async def queues(self) -> list[str]:
        return await self._read(lambda _: inspection.queues())

    async def find(self, message_id: str) -> StoredMessage | None:
        if not is_message_id(message_id):
            return None
        return await self._read(lambda now_us: inspection.find(message_id, now_us))

    async def list_messages(
        self, queue: str, *, state: State | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        check_queue_name(queue)
        after = int(cursor) if cursor else 0
        return await self._read(lambda now_us: inspection.list_messages(queue, state, limit, after, now_us))

    async def cancel(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return await self._remove(message_ids, dead=False)

    async def discard(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return await self._remove(message_ids, dead=True)

    async def redrive_ids(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        ids = _ids_json(message_ids)
        operation = Operation(
            steps=lambda now_us: inspection.redrive_ids(ids, now_us),
            now_us=self._now_us,
            wakes_from_result=lambda queues: {*queues.values()},
        )
        return (await self._run(operation)).keys()

    async def _remove(self, message_ids: Sequence[str], *, dead: bool) -> AbstractSet[str]:
        ids = _ids_json(message_ids)
        return await self._write(lambda now_us: inspection.remove(ids, dead=dead, now_us=now_us))

    async def purge(self, queue: str) -> int:
        check_queue_name(queue)
        return await self._write(lambda now_us: inspection.purge(queue, now_us))

    async def fetch_result(self, message_id: str) -> bytes | None:
        if not is_message_id(message_id):
            return None
        found = await self._read(lambda _: endings.fetch_result(message_id))
        if found is None:
            return None
        expires_us, result = found
        if expires_us > self._now_us():
            return result
        await self._write(retention.prune_results)
        return None

    async def wait_result(self, message_id: str, *, wait_s: float) -> bool:
        if not is_message_id(message_id):
            return True
        session = await self._sessions.get()
        backoff = PollBackoff(first_s=END_CHECK_S, longest_s=END_CHECK_S, rng=random.Random())
        with session.waiting([end_of(message_id)]) as waiter:
            checks = bound(self._end_checks.has_ended, message_id)
            return await wait_until_ended(waiter, checks, wait_s=wait_s, backoff=backoff)

    async def cancel_running(self, message_ids: Sequence[str]) -> Mapping[str, str]:
        ids = [message_id for message_id in message_ids if is_message_id(message_id)]
        operation = Operation(
            steps=lambda now_us: cancelling.cancel_running(ids, now_us),
            now_us=self._now_us,
            wakes_from_result=lambda result: result.wakes,
        )
        return (await self._run(operation)).tokens

    async def wait_cancelled(self, *, wait_s: float) -> bool:
        loop, holder = asyncio.get_running_loop(), self.holder
        deadline = loop.time() + wait_s
        session = await self._sessions.get()
        operation = Operation(
            steps=lambda _: cancelling.take_news(holder),
            now_us=self._now_us,
            try_read=lambda _: cancelling.no_news(holder),
        )
        with session.waiting_for_news([cancels_of(holder)]) as waiter:
            while not waiter.closed:
                if await waiter.unless_closed(session.submit(operation)):
                    return True
                if (remaining_s := deadline - loop.time()) <= 0:
                    break
                await waiter.wait(min(remaining_s, NEWS_CHECK_S))
        return False

    async def report_progress(self, reports: Sequence[tuple[Lease, Progress]]) -> None:
        if reports:
            await self._write(lambda _: endings.report_progress(reports))

    # -- inside the caller's transaction ---------------------------------------------------------

    @contextmanager
    def _in_callers_transaction(self) -> Generator[None]:
        """Have those who wait look often for a while: the caller will commit, and nobody tells us when."""
        with mapped_errors(str(self)):
            yield
        send_notices(notice_folder(self._file.path), to_this_process=True)

    async def enqueue_in(self, connection: Any, messages: Sequence[Message]) -> list[str]:
        """Do `enqueue` on a `sqlite3.Connection` or `aiosqlite.Connection` to the queue's own file; commits nothing.

        Outside a transaction one is begun, which the caller's commit ends. Workers see the messages after the
        commit, within `poll_s`, or within 0.1 s if the transaction takes longer than two seconds.

        Raises: UnsupportedFeature for a connection of another kind or to another file.
        """
        messages = self._checked(messages)
        with self._in_callers_transaction():
            return await run_in_async(connection, statements.store(messages, self._now_us()), self._file)

    def enqueue_in_sync(self, connection: Any, messages: Sequence[Message]) -> list[str]:
        """Do `enqueue_in` on a `sqlite3.Connection`, from synchronous code."""
        messages = self._checked(messages)
        with self._in_callers_transaction():
            return run_in(connection, statements.store(messages, self._now_us()), self._file)

    async def settle_in(self, connection: Any, settlements: Settlements) -> AbstractSet[str]:
        self._check_settlements(settlements)
        with self._in_callers_transaction():
            return await run_in_async(connection, statements.settle(settlements, self._now_us()), self._file)

    def settle_in_sync(self, connection: Any, settlements: Settlements) -> AbstractSet[str]:
        self._check_settlements(settlements)
        with self._in_callers_transaction():
            return run_in(connection, statements.settle(settlements, self._now_us()), self._file)


def _ids_json(message_ids: Sequence[str]) -> str:
    return json.dumps([message_id for message_id in message_ids if is_message_id(message_id)])
