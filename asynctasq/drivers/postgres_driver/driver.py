"""Keep messages in PostgreSQL: one table, one statement per batch; needs the schema of `asynctasq migrate`."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial
from typing import Any, Self, TypeVar

from asynctasq.drivers.base import YES, Capabilities, Driver, Migration, Page, Settlements
from asynctasq.drivers.checks import check_at_least, check_follow_ups, check_messages, check_queue_names
from asynctasq.drivers.levels import all_lines_of, queue_in
from asynctasq.drivers.loops import PerLoop
from asynctasq.drivers.postgres_driver.address import OPTIONS, Address, TlsOptions, is_pooled
from asynctasq.drivers.postgres_driver.callers_transaction import InCallersTransaction
from asynctasq.drivers.postgres_driver.claims import Claims
from asynctasq.drivers.postgres_driver.errors import is_conflict, mapped_errors
from asynctasq.drivers.postgres_driver.inspection import Inspection
from asynctasq.drivers.postgres_driver.listener import Listener
from asynctasq.drivers.postgres_driver.loop_resources import LoopResources
from asynctasq.drivers.postgres_driver.pool import OnCancelled, Operation, Pool
from asynctasq.drivers.postgres_driver.rows import (
    ScanBounds,
    delay_us,
    is_readable,
    lease_columns,
    leases_from,
    lost_ids,
    makes_visible,
    settlement_columns,
)
from asynctasq.drivers.postgres_driver.schema import migrate, migrations, schema_version
from asynctasq.drivers.postgres_driver.statements import Names, Statements
from asynctasq.drivers.postgres_driver.storing import Storing
from asynctasq.drivers.retention import DEAD_MAX, DEAD_TTL_S, PRUNED_AT_ONCE, Retention
from asynctasq.drivers.silence import SILENCE_S
from asynctasq.drivers.sql.conflicts import retry_conflicts
from asynctasq.drivers.sql.migrations import check_schema_version
from asynctasq.drivers.sql.settlements import (
    cancels_of,
    end_of,
    independent_batches,
    is_plain,
    names_to_wake,
    queues_to_wake,
)
from asynctasq.drivers.sql.unique import has_keyed_follow_ups
from asynctasq.drivers.sql.waiting import PollBackoff, Wakeups
from asynctasq.drivers.urls import read_address, read_options, redact
from asynctasq.kernel.messages import (
    MICROSECONDS,
    Depth,
    Lease,
    Message,
    Progress,
    Release,
    State,
    StoredMessage,
    check_queue_name,
)

__all__ = ["PostgresDriver"]

T = TypeVar("T")

BODY_BYTES_MAX = 256 * 1024 * 1024
POLL_S_FIRST = 0.05


class PostgresDriver(Driver):
    """Keep messages in tables `{table_prefix}_*` of a schema.

    `statement_cache` and `listen` are None for: unless a pooler such as PgBouncer stands between. Without `listen`
    waiting calls poll, at most every `poll_s_max` seconds. `notify=False` wakes no other process: NOTIFY makes
    commits wait for each other. `auto_migrate` brings the schema up to date at once, for tests.
    `dead_ttl` and `dead_max` say how many seconds dead letters stay, and how many in a queue.
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
        url: str = "postgresql://localhost:5432/postgres",
        *,
        schema: str = "public",
        table_prefix: str = "asynctasq",
        max_connections: int = 10,
        statement_cache: bool | None = None,
        listen: bool | None = None,
        notify: bool = True,
        clock_offset: float = 0.0,
        auto_migrate: bool = False,
        sslmode: str | None = None,
        sslrootcert: str | None = None,
        sslcert: str | None = None,
        sslkey: str | None = None,
        connect_timeout_s: float = SILENCE_S,
        command_timeout_s: float = 60.0,
        poll_s_max: float = 2.0,
        body_bytes_max: int = BODY_BYTES_MAX,
        dead_ttl: float = DEAD_TTL_S,
        dead_max: int = DEAD_MAX,
        rng: random.Random | None = None,
    ) -> None:
        check_at_least(1, max_connections=max_connections, body_bytes_max=body_bytes_max)
        self.capabilities = replace(
            type(self).capabilities, body_bytes_max=body_bytes_max, dead_ttl=dead_ttl, dead_max=dead_max
        )
        self.clock_offset = clock_offset
        self._names = Names(schema, table_prefix)
        self._sql, self._notify = Statements(self._names, notify=notify), notify
        tls = TlsOptions(sslmode=sslmode, sslrootcert=sslrootcert, sslcert=sslcert, sslkey=sslkey)
        self._address = Address.parse(url, tls, timeout_s=connect_timeout_s)
        self.tls = self._address.tls.text
        self._where = redact(url)
        self._max_connections, self._auto_migrate = max_connections, auto_migrate
        self._statement_cache, self._listen = statement_cache, listen
        self._command_timeout_s, self._poll_s_max = command_timeout_s, poll_s_max
        self._rng = rng or random.Random()
        self._scan_bounds = ScanBounds()
        self._wakeups = Wakeups.for_store(f"{self._address.dsn} {self._names.channel}")
        self._store: str | None = None
        self._retention = Retention(dead_ttl, dead_max)
        self._inspection = Inspection(self._sql, self._fetch_patiently, self._offset_us)
        self._claims = Claims(
            self._scan_bounds,
            self._inspection,
            fetch=lambda claim: self._fetch_claim(self._sql.claim, self._offset_us(), *claim),
            note=self._note_claim,
            holder=lambda: self.holder,
            where=self._where,
        )
        self._storing = Storing(self._sql, self._offset_us, self._run)
        self._callers_transaction = InCallersTransaction(self._sql, self._offset_us, self._where)
        self._resources = PerLoop(self._open_resources, LoopResources.close, LoopResources.abandon)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        parts = read_address("postgres driver", url)
        given = read_options("postgres driver", {**parts.options, **options}, OPTIONS)
        return cls(url.partition("?")[0], **given)

    def __str__(self) -> str:
        return self._where

    # -- connections -----------------------------------------------------------------------------

    async def open(self) -> None:
        with mapped_errors(self._where):
            await self._resources.get()

    async def close(self) -> None:
        await self._resources.close()

    async def _open_resources(self) -> LoopResources:
        address, longest_s = self._address, self._command_timeout_s
        pooled = await address.run_alone(self._where, self._check_server)
        prepare = not pooled if self._statement_cache is None else self._statement_cache
        for_calls, for_news = partial(address.connect_for_calls, prepare), partial(address.connect, prepare)
        listens = not pooled if self._listen is None else self._listen
        return LoopResources(
            pool=Pool(for_calls, max_connections=self._max_connections, command_timeout_s=longest_s),
            listener=Listener(for_news, self._names.channel, self._wakeups.wake) if listens else None,
            poll_backoff=PollBackoff(first_s=POLL_S_FIRST, longest_s=self._poll_s_max, rng=self._rng),
            notified=self._notify,
            rng=self._rng,
        )

    async def _check_server(self, connection: Any) -> bool:
        """Check the schema, and say whether a pooler stands between."""
        if self._auto_migrate:
            await migrate(connection, self._names)
        async with asyncio.timeout(SILENCE_S):
            version = await schema_version(connection, self._names)
            check_schema_version(version, self.migrations(), driver="postgres", where=self._where)
            self._store = await connection.fetchval(self._sql.store)
            return await is_pooled(connection, self._where)

    async def _run(self, run: Operation[T], *, on_cancelled: OnCancelled[T] | None = None, brief: bool = True) -> T:
        """Run one statement or transaction; again if the server rolled it back because of another one."""
        with mapped_errors(self._where):
            pool = (await self._resources.get()).pool
            once = partial(pool.run, run, on_cancelled=on_cancelled, brief=brief)
            return await retry_conflicts(once, is_conflict=is_conflict, rng=self._rng)

    async def _fetch(self, statement: str, *values: Any) -> list[Any]:
        return await self._run(lambda connection: connection.fetch(statement, *values))

    async def _fetch_patiently(self, statement: str, *values: Any) -> list[Any]:
        """Fetch what may take as long as there are messages."""
        return await self._run(lambda connection: connection.fetch(statement, *values), brief=False)

    async def _fetch_claim(self, statement: str, *values: Any) -> list[Any]:
        return await self._run(lambda connection: connection.fetch(statement, *values), on_cancelled=self._hand_back)

    def _offset_us(self) -> int:
        return round(self.clock_offset * MICROSECONDS)

    # -- storing ---------------------------------------------------------------------------------

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        check_messages(messages, body_bytes_max=self.capabilities.body_bytes_max, fair=True)
        if not messages:
            return []
        new = await self._storing.enqueue(messages)
        stored = set(new)
        self._wakeups.wake({message.queue for message in messages if message.id in stored})
        return new

    # -- reserving -------------------------------------------------------------------------------

    async def reserve(self, queues: Sequence[str], *, limit: int, lease_s: float, wait_s: float = 0) -> list[Lease]:
        check_queue_names(queues)
        await self._prune(queues)
        if wait_s <= 0 or limit <= 0:
            return await self._claim(queues, limit, lease_s)
        deadline = asyncio.get_running_loop().time() + wait_s
        with mapped_errors(self._where):
            resources = await self._resources.get()
        with self._wakeups.waiting(queues, into=resources.waiters) as waiter:
            while True:
                leases = await waiter.unless_closed(self._claim(queues, limit, lease_s)) or []
                left_s = deadline - asyncio.get_running_loop().time()
                if leases or left_s <= 0:
                    return leases
                if not await resources.wait_visible(waiter, self._next_visible_in_s, wait_s=left_s):
                    return []

    async def reserve_released(self, leases: Sequence[Lease], *, lease_s: float) -> list[Lease]:
        if not leases:
            return []
        values = (self._offset_us(), *lease_columns(leases), delay_us(lease_s), self.holder)
        rows = await self._fetch(self._sql.reserve_released, *values)
        granted = {lease.message_id: lease for lease in leases_from([*filter(is_readable, rows)])}
        return [
            granted[lease_id] for lease_id in dict.fromkeys(each.message_id for each in leases) if lease_id in granted
        ]

    async def _claim(self, queues: Sequence[str], limit: int, lease_s: float) -> list[Lease]:
        if limit <= 0 or not queues:
            return []
        claim = self._claims.values(queues, limit, delay_us(lease_s), offset_us=self._offset_us())
        return (await self._claims.read(await self._fetch_claim(self._sql.claim, self._offset_us(), *claim), claim))[0]

    def _note_claim(self, count: int) -> None:
        if (resources := self._resources.get_if_open()) is not None:
            resources.note_claim(count)

    async def _hand_back(self, connection: Any, rows: list[Any]) -> None:
        """Release the leases of a claim whose caller was cancelled, so that they do not have to expire."""
        released = [(lease, Release(counted=False)) for lease in leases_from([*filter(is_readable, rows[:-1])])]
        if released:
            await connection.fetch(self._sql.settle_full, self._offset_us(), *settlement_columns(released))

    async def wait_visible(self, queues: Sequence[str], *, wait_s: float) -> bool:
        check_queue_names(queues)
        if await self._prune(queues):
            return True  # the caller's next reserve removes more
        with mapped_errors(self._where):
            resources = await self._resources.get()
        with self._wakeups.waiting(queues, into=resources.waiters) as waiter:
            return await resources.wait_visible(waiter, self._next_visible_in_s, wait_s=wait_s)

    async def _next_visible_in_s(self, queues: Sequence[str]) -> float | None:
        """Return how long it is until the first message of these queues is visible, None if there is none."""
        offset_us = self._offset_us()
        self._scan_bounds.forget_if_shifted(offset_us)
        lines = [line for queue in queues for line in all_lines_of(queue)]
        [row] = await self._fetch(self._sql.next_due, offset_us, lines, self._scan_bounds.lower_us(lines))
        return self._scan_bounds.note_next_due(row, lines)

    # -- settling --------------------------------------------------------------------------------

    async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
        columns = lease_columns(leases)
        rows = await self._fetch(self._sql.extend, self._offset_us(), *columns, delay_us(lease_s)) if leases else []
        held = {(message_id, f"{seq}.{number}") for message_id, seq, number, *_ in rows}
        self._wakeups.wake({queue_in(line) for row in rows[:1] for line in row[3] or ()})
        return {lease.message_id for lease in leases if (lease.message_id, lease.token) not in held}

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        check_follow_ups(settlements, body_bytes_max=self.capabilities.body_bytes_max, fair=True)
        batches, lost = independent_batches(settlements)
        for batch in batches:
            lost |= await self._settle_batch(batch)
        return lost

    async def _settle_batch(self, batch: Settlements) -> set[str]:
        if is_plain(batch):
            columns = lease_columns([lease for lease, _ in batch])
            [(won,)] = await self._fetch(self._sql.settle_plain, self._offset_us(), *columns)
        else:
            [(won, _, _)] = await self._storing.settle(batch)
            self._wakeups.wake(queues_to_wake(batch))
        return lost_ids(batch, won)

    async def turn(
        self, settlements: Settlements, queues: Sequence[str], *, limit: int, lease_s: float
    ) -> tuple[AbstractSet[str], list[Lease]]:
        check_queue_names(queues)
        check_follow_ups(settlements, body_bytes_max=self.capabilities.body_bytes_max, fair=True)
        await self._prune(queues, len(settlements))
        batches, lost = independent_batches(settlements)
        plain = is_plain(settlements)
        alone = not plain and (makes_visible(settlements, queues) or has_keyed_follow_ups(settlements))
        if len(batches) != 1 or limit <= 0 or not queues or alone:
            # Two statements: one could not lease the messages that it makes visible itself.
            lost_now = await self.settle(settlements) if settlements else frozenset[str]()
            return lost_now, await self._claim(queues, limit, lease_s)
        [batch] = batches
        claim = self._claims.values(queues, limit, delay_us(lease_s), offset_us=self._offset_us())
        if plain:
            values = [self._offset_us(), *lease_columns([lease for lease, _ in batch]), *claim]
            rows = await self._fetch_claim(self._sql.turn_plain, *values)
        else:
            values = [self._offset_us(), *settlement_columns(batch), *claim]
            rows = await self._fetch_claim(self._sql.turn_full, *values)
            self._wakeups.wake(queues_to_wake(batch))
        leases, won = await self._claims.read(rows, claim)
        return lost | lost_ids(batch, won), leases

    async def _prune(self, queues: Sequence[str], settled: int = 0) -> bool:
        """Remove some of what has expired, if it is time to look; return whether there is more."""
        most = max(PRUNED_AT_ONCE, 2 * settled)  # more than the call may add
        step = partial(self._inspection.prune, queues, self._retention, most)
        return await self._retention.prune(step, clock_offset=self.clock_offset)

    # -- in the caller's transaction ---------------------------------------------------------------

    async def enqueue_in(self, connection: Any, messages: Sequence[Message]) -> list[str]:
        check_messages(messages, body_bytes_max=self.capabilities.body_bytes_max, fair=True)
        # A connection to another database is refused; to tell it, the id of our own store must be known.
        await self.open()
        return await self._callers_transaction.enqueue(connection, messages, self._store)

    def enqueue_in_sync(self, connection: Any, messages: Sequence[Message]) -> list[str]:
        check_messages(messages, body_bytes_max=self.capabilities.body_bytes_max, fair=True)
        return self._callers_transaction.enqueue_sync(connection, messages, self._store)

    async def settle_in(self, connection: Any, settlements: Settlements) -> AbstractSet[str]:
        check_follow_ups(settlements, body_bytes_max=self.capabilities.body_bytes_max, fair=True)
        await self.open()
        return await self._callers_transaction.settle(connection, settlements, self._store)

    def settle_in_sync(self, connection: Any, settlements: Settlements) -> AbstractSet[str]:
        check_follow_ups(settlements, body_bytes_max=self.capabilities.body_bytes_max, fair=True)
        return self._callers_transaction.settle_sync(connection, settlements, self._store)

    # -- inspecting ---------------------------------------------------------------------------------

    async def depth(self, queue: str) -> Depth:
        return await self._inspection.depth(check_queue_name(queue))

    async def redrive(self, queue: str, *, limit: int) -> int:
        moved = await self._inspection.redrive(check_queue_name(queue), limit)
        self._wakeups.wake({queue})
        return moved

    async def queues(self) -> list[str]:
        return await self._inspection.queues()

    async def find(self, message_id: str) -> StoredMessage | None:
        return await self._inspection.find(message_id)

    async def list_messages(
        self, queue: str, *, state: State | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        return await self._inspection.list_messages(check_queue_name(queue), state, limit, cursor)

    async def cancel(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return await self._inspection.remove(self._sql.cancel, message_ids)

    async def discard(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return await self._inspection.remove(self._sql.discard, message_ids)

    async def redrive_ids(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        queues = await self._inspection.redrive_ids(message_ids)
        self._wakeups.wake({*queues.values()})
        return queues.keys()

    async def purge(self, queue: str) -> int:
        return await self._inspection.purge(check_queue_name(queue))

    async def fetch_result(self, message_id: str) -> bytes | None:
        return await self._inspection.fetch_result(message_id)

    async def wait_result(self, message_id: str, *, wait_s: float) -> bool:
        with mapped_errors(self._where):
            resources = await self._resources.get()
        with self._wakeups.waiting([end_of(message_id)], into=resources.waiters) as waiter:
            return await resources.wait_ended(waiter, partial(self._inspection.has_ended, message_id), wait_s=wait_s)

    async def cancel_running(self, message_ids: Sequence[str]) -> Mapping[str, str]:
        tokens, holders = await self._inspection.cancel_running(message_ids)
        self._wakeups.wake(names_to_wake(tokens, holders))
        return tokens

    async def wait_cancelled(self, *, wait_s: float) -> bool:
        with mapped_errors(self._where):
            resources = await self._resources.get()
        with self._wakeups.waiting([cancels_of(self.holder)], into=resources.waiters) as waiter:
            return await resources.wait_news(waiter, wait_s=wait_s)

    async def report_progress(self, reports: Sequence[tuple[Lease, Progress]]) -> None:
        await self._inspection.report_progress(reports)

    # -- schema ----------------------------------------------------------------------------------

    async def schema_version(self) -> int:
        return await self._address.run_alone(self._where, lambda connection: schema_version(connection, self._names))

    def migrations(self) -> Sequence[Migration]:
        return migrations(self._names)

    async def migrate(self) -> list[int]:
        return await self._address.run_alone(self._where, lambda connection: migrate(connection, self._names))
