"""Connections of the MySQL/MariaDB driver: opening, checking the server, pooling, and one mapping of errors.

The only file that calls asyncmy. A connection whose command did not end is never used again.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import asyncmy
from asyncmy.errors import MySQLError

from asynctasq.drivers.batches import batches_by_size
from asynctasq.drivers.loops import close_socket
from asynctasq.drivers.mysql_driver.address import Address
from asynctasq.drivers.mysql_driver.storing import Result
from asynctasq.drivers.silence import AnswerLimit, keep_alive
from asynctasq.drivers.sql.waiting import Waiter
from asynctasq.drivers.tls import certificate_refused
from asynctasq.errors import DriverError, DriverMisconfigured, DriverUnavailable

__all__ = ["Conflict", "Connection", "NoSuchTable", "Pool", "connect", "is_conflict", "mapped_errors", "packets"]

PACKET_BYTES = 1024 * 1024
"""Statements are packed up to this size; a single larger one goes alone."""
LOCK_WAIT_S = 4
"""Less than `SILENCE_S`: a call that waits for a lock is told so, rather than be given up."""

CONFLICTS = frozenset({1020, 1205, 1213})
"""Record changed, lock wait timeout, deadlock: after a rollback the whole transaction may run again."""
UNREACHABLE = frozenset(
    {
        *(1021, 1040, 1047, 1053, 1077, 1079, 1080, 1114, 1129, 1152, 1158, 1159, 1160, 1161, 1184, 1203, 1226),
        *(1290, 1317, 1792, 1836, 1927, 2002, 2003, 2006, 2013, 2014, 2055, 3024, 3032, 3169, 4031),
    }
)
"""Lost, shutting down, full, out of connections, read-only for the moment (a failover), or stopped by an operator."""
REFUSED = {
    1044: "the user has no right to use this database",
    1045: "user name or password is wrong",
    1049: "the database does not exist; create it",
    1142: "the user lacks a right on our tables",
    1153: "a packet is larger than the server's max_allowed_packet; raise it",
    1146: "our tables are missing; run: asynctasq migrate --driver mysql",
    1054: "our tables are outdated; run: asynctasq migrate --driver mysql",
    1698: "user name or password is wrong",
}

SESSION_SETTINGS = (
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET SESSION autocommit = 1, sql_mode = 'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION'",
    f"SET SESSION sql_safe_updates = 0, sql_select_limit = {2**64 - 1}, innodb_lock_wait_timeout = {LOCK_WAIT_S}",
    f"SET SESSION lock_wait_timeout = {LOCK_WAIT_S}",
)


# Its own annotations are inferred from defaults and wrong for most arguments.
_open = cast("Callable[..., Awaitable[Any]]", asyncmy.connect)  # pyright: ignore[reportUnknownMemberType]


class Conflict(DriverUnavailable):
    """The server rolled a transaction back because of another one."""


class NoSuchTable(DriverMisconfigured):
    """A table of ours is missing."""


def is_conflict(error: Exception) -> bool:
    """Say whether the whole transaction may simply run again."""
    return isinstance(error, Conflict)


@contextmanager
def mapped_errors(where: str) -> Generator[None, None, None]:
    """Turn what asyncmy and the network raise into errors of ours."""
    try:
        yield
    except MySQLError as error:
        raise _from_server(error, where) from error
    except TimeoutError as error:
        raise DriverUnavailable(
            f"{where} did not answer in time; is the server overloaded or the network cut?"
        ) from error
    except (OSError, EOFError) as error:
        raise DriverUnavailable(f"the connection to {where} failed: {error}") from error
    except RuntimeError as error:
        # asyncmy: a password that needs a missing package, or a transport that was closed meanwhile.
        if "cryptography" not in str(error):
            raise DriverUnavailable(f"the connection to {where} failed: {error}") from error
        raise DriverMisconfigured(
            f"{where} wants the password encrypted, which needs the package 'cryptography': install it, or use tls=on"
        ) from error


def _from_server(error: MySQLError, where: str) -> DriverError:
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    if refused := certificate_refused(error, where, option="tls_ca"):
        return refused
    if "WRONG_VERSION_NUMBER" in text:
        return DriverMisconfigured(
            f"{where} offers no TLS: turn it on at the server, or name less with tls=off ({text})"
        )
    if code in CONFLICTS:
        return Conflict(f"{where} kept rolling back for other transactions, or a lock was held too long: {text}")
    if code == 1146:
        return NoSuchTable(f"{where}: {REFUSED[code]} ({text})")
    if code in REFUSED:
        return DriverMisconfigured(f"{where}: {REFUSED[code]} ({text})")
    # Below 1000 are asyncmy's own: packets out of order, a closed connection.
    if code in UNREACHABLE or code < 1000:
        return DriverUnavailable(f"{where} can't be reached at the moment: {text}")
    return DriverError(f"{where} refused a statement with error {code}: {text}")


def packets(statements: Iterable[str]) -> Generator[str, None, None]:
    """Pack statements into texts of at most `PACKET_BYTES`, in order; a larger statement goes alone."""
    # One for the semicolon after each statement, but for the last.
    for packet in batches_by_size(statements, size_of=lambda text: len(text) + 1, size_max=PACKET_BYTES + 1):
        yield ";".join(packet)


class Connection:
    """One connection. It is `usable` only between commands that ended with an answer.

    `brief` says that what is run takes milliseconds, so that it is given up soon.
    """

    __slots__ = ("_answer_limit", "_raw", "_transport", "_where", "brief", "usable", "variables")

    def __init__(self, raw: Any, address: Address, answer_limit: AnswerLimit) -> None:
        self._raw = raw
        # asyncmy forgets it when it closes, and closes by waiting until everything was sent.
        self._transport: Any = getattr(raw, "_transport", None)
        self._where = str(address)
        self._answer_limit = answer_limit
        self.brief = False
        self.usable = True
        self.variables: dict[str, str] = {}

    @property
    def alive(self) -> bool:
        """Say whether it may be used again, as far as can be known without asking the server."""
        # Private, but the only way to learn that the server closed its end before a command is lost on it.
        return self.usable and not getattr(self._raw, "_stream_broken", False)

    async def run(self, *statements: str) -> list[Result]:
        """Send statements in as few packets as they fit into, and return a result for each.

        After an error the server skips the rest of that packet, and nothing of ours sends the next one.
        """
        self.usable = False
        results: list[Result] = []
        clock = asyncio.get_running_loop().time
        limit_s = self._answer_limit.seconds(clock(), brief=self.brief)
        with mapped_errors(self._where):
            try:
                async with asyncio.timeout(limit_s):
                    for packet in packets(statements):
                        await self._send(packet, results)
            except TimeoutError:
                self._answer_limit.note_late(limit_s, clock())
                raise
            except MySQLError as error:
                # The reply was read to its end, so another command may follow; the state of the transaction is unknown.
                self.usable = bool(error.args) and isinstance(error.args[0], int) and 1000 <= error.args[0] < 2000
                raise
        self.usable = True
        return results

    async def _send(self, packet: str, results: list[Result]) -> None:
        cursor = self._raw.cursor()
        await cursor.execute(packet)
        while True:
            results.append(Result(await cursor.fetchall() if cursor.description else (), cursor.rowcount))
            if not await cursor.nextset():
                return

    def abort(self) -> None:
        """Drop the connection at once: the server rolls back, and the socket closes in the loop's next iteration."""
        self.usable = False
        with contextlib.suppress(RuntimeError, OSError):
            self._raw.close()
            if self._transport is not None:
                self._transport.abort()

    async def close(self) -> None:
        """Send COM_QUIT, if that works within a second, and drop the connection."""
        try:
            if self.alive:
                with contextlib.suppress(MySQLError, OSError, RuntimeError, TimeoutError):
                    async with asyncio.timeout(1):
                        await self._raw.ensure_closed()
        finally:
            self.abort()

    def abandon(self) -> None:
        """Drop the connection of an event loop that was closed; nothing can be scheduled on it any more."""
        self.abort()
        close_socket(self._transport)


async def connect(address: Address, answer_limit: AnswerLimit | None = None) -> Connection:
    """Open a connection, set its session up and check that the server is one we can use.

    Raises: DriverMisconfigured for a server that is too old or logs statements instead of rows.
    """
    with mapped_errors(str(address)):
        # asyncmy bounds the TCP connect alone; a server that accepts and never answers would block us for ever.
        async with asyncio.timeout(address.connect_timeout_s):
            raw: Any = await _open(
                host=address.host,
                port=address.port,
                unix_socket=address.unix_socket,
                user=address.user,
                # As bytes: asyncmy would encode a text as Latin-1.
                password=address.password.encode(),
                database=address.database,
                ssl=address.ssl_context(),
                connect_timeout=address.connect_timeout_s,
                charset="utf8mb4",
                autocommit=None,
            )
    connection = Connection(raw, address, answer_limit or AnswerLimit(address.command_timeout_s))
    connection.brief = True
    try:
        keep_alive(raw._transport)  # noqa: SLF001 - there is no other way to it
        shown = "'version', 'log_bin', 'binlog_format', 'max_allowed_packet'"
        *_, variables = await connection.run(*SESSION_SETTINGS, f"SHOW VARIABLES WHERE Variable_name IN ({shown})")
        connection.variables = dict(variables.rows)
        check_server(connection.variables, str(address))
    except BaseException:
        connection.abort()
        raise
    connection.brief = False
    return connection


def check_server(variables: dict[str, str], where: str) -> None:
    """Raise `DriverMisconfigured` for MySQL before 8.0, MariaDB before 10.6, or a statement-based binary log."""
    text = variables["version"]
    name, least = ("MariaDB", (10, 6)) if "mariadb" in text.lower() else ("MySQL", (8, 0))
    parts = text.split("-")[0].split(".")
    version = tuple(int(part) for part in parts[:2] if part.isdigit())
    if version < least:
        raise DriverMisconfigured(
            f"{where} runs {name} {text}; SKIP LOCKED needs {name} {least[0]}.{least[1]} or later: upgrade the server"
        )
    if variables.get("log_bin", "OFF").upper() == "ON" and variables.get("binlog_format", "").upper() == "STATEMENT":
        raise DriverMisconfigured(
            f"{where} logs statements, which READ COMMITTED does not allow: set binlog_format to ROW or MIXED"
        )


class Pool:
    """The connections of one event loop, opened when needed, the one used last first."""

    def __init__(self, open_: Callable[[], Awaitable[Connection]], *, size: int) -> None:
        self._open = open_
        self._free: list[Connection] = []
        self._busy: set[Connection] = set()
        self._slots = asyncio.Semaphore(size)
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.waiters: set[Waiter] = set()

    @asynccontextmanager
    async def connection(self, *, brief: bool = False) -> AsyncGenerator[Connection, None]:
        """Lend a connection; take it back only if no reply is left unread and no transaction is open on it."""
        async with self._slots:
            connection = self._take() or await self._open()
            connection.brief = brief
            self._busy.add(connection)
            self._idle.clear()
            try:
                yield connection
            except DriverError:
                await self._recover(connection)
                raise
            except BaseException:
                connection.usable = False
                raise
            finally:
                self._give_back(connection)

    def _take(self) -> Connection | None:
        while self._free:
            connection = self._free.pop()
            if connection.alive:
                return connection
            connection.abort()
        return None

    async def _recover(self, connection: Connection) -> None:
        """Roll back what the failed command left open; where one connection is lost, drop the idle ones too."""
        if connection.alive:
            with contextlib.suppress(DriverError):
                await connection.run("ROLLBACK")
        if not connection.alive:
            while self._free:
                self._free.pop().abort()

    def _give_back(self, connection: Connection) -> None:
        self._busy.discard(connection)
        if not self._busy:
            self._idle.set()
        if connection.alive and not self._closed:
            self._free.append(connection)
        else:
            connection.abort()

    async def close(self) -> None:
        """End waiting calls and close every connection; commands under way get two seconds."""
        self._closed = True
        for waiter in list(self.waiters):
            waiter.close()
        free, self._free = self._free, []
        try:
            await asyncio.gather(*(connection.close() for connection in free))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await self._idle.wait()
        finally:
            # Also if closing is cancelled: nobody else knows these connections any more.
            for connection in [*free, *self._busy]:
                connection.abort()
        # One iteration of the loop, in which sockets are closed: it may be the last.
        await asyncio.sleep(0)

    def abandon(self) -> None:
        """Drop everything without a loop."""
        for connection in [*self._free, *self._busy]:
            connection.abandon()
