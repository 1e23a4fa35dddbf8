"""Where a PostgreSQL is, how to log in and how the way there is protected, read from a URL; shows no password."""

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import asyncpg

from asynctasq.drivers.postgres_driver.errors import mapped_errors
from asynctasq.drivers.postgres_driver.pool import CANCELLED_GRACE_S, LOCK_WAIT_S, Operation, close_bounded
from asynctasq.drivers.retention import RETENTION_OPTIONS
from asynctasq.drivers.silence import keep_alive
from asynctasq.drivers.tls import describe, is_local, verifying_context
from asynctasq.drivers.urls import read_address
from asynctasq.errors import ConfigError
from asynctasq.logs import get_logger

__all__ = ["OPTIONS", "Address", "TlsOptions", "is_pooled"]

logger = get_logger(__name__)

OPTIONS: dict[str, type] = {
    **dict.fromkeys(("schema", "table_prefix", "sslmode", "sslrootcert", "sslcert", "sslkey"), str),
    **dict.fromkeys(("max_connections", "body_bytes_max"), int),
    **dict.fromkeys(("statement_cache", "listen", "notify", "auto_migrate"), bool),
    **RETENTION_OPTIONS,
    **dict.fromkeys(("clock_offset", "connect_timeout_s", "command_timeout_s", "poll_s_max"), float),
}
"""What the query of an address may hold."""

T = TypeVar("T")

_connect: Callable[..., Awaitable[Any]] = asyncpg.connect  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType] - its parameters are not annotated

# The plans are known to be right whatever the statistics say: each walks one index in its order. Left alone,
# the planner would plan again at every call, or keep for a full table the plan of an empty one.
PLANNER_SETTINGS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}


def _set(settings: Mapping[str, str]) -> str:
    return "SELECT " + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items())


SET_PLANNER = _set(PLANNER_SETTINGS)
SET_FOR_CALLS = _set({**PLANNER_SETTINGS, "lock_timeout": f"{LOCK_WAIT_S:g}s"})

told_of_pooler: set[str] = set()
"""What this process has said already."""

CHECKED = {"verify-ca": "the certificate is, its host name is not", "verify-full": "certificate and host name are"}
ENCRYPTED = ("require", *CHECKED)
MODES = ("disable", "allow", "prefer", *ENCRYPTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """What an address says of TLS, by the names of libpq. The other three are files in PEM format."""

    sslmode: str | None = None
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """What was chosen. `mode` None: the server is on this machine, and asyncpg's own default holds."""

    mode: str | None
    files: TlsOptions
    text: str

    @classmethod
    def choose(cls, options: TlsOptions, hosts: Sequence[str]) -> "Tls":
        """Check everything, unless the server is on this machine or less is asked for."""
        mode = options.sslmode
        if mode is None and (options.sslrootcert is not None or not all(map(is_local, hosts))):
            mode = "verify-full"
        if mode is not None and mode not in MODES:
            raise ConfigError(f"postgres driver option 'sslmode' must be one of {', '.join(MODES)}, not {mode!r}")
        if options.sslrootcert is not None and mode not in CHECKED:
            raise ConfigError(
                f"postgres driver option 'sslrootcert' checks nothing with sslmode={mode}; use verify-full or verify-ca"
            )
        if (options.sslcert or options.sslkey) and mode not in ENCRYPTED:
            raise ConfigError(f"postgres driver options 'sslcert' and 'sslkey' need sslmode={', '.join(ENCRYPTED)}")
        checked = CHECKED.get(mode or "", "")
        text = describe(hosts, encrypted=mode in ENCRYPTED, checked=checked, by=f"sslmode={mode}")
        return cls(mode=mode, files=options, text=text)

    def argument(self) -> str | ssl.SSLContext | None:
        """Return what asyncpg takes as `ssl`; made for each connection, so that replaced files are read again."""
        if self.mode not in ENCRYPTED:
            return self.mode
        files = self.files
        context = verifying_context(
            "postgres driver", authorities=files.sslrootcert, certificate=files.sslcert, key=files.sslkey
        )
        context.check_hostname = self.mode == "verify-full"
        if self.mode == "require":
            context.verify_mode = ssl.CERT_NONE
        return context


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """How to connect. The password is kept out of the DSN and of every text."""

    dsn: str
    password: str | None
    tls: Tls
    timeout_s: float

    @classmethod
    def parse(cls, url: str, tls: TlsOptions, *, timeout_s: float) -> "Address":
        """Take the password out of a URL; it may hold an unescaped `@`.

        Raises: ConfigError for an address that can't be read, and for options of TLS that do not fit together.
        """
        parts = read_address("postgres driver", url)
        user = "" if parts.user is None else f"{quote(parts.user, safe='')}@"
        return cls(
            dsn=f"{parts.scheme}://{user}{','.join(parts.hosts)}/{parts.path}",
            password=parts.password,
            tls=Tls.choose(tls, _hosts(parts.hosts)),
            timeout_s=timeout_s,
        )

    async def connect(self, prepare: bool, settings: str = SET_PLANNER) -> Any:
        """Open a connection; with the settings that our statements count on, if they are to stay prepared on it."""
        opening = asyncio.ensure_future(self._connect(settings if prepare else None))
        try:
            await asyncio.wait((opening,))
        except asyncio.CancelledError:
            await _give_up(opening)
            raise
        return opening.result()

    async def connect_for_calls(self, prepare: bool) -> Any:
        """Open a connection on which no call waits long for a lock."""
        return await self.connect(prepare, SET_FOR_CALLS)

    async def _connect(self, settings: str | None) -> Any:
        async with asyncio.timeout(self.timeout_s):
            return await self._connect_and_set(settings)

    async def _connect_and_set(self, settings: str | None) -> Any:
        options: dict[str, Any] = {} if self.password is None else {"password": self.password}
        if self.tls.mode is not None:
            options["ssl"] = self.tls.argument()
        connection = await _connect(
            self.dsn,
            timeout=self.timeout_s,
            statement_cache_size=0 if settings is None else 200,
            max_cached_statement_lifetime=0,
            server_settings={"application_name": "asynctasq"},
            **options,
        )
        try:
            keep_alive(connection._transport)  # noqa: SLF001 - there is no other way to it
            # Without the cache each statement is planned with its values, and a setting would not stay anyway
            # behind a pooler that changes the server connection at every transaction.
            if settings is not None:
                await connection.fetchrow(settings)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def run_alone(self, where: str, operation: Operation[T]) -> T:
        """Run on a new connection, closed afterwards: the pool opens only on a schema that is up to date."""
        with mapped_errors(where):
            connection = await self.connect(prepare=False)
            try:
                result = await operation(connection)
            except BaseException:
                connection.terminate()
                raise
            await close_bounded(connection)
            return result


async def _give_up(opening: "asyncio.Future[Any]") -> None:
    """Let a connect end by itself if that takes a moment: asyncpg, cancelled in it, leaves an exception to the loop."""
    try:
        await asyncio.wait((opening,), timeout=CANCELLED_GRACE_S)
    finally:
        opening.add_done_callback(_drop)
        opening.cancel()


def _drop(opening: "asyncio.Future[Any]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().terminate()


async def is_pooled(connection: Any, where: str) -> bool:
    """Say whether a pooler such as PgBouncer stands between, and log once per process what that changes.

    It hands us the number of a process of its own making when we connect; the server knows its own. Not to be asked
    on a connection that keeps statements prepared: behind a pooler for transactions they are lost at once.
    """
    if await connection.fetchval("SELECT pg_backend_pid()") == connection.get_server_pid():
        return False
    if where not in told_of_pooler:
        told_of_pooler.add(where)
        logger.warning(
            "%s is behind a pooler of connections: no statement stays prepared, and waiting calls poll instead of "
            "listening. If it pools sessions, statement_cache=yes and listen=yes are faster",
            where,
        )
    return True


def _hosts(given: Sequence[str]) -> list[str]:
    """Return the hosts of an address without their ports; where it names none, where asyncpg then looks."""
    if not any(given):
        # A service file may name any host.
        return [os.environ.get("PGHOST") or ("PGSERVICE" if os.environ.get("PGSERVICE") else "")]
    hosts = [text.partition("]")[0] if text.startswith("[") else text.partition(":")[0] for text in given]
    return [unquote(host) for host in hosts]
