"""Messages in Redis or Valkey: every operation is one script on the server, under the server's clock."""

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

from asynctasq.drivers.base import YES, Capabilities, Driver, Page, Settlements, partial
from asynctasq.drivers.batches import has_keys
from asynctasq.drivers.checks import check_messages, check_queue_names, is_message_id
from asynctasq.drivers.damaged import CLAIMS_MAX, log_damaged, read_text
from asynctasq.drivers.levels import LevelTurns, all_lines_of, line_of, lines_of
from asynctasq.drivers.loops import PerLoop
from asynctasq.drivers.redis_driver.address import (
    BODY_BYTES_MAX,
    RedisOptions,
    checked_connections,
    checked_namespace,
    option_types,
    parse_address,
)
from asynctasq.drivers.redis_driver.codec import (
    decode_damaged,
    decode_keyed,
    decode_leases,
    encode_keyed,
    encode_messages,
    encode_progress,
    encode_settlements,
)
from asynctasq.drivers.redis_driver.endings import EndListener
from asynctasq.drivers.redis_driver.inspection import Inspection
from asynctasq.drivers.redis_driver.pool import Argument, Pool
from asynctasq.drivers.redis_driver.server_checks import check_server
from asynctasq.drivers.redis_driver.waiting import BLOCK_S, WakeNext, WakeupListeners
from asynctasq.drivers.retention import PRUNED_AT_ONCE, RETENTION_OPTIONS, Retention
from asynctasq.drivers.urls import read_address, read_options
from asynctasq.errors import DispatchError, DriverError
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
    microseconds,
)
from asynctasq.logs import get_logger

__all__ = ["RedisDriver"]

logger = get_logger(__name__)

T = TypeVar("T")

WRONG_KEYS = ("WRONGTYPE", "value is not an integer", "would overflow")
"""What the server says of a key that no driver has written so."""
WAITING_KEY_MS = BLOCK_S * 1000 + 2000
MESSAGES_MAX, KEYED_MAX = 500_000, 100_000
"""Messages in one call, and where some have keys: a server takes about a million arguments in one command."""


@dataclass(frozen=True, slots=True)
class _LoopResources:
    """What the driver opens for one event loop."""

    pool: Pool
    listeners: WakeupListeners
    ends: EndListener
    wake_next: WakeNext


class RedisDriver(Driver):
    """Keep messages in Redis 6.2 to 8 or Valkey: one server, behind Sentinel, or one hash slot of a cluster.

    url: `redis://user:password@host:6379/0`, `rediss` for TLS, `redis+sentinel://host1,host2:26379/service/0`,
        `redis+cluster://node1,node2:6379`.
    namespace: the first part of every key, as hash tag (asynctasq); drivers of different namespaces share nothing.
    max_connections: at most so many calls at once in one event loop (20); waiting adds one per set of queues.
    dead_ttl, dead_max: how many seconds dead letters stay (90 days), and how many in a queue (100,000).
    Other options are those of `RedisOptions`; all may also stand in the query of the URL, arguments win.
    """

    capabilities = Capabilities(
        durable=partial(
            "as durable as the server: a crash loses what its append-only file has not yet written, up to a second "
            "with appendfsync everysec, and a failover what was not yet replicated, since replication is asynchronous"
        ),
        cross_process=YES,
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
        body_bytes_max=BODY_BYTES_MAX,
    )

    def __init__(
        self,
        url: str = "redis://localhost:6379",
        *,
        password: str | None = None,
        db: int | None = None,
        max_connections: int | None = None,
        clock_offset: float | None = None,
        namespace: str | None = None,
        **options: Any,
    ) -> None:
        parts = read_address("redis driver", url)
        named = {
            "password": password,
            "db": db,
            "max_connections": max_connections,
            "clock_offset": clock_offset,
            "namespace": namespace,
        }
        given = {**parts.options, **options, **{name: value for name, value in named.items() if value is not None}}
        types: dict[str, type] = {"password": str, "db": int, "max_connections": int, "clock_offset": float}
        types |= RETENTION_OPTIONS
        settings = read_options("redis driver", given, {**types, "namespace": str, **option_types()})
        chosen_password, chosen_db = settings.pop("password", None), settings.pop("db", None)
        self.clock_offset: float = settings.pop("clock_offset", 0.0)
        self._namespace = checked_namespace(settings.pop("namespace", "asynctasq"))
        self._max_connections = checked_connections(settings.pop("max_connections", 20))
        kept = {name: settings.pop(name) for name in RETENTION_OPTIONS if name in settings}
        self._retention = Retention(**kept)
        extra = RedisOptions(**settings)
        self._address = parse_address(parts, password=chosen_password, db=chosen_db, options=extra)
        self.tls = self._address.tls_text()
        self.capabilities = replace(
            type(self).capabilities,
            body_bytes_max=extra.body_bytes_max,
            dead_ttl=self._retention.dead_ttl,
            dead_max=self._retention.dead_max,
        )
        self._base = f"{{{self._namespace}}}:"
        self._resources = PerLoop[_LoopResources](
            self._open_resources, self._close_resources, lambda resources: resources.pool.abandon()
        )
        self._inspection = Inspection(self, self._base)
        self._levels = LevelTurns()

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        return cls(url, **options)

    def __str__(self) -> str:
        return f"{self._address.label} namespace {self._namespace}"

    # -- the connection --------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, refuse a server that is too old, and warn once per process of settings that lose messages."""
        await self._resources.get()

    async def close(self) -> None:
        await self._resources.close()

    async def _open_resources(self) -> _LoopResources:
        pool = Pool(self._address, size=self._max_connections, key=f"{self._base}sequence")

        async def wake_next(queues: Sequence[str]) -> None:
            await pool.script("wake_next", (self._offset_us(), *queues), repeat=None)

        listeners, ends = WakeupListeners(pool, self._base, wake_next), EndListener(pool, self._base)

        async def close_listeners() -> None:
            ends.close()
            await listeners.close()

        await pool.close_with_loop(close_listeners)
        try:
            await check_server(pool)
        except BaseException:
            await pool.close()
            raise
        return _LoopResources(pool, listeners, ends, wake_next)

    async def _close_resources(self, resources: _LoopResources) -> None:
        await resources.pool.close()

    async def script(self, name: str, *arguments: Argument, lines: Sequence[str] = ()) -> Any:
        """Run a script that may be repeated, under the shifted clock; for the other modules of this package."""
        complete = (self._offset_us(), *arguments)
        pool = (await self._resources.get()).pool
        return await self._repaired(pool, lambda: pool.script(name, complete, repeat=complete), lines)

    async def command(self, *arguments: Argument) -> Any:
        """Run a command that may be repeated; for the other modules of this package."""
        pool = (await self._resources.get()).pool
        return await self._repaired(pool, lambda: pool.command(*arguments), ())

    async def _repaired(self, pool: Pool, call: Callable[[], Awaitable[T]], lines: Sequence[str]) -> T:
        """Make a call, again once keys that are not what they should be, those of these lines too, are set aside."""
        try:
            return await call()
        except DriverError as error:
            if not _is_of_wrong_key(error):
                raise
            arguments: tuple[Argument, ...] = (self._offset_us(), *lines)
            found = await pool.script("repair", arguments, repeat=arguments)
            if not found:
                raise
        for what in found:
            logger.error("%s: a key was damaged and is set aside as damaged:*: %s", self, read_text(what))
        return await call()

    def _offset_us(self) -> int:
        return round(self.clock_offset * MICROSECONDS)

    # -- storing ---------------------------------------------------------------------------------

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        self._check(messages)
        if not messages:
            return []
        lines = [*{line_of(each) for each in messages}]
        if has_keys(messages):
            keyed = encode_keyed(messages, may_raise=True)
            return decode_keyed(await self.script("enqueue_keyed", *keyed, lines=lines), messages)
        reply = await self.script("enqueue", *encode_messages(messages), lines=lines)
        if isinstance(reply, int):
            return [message.id for message in messages]
        return [message_id.decode() for message_id in reply]

    def _check(self, messages: Sequence[Message]) -> None:
        most = KEYED_MAX if len(messages) > KEYED_MAX and has_keys(messages) else MESSAGES_MAX
        if len(messages) > most:
            raise DispatchError(f"{len(messages)} messages in one call; Redis takes at most {most}, split them")
        check_messages(messages, body_bytes_max=self.capabilities.body_bytes_max, fair=True)

    # -- reserving -------------------------------------------------------------------------------

    async def reserve(self, queues: Sequence[str], *, limit: int, lease_s: float, wait_s: float = 0) -> list[Lease]:
        deadline = asyncio.get_running_loop().time() + wait_s
        woken = False
        try:
            while True:
                _, leases = await self.turn((), queues, limit=limit, lease_s=lease_s)
                remaining_s = deadline - asyncio.get_running_loop().time()
                if leases or remaining_s <= 0:
                    return leases
                woken = await self.wait_visible(queues, wait_s=remaining_s)
                if not woken:
                    return []
        except asyncio.CancelledError:
            self._wake_next(queues if woken else ())
            raise

    async def reserve_released(self, leases: Sequence[Lease], *, lease_s: float) -> list[Lease]:
        if not leases:
            return []
        ids, tokens = [lease.message_id for lease in leases], [lease.token for lease in leases]
        holder, lease_us = self.holder, microseconds(lease_s)
        arguments: tuple[Argument, ...] = (self._offset_us(), lease_us, holder, len(leases), *ids, *tokens)
        pool = (await self._resources.get()).pool
        reply = await self._repaired(pool, lambda: pool.script("reserve_released", arguments, repeat=None), ())
        return decode_leases(reply)

    async def wait_visible(self, queues: Sequence[str], *, wait_s: float) -> bool:
        check_queue_names(queues)
        if await self._prune(queues):
            return True  # the caller's next reserve removes more
        resources = await self._resources.get()
        listener = resources.listeners.for_queues(queues)
        deadline = asyncio.get_running_loop().time() + wait_s
        woken = False
        try:
            while not resources.listeners.closed:
                due_s = await self._due_in(resources.pool, queues)
                remaining_s = deadline - asyncio.get_running_loop().time()
                if due_s == 0 or remaining_s <= 0:
                    return due_s == 0
                try:
                    woken = await listener.wait(min(remaining_s, due_s, BLOCK_S))
                except DriverError as error:
                    if not _is_of_wrong_key(error):  # one that a wake-up was to come by: the next look deletes it
                        raise
        except asyncio.CancelledError:
            self._wake_next(queues if woken else ())
            raise
        return False

    def _wake_next(self, queues: Sequence[str]) -> None:
        """Wake another client: we took the wake-up token, and will not reserve the message it announced."""
        resources = self._resources.get_if_open()
        if queues and resources is not None and not resources.listeners.closed:
            resources.pool.spawn(resources.wake_next(queues))

    async def _due_in(self, pool: Pool, queues: Sequence[str]) -> float:
        """Return seconds until the next message is visible, infinity if none will be; tell the server that we wait."""
        if not queues:
            return math.inf
        arguments: tuple[Argument, ...] = (self._offset_us(), WAITING_KEY_MS, *queues)
        call = functools.partial(pool.script, "next_visible", arguments, repeat=arguments)
        due_us = int(await self._repaired(pool, call, _lines(queues)))
        return math.inf if due_us < 0 else due_us / MICROSECONDS

    # -- settling --------------------------------------------------------------------------------

    async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
        if not leases:
            return frozenset()
        ids = [lease.message_id for lease in leases]
        tokens = [lease.token for lease in leases]
        return _ids(await self.script("extend", microseconds(lease_s), len(leases), *ids, *tokens))

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        lost, _ = await self.turn(settlements, (), limit=0, lease_s=0)
        return lost

    async def turn(
        self, settlements: Settlements, queues: Sequence[str], *, limit: int, lease_s: float
    ) -> tuple[AbstractSet[str], list[Lease]]:
        """Settle and reserve in one script.

        If the connection breaks in the middle, only the settlements are sent again: leases that were granted in
        a lost reply expire. A cancelled call hands back the leases it was granted.
        """
        check_queue_names(queues)
        script = "turn"
        for _, settlement in settlements:
            if settlement.follow_ups:
                self._check(settlement.follow_ups)
                script = "turn_keyed" if has_keys(settlement.follow_ups) else script
        limit = max(limit, 0) if queues else 0
        if not settlements and not limit:
            return frozenset(), []
        if limit:
            await self._prune(queues)
        lost, leases, damaged = await self._turn(script, settlements, queues, limit=limit, lease_s=lease_s)
        for _ in range(CLAIMS_MAX):  # one call makes a bounded number of dead letters
            if leases or not damaged:
                break
            _, leases, damaged = await self._turn("turn", (), queues, limit=limit, lease_s=lease_s)
        return lost, leases

    async def _turn(
        self, script: str, settlements: Settlements, queues: Sequence[str], *, limit: int, lease_s: float
    ) -> tuple[AbstractSet[str], list[Lease], bool]:
        """Return the ids of lost leases, new leases, and whether there were damaged messages."""
        pool = (await self._resources.get()).pool
        times = (self._offset_us(), microseconds(lease_s))
        lines = self._levels.all_lines(queues) if limit else []
        rest: tuple[Argument, ...] = (self.holder, len(lines), *lines, *encode_settlements(settlements))
        arguments: tuple[Argument, ...] = (*times, limit, *rest)
        repeat: tuple[Argument, ...] | None = arguments if not limit else (*times, 0, *rest) if settlements else None

        async def hand_back(reply: Any) -> None:
            await self._hand_back(pool, decode_leases(reply[1]))

        call = functools.partial(pool.script, script, arguments, repeat=repeat, on_cancelled=hand_back)
        lost, granted, damaged = await self._repaired(pool, call, lines)
        log_damaged(self, decode_damaged(damaged))
        self._levels.note(leases := decode_leases(granted))
        return _ids(lost), leases, bool(damaged)

    async def _prune(self, queues: Sequence[str]) -> bool:
        """Remove some of the dead letters that are to go, if it is time to look; return whether there are more."""
        keep = self._retention

        async def step() -> bool:
            numbers = keep.dead_ttl_us, keep.dead_max, PRUNED_AT_ONCE
            lines = [line for queue in queues for line in lines_of(queue)]
            return bool(await self.script("prune", *numbers, *lines, lines=lines))

        return await keep.prune(step, clock_offset=self.clock_offset)

    async def _hand_back(self, pool: Pool, leases: Sequence[Lease]) -> None:
        """Release the leases of a cancelled call, so that they do not expire and count as crashes."""
        if leases:
            settlements = encode_settlements([(lease, Release(counted=False)) for lease in leases])
            arguments = (self._offset_us(), 0, 0, "", 0, *settlements)
            await pool.script("turn", arguments, repeat=arguments)

    # -- inspecting ---------------------------------------------------------------------------------

    async def depth(self, queue: str) -> Depth:
        ready, scheduled, reserved, dead, oldest = await self.script(
            "depth", check_queue_name(queue), lines=all_lines_of(queue)
        )
        return Depth(
            ready=ready,
            scheduled=scheduled,
            reserved=reserved,
            dead=dead,
            oldest_age_s=int(oldest) / MICROSECONDS if oldest else None,
        )

    async def redrive(self, queue: str, *, limit: int) -> int:
        return int(await self.script("redrive", check_queue_name(queue), limit, lines=lines_of(queue)))

    async def queues(self) -> list[str]:
        return await self._inspection.queues()

    async def find(self, message_id: str) -> StoredMessage | None:
        return await self._inspection.find(message_id)

    async def list_messages(
        self, queue: str, *, state: State | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page:
        return await self._inspection.page(check_queue_name(queue), state=state, limit=limit, cursor=cursor)

    async def cancel(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return await self._inspection.remove("waiting", message_ids)

    async def discard(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return await self._inspection.remove("dead", message_ids)

    async def redrive_ids(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        return await self._inspection.redrive_ids(message_ids)

    async def purge(self, queue: str) -> int:
        return await self._inspection.purge(check_queue_name(queue))

    async def fetch_result(self, message_id: str) -> bytes | None:
        if not is_message_id(message_id):
            return None
        result: bytes | None = await self.script("result", message_id)
        return result

    async def wait_result(self, message_id: str, *, wait_s: float) -> bool:
        if not is_message_id(message_id):
            return True
        return await (await self._resources.get()).ends.wait(message_id, self.script, wait_s=wait_s)

    async def cancel_running(self, message_ids: Sequence[str]) -> Mapping[str, str]:
        return await self._inspection.cancel_running(message_ids)

    async def wait_cancelled(self, *, wait_s: float) -> bool:
        return await (await self._resources.get()).ends.wait_news(self.holder, self.script, wait_s=wait_s)

    async def report_progress(self, reports: Sequence[tuple[Lease, Progress]]) -> None:
        if reports:
            await self.script("progress", *encode_progress(reports))


def _is_of_wrong_key(error: DriverError) -> bool:
    """Say whether a call failed because a key is not what drivers make of it."""
    return any(text in str(error) for text in WRONG_KEYS)


def _ids(reply: Sequence[bytes]) -> AbstractSet[str]:
    return {message_id.decode() for message_id in reply} if reply else frozenset()


def _lines(queues: Sequence[str]) -> list[str]:
    return [line for queue in queues for line in all_lines_of(queue)]
