"""Connections of one event loop to one Redis: one command at a time on each, none left with an unread reply."""

import asyncio
import functools
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, cast

from hiredis import pack_command  # pyright: ignore[reportUnknownVariableType] - the stub leaves out what it returns
from redis import exceptions as redis_errors
from redis.asyncio.connection import Connection
from redis.crc import key_slot

from asynctasq.drivers.redis_driver.address import Address
from asynctasq.drivers.redis_driver.errors import is_connection_failure, is_refused, is_wrong_server, mapped_errors
from asynctasq.drivers.silence import BRIEF_BYTES_MAX, AnswerLimit
from asynctasq.errors import DriverError, DriverUnavailable

__all__ = ["SCRIPT_PARTS", "Argument", "Pool", "discard", "pack"]

Argument = str | bytes | int
Run = Callable[[Connection], Awaitable[Any]]
OnCancelled = Callable[[Any], Awaitable[None]]

IDLE_S = 15.0
BYTES_PER_S = 10_000_000
CLOSE_S = 2.0
BRIEF_SCRIPTS = frozenset(
    {"enqueue", "enqueue_keyed", "turn", "turn_keyed", "extend", "next_visible", "wake_next", "progress", "await_end"}
)
"""What takes milliseconds, unless it gets much."""

# The files of a script, and whether it may run while the server is at its memory limit: settling and
# reserving must, or a full server could never be drained again; only new messages are refused.
SCRIPT_PARTS: dict[str, tuple[tuple[str, ...], str]] = {
    "enqueue": (("common", "store", "enqueue"), ""),
    "enqueue_keyed": (("common", "removing", "held", "keyed", "enqueue_keyed"), ""),
    "turn": (("common", "damaged", "store", "settle", "reserve", "turn"), " flags=allow-oom"),
    # Each call of a script makes all of its functions, so those for keys are in a script of their own.
    "turn_keyed": (
        ("common", "damaged", "removing", "held", "keyed", "store", "settle", "reserve", "turn"),
        " flags=allow-oom",
    ),
    "extend": (("common", "extend"), " flags=allow-oom"),
    "reserve_released": (("common", "damaged", "reserve", "reserve_released"), " flags=allow-oom"),
    "redrive": (("common", "damaged", "redriving", "redrive"), " flags=allow-oom"),
    "redrive_ids": (("common", "damaged", "removing", "redriving", "redrive_ids"), " flags=allow-oom"),
    "next_visible": (("common", "next_visible"), " flags=allow-oom"),
    "wake_next": (("common", "wake_next"), " flags=allow-oom"),
    "progress": (("common", "progress"), " flags=allow-oom"),
    "await_end": (("common", "await_end"), " flags=allow-oom"),
    "result": (("common", "result"), " flags=allow-oom"),
    "cancel": (("common", "cancel"), " flags=allow-oom"),
    "remove": (("common", "removing", "remove"), " flags=allow-oom"),
    "prune": (("common", "held", "prune"), " flags=allow-oom"),
    "repair": (("common", "repair"), " flags=allow-oom"),
    "purge": (("common", "purge"), " flags=allow-oom"),
    "depth": (("common", "depth"), " flags=no-writes"),
    "show": (("common", "show"), " flags=no-writes"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One script as the server gets it, and the digest by which it is called."""

    name: str
    text: bytes
    digest: str


@functools.cache
def load_script(name: str, *, with_flags: bool) -> Script:
    """Return a script; `with_flags` for servers that know script flags, that is Redis 7 and Valkey."""
    parts, flags = SCRIPT_PARTS[name]
    folder = files("asynctasq.drivers.redis_driver") / "scripts"
    texts = [(folder / f"{part}.lua").read_text(encoding="utf-8") for part in parts]
    text = ((f"#!lua{flags}\n" if with_flags else "") + "\n".join(texts)).encode()
    return Script(name=name, text=text, digest=hashlib.sha1(text, usedforsecurity=False).hexdigest())


def pack(arguments: Sequence[Argument]) -> bytes:
    """Return a command as the bytes that go over the wire."""
    return cast("bytes", pack_command(tuple(arguments)))  # type: ignore[arg-type]  # the stub says a 1-tuple


async def read(connection: Connection) -> Any:
    """Return the next reply. Cancelled, it leaves the connection open, so that `Pool` can read on."""
    return await cast("Awaitable[Any]", connection.read_response(disable_decoding=True, disconnect_on_error=False))


async def discard(connection: Connection) -> None:
    """Close a connection at once, whatever is still to be read from it."""
    await connection.disconnect(nowait=True)


def _node_host(told: str, asked: str) -> str:
    """Return where a node is, as another one told: an empty host or '?' means its own."""
    return asked if told in {"", "?"} else told


class Pool:
    """Run commands and scripts, at most `size` at once. Belongs to the loop that made it.

    The reply to a cancelled call is read by a task, then its connection is used again; the connection of a call
    that ran out of time or failed is discarded.
    """

    def __init__(self, address: Address, *, size: int, key: str) -> None:
        self.address = address
        self.has_script_flags = False
        self.closed = False
        self._size = size
        self._key = key
        self._answer_limit = AnswerLimit(address.options.reply_timeout_s)
        self._slots = asyncio.Semaphore(size)
        self._idle: list[tuple[Connection, float]] = []
        self._loop = asyncio.get_running_loop()
        self._moved_to: tuple[str, int] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._lifetime: AsyncGenerator[None, None] | None = None

    # -- calls -----------------------------------------------------------------------------------

    async def command(self, *arguments: Argument) -> Any:
        """Run a command that may be repeated."""
        packed = pack(arguments)

        def run(connection: Connection) -> Awaitable[Any]:
            return self.exchange(connection, packed)

        return await self._call(run, repeat=lambda: run)

    async def script(
        self,
        name: str,
        arguments: Sequence[Argument],
        *,
        repeat: Sequence[Argument] | None,
        on_cancelled: OnCancelled | None = None,
    ) -> Any:
        """Run a script in one round trip.

        repeat: the arguments for another try after the connection failed in the middle, None for no other try.
        on_cancelled: called with the reply to a call that was cancelled while the server worked on it.
        """
        run = self._script_run(name, arguments)
        again = None if repeat is None else lambda: self._script_run(name, repeat)
        return await self._call(run, repeat=again, on_cancelled=on_cancelled)

    def _script_run(self, name: str, arguments: Sequence[Argument]) -> Run:
        script = load_script(name, with_flags=self.has_script_flags)
        packed = pack(("EVALSHA", script.digest, 1, self._key, *arguments))
        brief = name in BRIEF_SCRIPTS and len(packed) <= BRIEF_BYTES_MAX

        async def run(connection: Connection) -> Any:
            try:
                return await self.exchange(connection, packed, brief=brief)
            except redis_errors.NoScriptError:
                # A new or restarted server; EVAL also makes the script known for the next call.
                evaluated = pack(("EVAL", script.text, 1, self._key, *arguments))
                return await self.exchange(connection, evaluated, brief=brief)

        return run

    async def _call(
        self, run: Run, *, repeat: Callable[[], Run] | None, on_cancelled: OnCancelled | None = None
    ) -> Any:
        """Run once, and once more where that is safe: another server is in charge, or `repeat` makes what to run."""
        with mapped_errors(self.address.label):
            connection = await self._acquire()
            try:
                return await self._use(connection, run, on_cancelled)
            except (redis_errors.RedisError, OSError) as error:
                if is_wrong_server(error):
                    self._follow_redirect(error, connection)
                elif isinstance(error, TimeoutError):
                    await self._drop_idle()  # what made one connection silent has most likely made all silent
                    raise
                elif not is_connection_failure(error):
                    raise
                await self._drop_idle()
                if is_connection_failure(error):
                    if repeat is None:
                        raise
                    run = repeat()
            return await self._use(await self._acquire(), run, on_cancelled)

    async def _use(self, connection: Connection, run: Run, on_cancelled: OnCancelled | None) -> Any:
        try:
            reply = await run(connection)
        except redis_errors.ResponseError:
            await self._release(connection)
            raise
        except asyncio.CancelledError:
            # A connection that is still open has its whole command sent, and the reply is to come.
            if connection.is_connected and not self.closed:
                self.spawn(self._read_late_reply(connection, on_cancelled))
            else:
                self._slots.release()
                await discard(connection)
            raise
        except BaseException:
            self._slots.release()
            await discard(connection)
            raise
        await self._release(connection)
        return reply

    async def exchange(self, connection: Connection, packed: bytes, *, extra_s: float = 0, brief: bool = False) -> Any:
        """Send a command and read its reply, within the time a reply may take plus `extra_s`."""
        limit_s = self._answer_limit.seconds(self._loop.time(), brief=brief)
        try:
            async with asyncio.timeout(limit_s + extra_s + len(packed) / BYTES_PER_S):
                await connection.send_packed_command((packed,), check_health=False)
                return await read(connection)
        except TimeoutError:
            self._answer_limit.note_late(limit_s, self._loop.time())
            raise

    async def _read_late_reply(self, connection: Connection, on_cancelled: OnCancelled | None) -> None:
        """Read the reply of a call that was cancelled, so that its connection can be used again."""
        try:
            async with asyncio.timeout(self.address.options.reply_timeout_s):
                reply = await read(connection)
        except redis_errors.ResponseError:
            await self._release(connection)
            return
        except BaseException as error:
            self._slots.release()
            await discard(connection)
            if isinstance(error, (redis_errors.RedisError, OSError)):
                return
            raise
        await self._release(connection)
        if on_cancelled is not None:
            await on_cancelled(reply)

    # -- connections -----------------------------------------------------------------------------

    async def _acquire(self) -> Connection:
        if self._slots.locked():
            await self._wait_for_slot()
        else:
            await self._slots.acquire()
        try:
            while self._idle:
                connection, since = self._idle.pop()
                if self._loop.time() - since < IDLE_S or await self._answers(connection):
                    return connection
                await discard(connection)
                await self._drop_idle()
            return await self.connect()
        except BaseException:
            self._slots.release()
            raise

    async def _wait_for_slot(self) -> None:
        wait_s = self.address.options.connect_timeout_s + self.address.options.reply_timeout_s
        try:
            async with asyncio.timeout(wait_s):
                await self._slots.acquire()
        except TimeoutError as error:
            raise DriverUnavailable(
                f"{self.address.label}: all {self._size} connections were busy for {wait_s:g} s; raise max_connections"
            ) from error

    async def _answers(self, connection: Connection) -> bool:
        """Whether a connection that was idle for long is still good: servers and firewalls drop those."""
        try:
            async with asyncio.timeout(self.address.options.connect_timeout_s):
                await connection.send_packed_command((pack(("PING",)),), check_health=False)
                return bool(await read(connection) == b"PONG")
        except (redis_errors.RedisError, OSError):
            return False

    async def _release(self, connection: Connection) -> None:
        self._slots.release()
        if self.closed or not connection.is_connected:
            await discard(connection)
        else:
            self._idle.append((connection, self._loop.time()))

    async def connect(self) -> Connection:
        """Return a new connection that is logged in; raises what redis-py raises."""
        host, port = self._moved_to or await self._locate()
        connection = self.address.connection(host, port)
        try:
            await self._open(connection)
        except BaseException:
            self._moved_to = None
            raise
        return connection

    async def _open(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(self.address.options.connect_timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py has no types here
        except BaseException:
            await discard(connection)
            raise

    async def _locate(self) -> tuple[str, int]:
        """Return where the server is: the address itself, or what the first sentinel or node says that knows it."""
        address = self.address
        if address.service is None and not address.cluster:
            return address.hosts[0]
        ask = self._ask_node if address.cluster else self._ask_sentinel
        failures: list[str] = []
        for host, port in address.hosts:
            try:
                found = await ask(host, port)
            except (redis_errors.RedisError, OSError) as error:
                if is_refused(error):
                    raise
                failures.append(f"{host}:{port} {str(error) or 'did not answer in time'}")
            else:
                if found is not None:
                    return found
                failures.append(f"{host}:{port} does not know it")
        wanted = "node of the cluster" if address.cluster else "sentinel"
        what = f"the slot of {self._key!r}" if address.cluster else repr(address.service)
        raise DriverUnavailable(f"no {wanted} knows the master of {what}: {'; '.join(failures)}")

    async def _ask_sentinel(self, host: str, port: int) -> tuple[str, int] | None:
        connection = self.address.sentinel_connection(host, port)
        reply = await self._ask(connection, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.address.service or "")
        return (reply[0].decode(), int(reply[1])) if reply else None

    async def _ask_node(self, host: str, port: int) -> tuple[str, int] | None:
        slot = key_slot(self._key.encode())
        for first, last, (master, master_port, *_), *_ in await self._ask(
            self.address.connection(host, port), "CLUSTER", "SLOTS"
        ):
            if first <= slot <= last:
                return (_node_host((master or b"").decode(), host), int(master_port))
        return None

    async def _ask(self, connection: Connection, *command: str) -> Any:
        """Run one command on a connection that is for it alone."""
        await self._open(connection)
        try:
            return await self.exchange(connection, pack(command))
        finally:
            await discard(connection)

    def _follow_redirect(self, error: BaseException, refuser: Connection) -> None:
        """Use the node of a cluster that has our slot; in all other cases ask again where the master is."""
        self._moved_to = None
        if isinstance(error, redis_errors.MovedError):
            self._moved_to = (_node_host(str(error.host), refuser.host), error.port)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] - no types

    async def _drop_idle(self) -> None:
        """Close idle connections: what cut one has most likely cut all."""
        while self._idle:
            connection, _ = self._idle.pop()
            await discard(connection)

    # -- closing ------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task that may outlive its caller, but never the pool."""

        async def guarded() -> None:
            try:
                await work
            except DriverError:
                # Nobody waits for this task, and what it was to clean up expires: a lease, a wake-up token.
                return

        task = self._loop.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close_with_loop(self, before: Callable[[], Awaitable[None]]) -> None:
        """Close with the loop at the latest: asyncio.run finishes asynchronous generators. `before` is called first."""

        async def lifetime() -> AsyncGenerator[None, None]:
            try:
                yield
            finally:
                try:
                    await before()
                finally:
                    await self._close()

        self._lifetime = lifetime()
        await anext(self._lifetime)

    async def close(self) -> None:
        """Do now what `close_with_loop` prepared. Bounded in time."""
        if self._lifetime is not None:
            await self._lifetime.aclose()

    async def _close(self) -> None:
        """Let what is in flight finish for a moment, then close every connection. Bounded in time."""
        self.closed = True
        tasks = {task for task in self._tasks if task is not asyncio.current_task()}
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=CLOSE_S)
        finally:
            late = [task for task in tasks if not task.done()]
            for task in late:
                task.cancel()
            await self._drop_idle()
        if late:
            await asyncio.wait(late, timeout=CLOSE_S / 2)

    def abandon(self) -> None:
        """Drop the connections of a loop that was closed; the server sees them end."""
        self.closed = True
        self._idle.clear()
