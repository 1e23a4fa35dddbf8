"""Keep messages in PostgreSQL: one table, one statement per batch; needs the schema of `asynctasq migrate`."""

import asyncio
import random
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Self, TypeVar

from asynctasq.drivers.base import YES, Capabilities, Driver, Migration, Page, Settlements
from asynctasq.drivers.batches import unique_messages
from asynctasq.drivers.checks import check_at_least, check_follow_ups, check_messages, check_queue_names
from asynctasq.drivers.loops import PerLoop
from asynctasq.drivers.postgres_driver import schema as _postgres_schema
from asynctasq.drivers.postgres_driver.backend import Backend
from asynctasq.drivers.postgres_driver.callers_transaction import InCallersTransaction
from asynctasq.drivers.postgres_driver.operator import Operator
from asynctasq.drivers.postgres_driver.pool import (
    Address,
    Listener,
    Operation,
    Pool,
    Undo,
    errors_mapped,
    is_conflict,
)
from asynctasq.drivers.postgres_driver.rows import (
    Horizon,
    delay_us,
    enqueue_columns,
    firsts_of,
    full_columns,
    held_columns,
    leases_from,
    lost_ids,
    makes_visible,
    parts_of,
)
from asynctasq.drivers.postgres_driver.statements import Names, Statements
from asynctasq.drivers.sql.conflicts import retry_conflicts
from asynctasq.drivers.sql.migrations import check_schema_version
from asynctasq.drivers.sql.settlements import independent_batches, is_plain, queues_to_wake
from asynctasq.drivers.sql.waiting import PollBackoff, Wakeups
from asynctasq.drivers.urls import read_options, redact, split_options
from asynctasq.kernel.messages import (
    MICROSECONDS,
    Complete,
    Depth,
    Lease,
    Message,
    Release,
    State,
    StoredMessage,
    check_queue_name,
)

__all__ = ["PostgresDriver"]

T = TypeVar("T")

BODY_BYTES_MAX = 256 * 1024 * 1024
POLL_S_FIRST = 0.05
FORGET_RESULTS_S = 60.0

OPTIONS: dict[str, type] = {
    **dict.fromkeys(("schema", "table_prefix", "sslmode"), str),
    **dict.fromkeys(("max_connections", "body_bytes_max"), int),
    **dict.fromkeys(("statement_cache", "listen", "notify", "auto_migrate"), bool),
    **dict.fromkeys(("clock_offset", "connect_timeout_s", "command_timeout_s", "poll_s_max"), float),
}


class PostgresDriver(Driver):
    """Keep messages in tables `{table_prefix}_*` of a schema.

    Behind PgBouncer in transaction mode set `statement_cache=False` and `listen=False`: waiting calls then
    look from time to time, at most every `poll_s_max` seconds. `notify=False` wakes no other process: NOTIFY
    makes commits wait for each other. `auto_migrate` brings the schema up to date at once, for tests.
    """

    capabilities = Capabilities(
        durable=YES,
        cross_process=YES,
        ordered=YES,
        wakes_waiting=YES,
        inspects=YES,
        keeps_results=YES,
        transactional=YES,
        body_bytes_max=BODY_BYTES_MAX,
    )

    def __init__(  # noqa: PLR0913 - the options of an address
        self,
        url: str = "postgresql://localhost:5432/postgres",
        *,
        schema: str = "public",
        table_prefix: str = "asynctasq",
        max_connections: int = 10,
        statement_cache: bool = True,
        listen: bool = True,
        notify: bool = True,
        clock_offset: float = 0.0,
        auto_migrate: bool = False,
        sslmode: str | None = None,
        connect_timeout_s: float = 10.0,
        command_timeout_s: float = 60.0,
        poll_s_max: float = 2.0,
        body_bytes_max: int = BODY_BYTES_MAX,
        rng: random.Random | None = None,
    ) -> None:
        check_at_least(1, max_connections=max_connections, body_bytes_max=body_bytes_max)
        self.capabilities = replace(type(self).capabilities, body_bytes_max=body_bytes_max)
        self.clock_offset = clock_offset
        self._names = Names(schema, table_prefix)
        self._sql = Statements(self._names, notify=notify)
        self._address = Address.parse(url, sslmode, statement_cache=statement_cache, timeout_s=connect_timeout_s)
        self._where = redact(url)
        self._max_connections = max_connections
        self._listen = listen
        self._auto_migrate = auto_migrate
        self._command_timeout_s = command_timeout_s
        self._poll_s_max = poll_s_max
        self._body_bytes_max = body_bytes_max
        self._rng = rng or random.Random()
        self._horizon = Horizon()
        self._wakeups = Wakeups.for_store(f"{self._address.dsn} {self._names.channel}")
        self._store: str | None = None
        self._forget_at = 0.0
        self._operator = Operator(self._sql, self._fetch, self._offset_us)
        self._in_callers = InCallersTransaction(self._sql, self._offset_us, self._where)
        self._loops = PerLoop(self._open_backend, Backend.close, Backend.abandon)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        base, in_url = split_options(url)
        return cls(base, **read_options("postgres driver", {**in_url, **options}, OPTIONS))

    def __str__(self) -> str:
        return self._where

    # -- connections -----------------------------------------------------------------------------

    async def open(self) -> None:
        with errors_mapped(self._where):
            await self._loops.get()

    async def close(self) -> None:
        await self._loops.close()

    async def _open_backend(self) -> Backend:
        await self._address.apart(self._where, self._check_schema)
        connect = self._address.connect
        return Backend(
            pool=Pool(connect, max_connections=self._max_connections, command_timeout_s=self._command_timeout_s),
            listener=Listener(connect, self._names.channel, self._wakeups.wake) if self._listen else None,
            polling=PollBackoff(first_s=POLL_S_FIRST, longest_s=self._poll_s_max, rng=self._rng),
            rng=self._rng,
        )

    async def _check_schema(self, connection: Any) -> None:
        if self._auto_migrate:
            await _postgres_schema.migrate(connection, self._names)
        version = await _postgres_schema.schema_version(connection, self._names)
        check_schema_version(version, self.migrations(), driver="postgres", where=self._where)
        self._store = await connection.fetchval(self._sql.store)

    async def _run(self, operation: Operation[T], *, undo: Undo[T] | None = None) -> T:
        """Run one statement or transaction; again if the server rolled it back for the sake of another one."""
        with errors_mapped(self._where):
            pool = (await self._loops.get()).pool
            return await retry_conflicts(lambda: pool.run(operation, undo=undo), is_conflict=is_conflict, rng=self._rng)

    async def _fetch(self, statement: str, *values: Any) -> list[Any]:
        return await self._run(lambda connection: connection.fetch(statement, *values))

    async def _fetch_claim(self, statement: str, *values: Any) -> list[Any]:
        return await self._run(lambda connection: connection.fetch(statement, *values), undo=self._hand_back)

    def _offset_us(self) -> int:
        return round(self.clock_offset * MICROSECONDS)

    # -- storing ---------------------------------------------------------------------------------

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        check_messages(messages, body_bytes_max=self._body_bytes_max)
        if not messages:
            return []
        parts = parts_of(messages)

        async def store(connection: Any) -> set[str]:
            if len(parts) == 1:
                return await self._store_part(connection, parts[0])
            async with connection.transaction():
                return {new for part in parts for new in await self._store_part(connection, part)}

        new = await self._run(store)
        self._wakeups.wake({message.queue for message in messages if message.id in new})
        return [message.id for message in unique_messages(messages) if message.id in new]

    async def _store_part(self, connection: Any, part: Sequence[Message]) -> set[str]:
        rows = await connection.fetch(self._sql.enqueue, self._offset_us(), *enqueue_columns(part), None)
        return {row[0] for row in rows[:-1]}

    # -- reserving -------------------------------------------------------------------------------

    async def reserve(self, queues: Sequence[str], *, limit: int, lease_s: float, wait_s: float = 0) -> list[Lease]:
        check_queue_names(queues)
        if wait_s <= 0 or limit <= 0:
            return await self._claim(queues, limit, lease_s)
        deadline = asyncio.get_running_loop().time() + wait_s
        with errors_mapped(self._where):
            backend = await self._loops.get()
        with self._wakeups.waiting(queues, into=backend.waiters) as waiter:
            while True:
                leases = await waiter.unless_closed(self._claim(queues, limit, lease_s)) or []
                left_s = deadline - asyncio.get_running_loop().time()
                if leases or left_s <= 0 or not await backend.visible(waiter, self._look, wait_s=left_s):
                    return leases

    async def _claim(self, queues: Sequence[str], limit: int, lease_s: float) -> list[Lease]:
        if limit <= 0 or not queues:
            return []
        claim = self._claim_values(queues, limit, lease_s)
        return self._taken(await self._fetch_claim(self._sql.claim, self._offset_us(), *claim), claim)[0]

    def _claim_values(self, queues: Sequence[str], limit: int, lease_s: float) -> tuple[list[str], list[int], int, int]:
        # A queue named twice would give its locked rows twice.
        names = list(dict.fromkeys(queues))
        self._horizon.at_offset(self._offset_us())
        return names, self._horizon.lower_us(names), limit, delay_us(lease_s)

    def _taken(
        self, rows: list[Any], claim: tuple[list[str], list[int], int, int]
    ) -> tuple[list[Lease], list[str] | None]:
        """Return the leases, and the ids that the settling part of the statement settled."""
        taken, (_, now_us, took_us, *_, won) = rows[:-1], rows[-1]
        leases = leases_from(taken)
        self._horizon.note(now_us, took_us, len(taken), firsts_of(taken, claim[0], claim[2], now_us))
        if (backend := self._loops.get_if_open()) is not None:
            backend.claimed(len(leases))
        return leases, won

    async def _hand_back(self, connection: Any, rows: list[Any]) -> None:
        """Release what a claim took whose caller was cancelled, so that it need not wait for the leases to end."""
        released = [(lease, Release(counted=False)) for lease in leases_from(rows[:-1])]
        if released:
            await connection.fetch(self._sql.settle_full, self._offset_us(), *full_columns(released))

    async def wait_visible(self, queues: Sequence[str], *, wait_s: float) -> bool:
        check_queue_names(queues)
        with errors_mapped(self._where):
            backend = await self._loops.get()
        with self._wakeups.waiting(queues, into=backend.waiters) as waiter:
            return await backend.visible(waiter, self._look, wait_s=wait_s)

    async def _look(self, names: Sequence[str]) -> float | None:
        """Return how long it is until the first message of these queues is visible, None if there is none."""
        offset_us = self._offset_us()
        self._horizon.at_offset(offset_us)
        lower_us = self._horizon.lower_us(names)
        [(now_us, first_us, end_us)] = await self._fetch(self._sql.next_due, offset_us, names, lower_us)
        begins_us: int = now_us if first_us is None else min(first_us, now_us)
        self._horizon.note(now_us, end_us - now_us, 0, dict.fromkeys(names, begins_us))
        return None if first_us is None else (first_us - now_us) / MICROSECONDS

    # -- settling --------------------------------------------------------------------------------

    async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
        columns = held_columns(leases)
        rows = await self._fetch(self._sql.extend, self._offset_us(), *columns, delay_us(lease_s)) if leases else []
        held = {(message_id, f"{seq}.{number}") for message_id, seq, number, *_ in rows}
        self._wakeups.wake({queue for row in rows[:1] for queue in row[3] or ()})
        return {lease.message_id for lease in leases if (lease.message_id, lease.token) not in held}

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        check_follow_ups(settlements, body_bytes_max=self._body_bytes_max)
        batches, lost = independent_batches(settlements)
        for batch in batches:
            lost |= await self._settle_batch(batch)
        return lost

    async def _settle_batch(self, batch: Settlements) -> set[str]:
        if is_plain(batch):
            columns = held_columns([lease for lease, _ in batch])
            [(won,)] = await self._fetch(self._sql.settle_plain, self._offset_us(), *columns)
        else:
            await self._forget_results(batch)
            [(won, _, _)] = await self._fetch(self._sql.settle_full, self._offset_us(), *full_columns(batch))
            self._wakeups.wake(queues_to_wake(batch))
        return lost_ids(batch, won)

    async def turn(
        self, settlements: Settlements, queues: Sequence[str], *, limit: int, lease_s: float
    ) -> tuple[AbstractSet[str], list[Lease]]:
        check_queue_names(queues)
        check_follow_ups(settlements, body_bytes_max=self._body_bytes_max)
        batches, lost = independent_batches(settlements)
        plain = is_plain(settlements)
        if len(batches) != 1 or limit <= 0 or not queues or (not plain and makes_visible(settlements, queues)):
            # Two statements where one would not do: it could not lease what it makes visible itself.
            gone = await self.settle(settlements) if settlements else frozenset[str]()
            return gone, await self._claim(queues, limit, lease_s)
        [batch] = batches
        claim = self._claim_values(queues, limit, lease_s)
        if plain:
            values = [self._offset_us(), *held_columns([lease for lease, _ in batch]), *claim]
            rows = await self._fetch_claim(self._sql.turn_plain, *values)
        else:
            await self._forget_results(batch)
            values = [self._offset_us(), *full_columns(batch), *claim]
            rows = await self._fetch_claim(self._sql.turn_full, *values)
            self._wakeups.wake(queues_to_wake(batch))
        leases, won = self._taken(rows, claim)
        return lost | lost_ids(batch, won), leases

    async def _forget_results(self, batch: Settlements) -> None:
        """Remove some results that nobody may see any more, now and then, while new ones are written."""
        now = asyncio.get_running_loop().time()
        if now < self._forget_at or not any(isinstance(s, Complete) and s.result is not None for _, s in batch):
            return
        self._forget_at = now + FORGET_RESULTS_S
        await self._fetch(self._sql.forget_results, self._offset_us())

    # -- in the caller's transaction ---------------------------------------------------------------

    async def enqueue_in(self, connection: Any, messages: Sequence[Message]) -> list[str]:
        check_messages(messages, body_bytes_max=self._body_bytes_max)
        # Who dispatches on another database is told so; that needs to be known of our own.
        await self.open()
        return await self._in_callers.enqueue(connection, messages, self._store)

    def enqueue_in_sync(self, connection: Any, messages: Sequence[Message]) -> list[str]:
        check_messages(messages, body_bytes_max=self._body_bytes_max)
        return self._in_callers.enqueue_sync(connection, messages, self._store)

    async def settle_in(self, connection: Any, settlements: Settlements) -> AbstractSet[str]:
        check_follow_ups(settlements, body_bytes_max=self._body_bytes_max)
        await self.open()
        return await self._in_callers.settle(connection, settlements, self._store)

    def settle_in_sync(self, connection: Any, settlements: Settlements) -> AbstractSet[str]:
        check_follow_ups(settlements, body_bytes_max=self._body_bytes_max)
        return self._in_callers.settle_sync(connection, settlements, self._store)

    # -- looking ---------------------------------------------------------------------------------

    async def depth(self, queue: str) -> Depth:
        return await self._operator.depth(check_queue_name(queue))

    async def redrive(self, queue: str, *, limit: int) -> int:
        moved = await self._operator.redrive(check_queue_name(queue), limit)
        self._wakeups.wake({queue})
        return moved

    async def queues(self) -> list[str]:
        return await self._operator.queues()

    async def find(self, message_id: str) -> StoredMessage | None:
        return await self._operator.find(message_id)

    async def list_messages(
        self, queue: str, *, state: State | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        return await self._operator.list_messages(check_queue_name(queue), state, limit, cursor)

    async def cancel(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return await self._operator.remove(self._sql.cancel, message_ids)

    async def discard(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return await self._operator.remove(self._sql.discard, message_ids)

    async def purge(self, queue: str) -> int:
        return await self._operator.purge(check_queue_name(queue))

    async def fetch_result(self, message_id: str) -> bytes | None:
        return await self._operator.fetch_result(message_id)

    # -- schema ----------------------------------------------------------------------------------

    async def schema_version(self) -> int:
        return await self._address.apart(
            self._where, lambda connection: _postgres_schema.schema_version(connection, self._names)
        )

    def migrations(self) -> Sequence[Migration]:
        return _postgres_schema.migrations(self._names)

    async def migrate(self) -> list[int]:
        return await self._address.apart(
            self._where, lambda connection: _postgres_schema.migrate(connection, self._names)
        )
