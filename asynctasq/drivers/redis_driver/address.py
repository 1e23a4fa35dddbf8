"""Where a Redis is and how to log in, read from a URL; opens nothing and shows no password."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from redis.asyncio.connection import Connection, SSLConnection

from asynctasq.drivers.silence import SILENCE_S, keepalive_options
from asynctasq.drivers.tls import describe
from asynctasq.drivers.urls import ServerAddress
from asynctasq.errors import ConfigError
from asynctasq.kernel.messages import QUEUE_NAME

__all__ = [
    "BODY_BYTES_MAX",
    "Address",
    "RedisOptions",
    "checked_connections",
    "checked_namespace",
    "option_types",
    "parse_address",
]

FINDERS = {"": 6379, "+sentinel": 26379, "+cluster": 6379}
"""How a server is found, by the end of the scheme, and the port that is meant when none is named."""
SCHEMES = {
    f"{scheme}{finder}": (tls, finder) for scheme, tls in {"redis": False, "rediss": True}.items() for finder in FINDERS
}
BODY_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """Settings that are rarely needed; each may also stand in the query of the URL.

    connect_timeout_s: for a connection, login included, and for a free connection of the pool.
    reply_timeout_s: the longest time for one command; large ones get more. Brief ones are given up after 5 s.
    body_bytes_max: largest body; Redis itself stops below 512 MiB and is blocked while it copies one.
    ssl_*: for `rediss://`; files in PEM format, `ssl_cert_reqs` one of required, optional, none.
    """

    username: str | None = None
    connect_timeout_s: float = SILENCE_S
    reply_timeout_s: float = 15.0
    body_bytes_max: int = BODY_BYTES_MAX
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    ssl_ca_certs: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_cert_reqs: str = "required"
    ssl_check_hostname: bool = True

    def check(self) -> None:
        """Raise ConfigError for what can't work."""
        if self.connect_timeout_s <= 0 or self.reply_timeout_s <= 0:
            raise ConfigError("redis driver: connect_timeout_s and reply_timeout_s must be above 0")
        if not 0 < self.body_bytes_max <= 511 * 1024 * 1024:
            raise ConfigError("redis driver: body_bytes_max must be 1 to 535822336 (511 MiB), Redis takes no more")
        if self.ssl_cert_reqs not in {"required", "optional", "none"}:
            raise ConfigError(f"redis driver: ssl_cert_reqs is {self.ssl_cert_reqs!r}; use required, optional or none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A server, the sentinels that know it, or nodes of its cluster. `label` is for texts and has no secret."""

    label: str
    hosts: tuple[tuple[str, int], ...]
    service: str | None
    cluster: bool
    db: int
    tls: bool
    username: str | None
    password: str | None = field(repr=False)
    options: RedisOptions

    def tls_text(self) -> str:
        """Return how connections are protected, for banners."""
        options = self.options
        checked, by = "certificate and host name are", "the scheme of the address"
        if options.ssl_cert_reqs == "none":
            checked, by = "", "ssl_cert_reqs=none"
        elif not options.ssl_check_hostname:
            checked = "the certificate is, its host name is not"
        return describe([host for host, _ in self.hosts], encrypted=self.tls, checked=checked, by=by)

    def connection(self, host: str, port: int) -> Connection:
        """Return an unconnected connection to a Redis; its traceback frames hold no password of ours."""
        return self._connection(host, port, db=self.db, username=self.username, password=self.password)

    def sentinel_connection(self, host: str, port: int) -> Connection:
        """Return an unconnected connection to a sentinel, which has its own login."""
        options = self.options
        return self._connection(
            host, port, db=0, username=options.sentinel_username, password=options.sentinel_password
        )

    def _connection(self, host: str, port: int, *, db: int, username: str | None, password: str | None) -> Connection:
        options = self.options
        common: dict[str, Any] = {
            "host": host,
            "port": port,
            "db": db,
            "username": username,
            "password": password,
            # Timeouts are the caller's: here they would cost a task per command and break long blocking reads.
            "socket_timeout": None,
            "socket_connect_timeout": options.connect_timeout_s,
            "socket_keepalive": True,
            "socket_keepalive_options": keepalive_options(),
            "client_name": "asynctasq",
            "protocol": 2,
        }
        if not self.tls:
            return Connection(**common)
        return SSLConnection(
            ssl_ca_certs=options.ssl_ca_certs,
            ssl_certfile=options.ssl_certfile,
            ssl_keyfile=options.ssl_keyfile,
            ssl_cert_reqs=options.ssl_cert_reqs,
            ssl_check_hostname=options.ssl_check_hostname,
            **common,
        )


def parse_address(parts: ServerAddress, *, password: str | None, db: int | None, options: RedisOptions) -> Address:
    """Read the parts of a URL; what is given besides it wins.

    Raises: ConfigError that names the part, without what it is.
    """
    options.check()
    if parts.scheme not in SCHEMES:
        raise ConfigError(f"redis driver: the address has no scheme of {', '.join(sorted(SCHEMES))}")
    tls, finder = SCHEMES[parts.scheme]
    hosts = tuple(parts.host_and_port(host, FINDERS[finder]) for host in parts.hosts)
    service, path_db = _split_path(parts.path.strip("/"), by_sentinel=finder == "+sentinel")
    if not finder and len(hosts) > 1:
        raise ConfigError(
            "redis driver: the address names several hosts; say what they are: redis+cluster:// for nodes of a "
            "cluster, redis+sentinel:// for sentinels"
        )
    chosen_db = _db_number(db if db is not None else path_db or "0")
    if finder == "+cluster" and chosen_db:
        raise ConfigError("redis driver: the address of a cluster names a database; a cluster has database 0 only")
    return Address(
        label=parts.label,
        hosts=hosts,
        service=service,
        cluster=finder == "+cluster",
        db=chosen_db,
        tls=tls,
        username=options.username or parts.user,
        password=password if password is not None else parts.password or None,
        options=options,
    )


def _split_path(path: str, *, by_sentinel: bool) -> tuple[str | None, str | None]:
    """Return the sentinels' name of the service, and the database, each if the path has one."""
    if not by_sentinel:
        return None, path or None
    service, _, db = path.partition("/")
    if not service:
        raise ConfigError("redis driver: the address lacks the service: redis+sentinel://host:26379/mymaster")
    return unquote(service), db or None


def _db_number(value: str | int) -> int:
    try:
        number = int(value)
    except ValueError:
        number = -1
    if number < 0:
        raise ConfigError("redis driver: db in the address must be a whole number: redis://host:6379/1")
    return number


def option_types() -> Mapping[str, type]:
    """Return the names that may stand in a query besides those of the constructor, with their types."""
    return {
        "username": str,
        "connect_timeout_s": float,
        "reply_timeout_s": float,
        "body_bytes_max": int,
        "sentinel_username": str,
        "sentinel_password": str,
        "ssl_ca_certs": str,
        "ssl_certfile": str,
        "ssl_keyfile": str,
        "ssl_cert_reqs": str,
        "ssl_check_hostname": bool,
    }


def checked_namespace(namespace: str) -> str:
    """Return the first part of the keys; raise ConfigError for one that a key could not begin with."""
    if not QUEUE_NAME.match(namespace):
        raise ConfigError(
            f"redis driver: namespace {namespace!r} is not valid: use 1 to 80 letters, digits, '_', '-', '.' or ':'"
        )
    return namespace


def checked_connections(count: int) -> int:
    """Return how many connections there may be; raise ConfigError for none."""
    if count >= 1:
        return count
    raise ConfigError(f"redis driver: max_connections is {count}; at least 1 is needed")
