"""Messages in a table of MySQL 8.0+ or MariaDB 10.6+; knows no SQL text and no client library itself."""

import asyncio
import functools
import itertools
import random
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self
from urllib.parse import urlencode

from asynctasq.drivers.base import YES, Capabilities, Driver, Migration, Page, Settlements, Support, partial
from asynctasq.drivers.checks import check_follow_ups, check_messages, check_queue_names
from asynctasq.drivers.mysql_driver.address import ADDRESS_OPTIONS, parse_address
from asynctasq.drivers.mysql_driver.callers_transaction import InCallersTransaction
from asynctasq.drivers.mysql_driver.claims import Claims
from asynctasq.drivers.mysql_driver.inspection import Inspection
from asynctasq.drivers.mysql_driver.migrations import migrate, read_version
from asynctasq.drivers.mysql_driver.retention import prune
from asynctasq.drivers.mysql_driver.schema import migrations
from asynctasq.drivers.mysql_driver.statement_runner import StatementRunner
from asynctasq.drivers.mysql_driver.statements import Statements, server_now
from asynctasq.drivers.mysql_driver.steps import Claim, extend, reserve_released, turn
from asynctasq.drivers.mysql_driver.storing import store
from asynctasq.drivers.retention import DEAD_MAX, DEAD_TTL_S, PRUNED_AT_ONCE, RETENTION_OPTIONS, Retention
from asynctasq.drivers.silence import is_brief
from asynctasq.drivers.sql.identifiers import check_identifier
from asynctasq.drivers.sql.settlements import cancels_of, end_of, names_to_wake, queues_to_wake
from asynctasq.drivers.sql.waiting import PollBackoff, Waiter, Wakeups, wait_until_ended, wait_until_visible
from asynctasq.drivers.urls import read_address, read_options
from asynctasq.errors import BodyTooLarge, ConfigError, DriverError
from asynctasq.kernel.messages import (
    MICROSECONDS,
    Complete,
    Depth,
    Lease,
    Message,
    Progress,
    Release,
    State,
    StoredMessage,
    check_queue_name,
    microseconds,
)

__all__ = ["MySQLDriver"]

DEFAULT_URL = "mysql://localhost:3306/asynctasq"
BODY_BYTES_MAX = 7 * 1024 * 1024
"""Bodies travel as hexadecimal, so this needs 14 MiB of the 16 MiB that MariaDB takes in one packet by default."""
POLL_S_FIRST, POLL_S_MAX = 0.05, 4.0
HAND_BACK_S = 2.0


class MySQLDriver(Driver):
    """Keep messages in MySQL or MariaDB (InnoDB), durable as the server's own commits are.

    Waiting polls with growing pauses, since the server can't wake us; messages enqueued by this process wake at once.
    """

    capabilities = Capabilities(
        durable=YES,
        cross_process=YES,
        ordered=YES,
        wakes_waiting=partial("the server can't notify: other processes' messages are found by polling, within 4 s"),
        inspects=YES,
        keeps_results=YES,
        reports_progress=YES,
        cancels_running=partial("a worker of another process learns of it when it renews its lease, within 10 s"),
        reserves_released=YES,
        transactional=YES,
        unique=YES,
        priorities=YES,
        fair=Support("no", "it would need one more index entry for every message, with a fair key or without"),
        body_bytes_max=BODY_BYTES_MAX,
    )

    def __init__(  # noqa: PLR0913 - the options of an address
        self,
        url: str = DEFAULT_URL,
        *,
        table_prefix: str = "asynctasq",
        max_connections: int = 10,
        clock_offset: float = 0.0,
        body_bytes_max: int = BODY_BYTES_MAX,
        command_timeout_s: float = 30.0,
        dead_ttl: float = DEAD_TTL_S,
        dead_max: int = DEAD_MAX,
        rng: random.Random | None = None,
    ) -> None:
        if max_connections < 2:
            raise ConfigError(
                f"MySQL driver option 'max_connections' must be 2 or more, not {max_connections}: "
                "one connection may wait for a lock while another settles"
            )
        self.clock_offset = clock_offset
        self.capabilities = replace(
            type(self).capabilities, body_bytes_max=body_bytes_max, dead_ttl=dead_ttl, dead_max=dead_max
        )
        self._address = parse_address(url, command_timeout_s=command_timeout_s)
        self.tls = self._address.tls_text()
        self._prefix = check_identifier(table_prefix, "table_prefix")
        self._sql = Statements(table_prefix)
        self._rng = rng or random.Random()
        self._runner = StatementRunner(
            self._address, self._sql, max_connections=max_connections, body_bytes_max=body_bytes_max, rng=self._rng
        )
        self._callers_transaction = InCallersTransaction(self._sql, self._address)
        self._wakeups = Wakeups.for_store(f"{self._address}/{table_prefix}")
        self._retention = Retention(dead_ttl, dead_max)
        self._claims = Claims(self._runner, self._sql, str(self))
        self._inspection = Inspection(self._runner, self._sql, lambda: self._offset_us)
        self._uncommitted_writes = 0

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        in_url, bare = read_address("MySQL driver", url).options, url.partition("?")[0]
        known: dict[str, type] = {
            "table_prefix": str,
            **dict.fromkeys(("max_connections", "body_bytes_max"), int),
            **dict.fromkeys(("clock_offset", "command_timeout_s"), float),
            **RETENTION_OPTIONS,
            "rng": random.Random,
            **ADDRESS_OPTIONS,
        }
        given = read_options("MySQL driver", {**in_url, **options}, known)
        about_address = {name: given.pop(name) for name in ADDRESS_OPTIONS if name in given}
        return cls(f"{bare}?{urlencode(about_address)}" if about_address else bare, **given)

    def __str__(self) -> str:
        return f"{self._address} (tables {self._prefix}_*)"

    async def open(self) -> None:
        await self._runner.pool()

    async def close(self) -> None:
        await self._runner.close()

    @property
    def _offset_us(self) -> int:
        return round(self.clock_offset * MICROSECONDS)

    @property
    def _now(self) -> str:
        return server_now(self._offset_us)

    # -- storing ---------------------------------------------------------------------------------

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        await self._runner.pool()
        self._check(messages)
        if not messages:
            return []
        tries = itertools.count()
        new = await self._runner.run_steps(
            lambda: store(self._sql, messages, offset_us=self._offset_us, again=next(tries) > 0),
            brief=is_brief(messages),
        )
        if new:
            self._wakeups.wake({message.queue for message in messages})
        return new

    def _check(self, messages: Iterable[Message]) -> None:
        check_messages(messages, body_bytes_max=self._runner.body_bytes_max)

    # -- reserving -------------------------------------------------------------------------------

    async def reserve(self, queues: Sequence[str], *, limit: int, lease_s: float, wait_s: float = 0) -> list[Lease]:
        check_queue_names(queues)
        if limit < 1 or not queues:
            return []
        leases = (await self._turn((), queues, limit, lease_s))[1]
        if leases or wait_s <= 0:
            return leases
        deadline = asyncio.get_running_loop().time() + wait_s
        lock_backoff = PollBackoff(first_s=POLL_S_FIRST, longest_s=1.0, rng=self._rng)
        pool = await self._runner.pool()
        with self._wakeups.waiting(queues, into=pool.waiters) as waiter:
            while not leases and (left_s := deadline - asyncio.get_running_loop().time()) > 0:
                if not await self._until_visible(waiter, queues, left_s):
                    break
                leases = (await self._turn((), queues, limit, lease_s))[1]
                if not leases:
                    # Other transactions hold it locked: asking again at once could go on for as long as they do.
                    await waiter.wait(min(left_s, lock_backoff.next_pause_s()))
        return leases

    async def reserve_released(self, leases: Sequence[Lease], *, lease_s: float) -> list[Lease]:
        if not leases:
            return []
        lease_us, holder = microseconds(lease_s), self.holder
        return await self._runner.run_steps(
            lambda: reserve_released(self._sql, leases, lease_us=lease_us, holder=holder, offset_us=self._offset_us)
        )

    async def wait_visible(self, queues: Sequence[str], *, wait_s: float) -> bool:
        check_queue_names(queues)
        if await self._prune(queues):
            return True  # the caller's next reserve removes more
        pool = await self._runner.pool()
        with self._wakeups.waiting(queues, into=pool.waiters) as waiter:
            return await self._until_visible(waiter, queues, wait_s)

    async def _until_visible(self, waiter: Waiter, queues: Sequence[str], wait_s: float) -> bool:
        backoff = PollBackoff(first_s=POLL_S_FIRST, longest_s=POLL_S_MAX, rng=self._rng)
        seen_writes = self._uncommitted_writes

        async def due_in_s() -> float | None:
            nonlocal seen_writes
            if seen_writes != self._uncommitted_writes:
                seen_writes = self._uncommitted_writes
                backoff.reset()
            statement = self._sql.next_visible(queues, now=self._now)
            now, *firsts = (await self._runner.run(statement, brief=True)).rows[0]
            pending = [first for first in firsts if first is not None]
            return (min(pending) - now) / MICROSECONDS if pending else None

        return await wait_until_visible(waiter, due_in_s, wait_s=wait_s, backoff=backoff)

    async def _turn(
        self, settlements: Settlements, queues: Sequence[str], limit: int, lease_s: float
    ) -> tuple[AbstractSet[str], list[Lease]]:
        if limit < 1 or not queues:
            if not settlements:
                return frozenset(), []
            lost, _ = await self._runner.run_steps(
                lambda: turn(self._sql, settlements, None, offset_us=self._offset_us)
            )
            return lost, []
        await self._prune(queues, len(settlements))
        claim = Claim(lines=self._claims.lines(queues), limit=limit, lease_us=microseconds(lease_s), holder=self.holder)
        # A task of its own: if cancelling the caller cancelled the claim, nobody would know its leases.
        claiming = asyncio.ensure_future(self._claims.claim(settlements, claim, offset_us=self._offset_us))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            await self._hand_back(claiming)
            raise

    async def _prune(self, queues: Sequence[str], settled: int = 0) -> bool:
        """Remove some of what has expired, if it is time to look; return whether there is more."""
        most = max(PRUNED_AT_ONCE, 2 * settled)  # more than the call may add

        def step() -> Awaitable[bool]:
            return self._runner.run_steps(
                lambda: prune(self._sql, queues, self._retention, most=most, offset_us=self._offset_us)
            )

        return await self._retention.prune(step, clock_offset=self.clock_offset)

    async def _hand_back(self, claiming: "asyncio.Future[tuple[AbstractSet[str], list[Lease]]]") -> None:
        """Release what a cancelled call leased after all; a lease that can't be released in time expires."""
        try:
            await asyncio.wait({claiming}, timeout=HAND_BACK_S)
            if claiming.done() and not claiming.cancelled() and claiming.exception() is None:
                _, leases = claiming.result()
                if leases:
                    with suppress(DriverError, TimeoutError):
                        async with asyncio.timeout(HAND_BACK_S):
                            await self.settle([(lease, Release(counted=False)) for lease in leases])
        finally:
            claiming.cancel()

    # -- settling --------------------------------------------------------------------------------

    async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
        if not leases:
            return frozenset()
        lost, sooner = await self._runner.run_steps(
            lambda: extend(self._sql, leases, lease_us=microseconds(lease_s), offset_us=self._offset_us)
        )
        self._wakeups.wake(sooner)
        return lost

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        return (await self.turn(settlements, (), limit=0, lease_s=0))[0]

    async def turn(
        self, settlements: Settlements, queues: Sequence[str], *, limit: int, lease_s: float
    ) -> tuple[AbstractSet[str], list[Lease]]:
        check_queue_names(queues)
        if settlements:
            await self._runner.pool()
            wakes = self._check_settlements(settlements)
            done = await self._turn(settlements, queues, limit, lease_s)
            self._wakeups.wake(wakes)
            return done
        return await self._turn((), queues, limit, lease_s)

    def _check_settlements(self, settlements: Settlements) -> set[str]:
        """Raise before anything is changed; return the queues to wake."""
        limit = self._runner.body_bytes_max
        check_follow_ups(settlements, body_bytes_max=limit)
        for lease, settlement in settlements:
            if isinstance(settlement, Complete) and len(settlement.result or b"") > limit:
                size = len(settlement.result or b"")
                raise BodyTooLarge(
                    f"the result of message {lease.message_id} has {size} bytes; this driver takes {limit}"
                )
        return queues_to_wake(settlements)

    # -- in the caller's transaction ------------------------------------------------------------------

    async def enqueue_in(self, connection: Any, messages: Sequence[Message]) -> list[str]:
        await self._runner.pool()
        self._check(messages)
        new = await self._callers_transaction.enqueue(
            connection, messages, offset_us=self._offset_us, store=self._runner.store
        )
        self._poll_sooner({message.queue for message in messages})
        return new

    def enqueue_in_sync(self, connection: Any, messages: Sequence[Message]) -> list[str]:
        self._check(messages)
        new = self._callers_transaction.enqueue_sync(
            connection, messages, offset_us=self._offset_us, store=self._runner.store
        )
        self._poll_sooner({message.queue for message in messages})
        return new

    async def settle_in(self, connection: Any, settlements: Settlements) -> AbstractSet[str]:
        await self._runner.pool()
        wakes = self._check_settlements(settlements)
        lost = await self._callers_transaction.settle(
            connection, settlements, offset_us=self._offset_us, store=self._runner.store
        )
        self._poll_sooner(wakes)
        return lost

    def settle_in_sync(self, connection: Any, settlements: Settlements) -> AbstractSet[str]:
        wakes, store = self._check_settlements(settlements), self._runner.store
        lost = self._callers_transaction.settle_sync(connection, settlements, offset_us=self._offset_us, store=store)
        self._poll_sooner(wakes)
        return lost

    def _poll_sooner(self, queues: AbstractSet[str]) -> None:
        """Let waiting calls poll with short pauses again: the caller will commit, and nobody tells us when."""
        self._uncommitted_writes += 1
        self._wakeups.wake(queues)

    # -- inspecting ---------------------------------------------------------------------------------

    async def depth(self, queue: str) -> Depth:
        return await self._inspection.depth(check_queue_name(queue))

    async def redrive(self, queue: str, *, limit: int) -> int:
        moved = await self._inspection.redrive(check_queue_name(queue), limit)
        if moved:
            self._wakeups.wake({queue})
        return moved

    async def queues(self) -> list[str]:
        return await self._inspection.queues()

    async def find(self, message_id: str) -> StoredMessage | None:
        return await self._inspection.find(message_id)

    async def list_messages(
        self, queue: str, *, state: State | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        return await self._inspection.list_messages(queue, state, limit, cursor)

    async def cancel(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return await self._inspection.remove(message_ids, dead=False)

    async def discard(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return await self._inspection.remove(message_ids, dead=True)

    async def redrive_ids(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        queues = await self._inspection.redrive_ids(message_ids)
        self._wakeups.wake({*queues.values()})
        return queues.keys()

    async def purge(self, queue: str) -> int:
        return await self._inspection.purge(check_queue_name(queue))

    async def fetch_result(self, message_id: str) -> bytes | None:
        return await self._inspection.fetch_result(message_id)

    async def wait_result(self, message_id: str, *, wait_s: float) -> bool:
        pool = await self._runner.pool()
        backoff = PollBackoff(first_s=POLL_S_FIRST, longest_s=POLL_S_MAX, rng=self._rng)
        has_ended = functools.partial(self._inspection.has_ended, message_id)
        with self._wakeups.waiting([end_of(message_id)], into=pool.waiters) as waiter:
            return await wait_until_ended(waiter, has_ended, wait_s=wait_s, backoff=backoff)

    async def cancel_running(self, message_ids: Sequence[str]) -> Mapping[str, str]:
        tokens, holders = await self._inspection.cancel_running(message_ids)
        self._wakeups.wake(names_to_wake(tokens, holders))
        return tokens

    async def wait_cancelled(self, *, wait_s: float) -> bool:
        pool = await self._runner.pool()
        with self._wakeups.waiting([cancels_of(self.holder)], into=pool.waiters) as waiter:
            return await waiter.wait(wait_s) and not waiter.closed

    async def report_progress(self, reports: Sequence[tuple[Lease, Progress]]) -> None:
        await self._inspection.report_progress(reports)

    # -- schema ----------------------------------------------------------------------------------

    def migrations(self) -> Sequence[Migration]:
        return migrations(self._sql)

    async def schema_version(self) -> int:
        return await read_version(self._address, self._sql)

    async def migrate(self) -> list[int]:
        return await migrate(self._address, self._sql, self._prefix)
