"""Driver addresses: scheme table, the parts of an address, options in its query, and texts without secrets."""

import importlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from asynctasq.drivers.base import Driver
from asynctasq.errors import ConfigError, MissingExtra

__all__ = [
    "SCHEMES",
    "ServerAddress",
    "create_driver",
    "names_kind_of",
    "read_address",
    "read_options",
    "redact",
    "split_options",
    "sqlite_url",
]

SCHEMES: dict[str, tuple[str, str]] = {
    "memory": ("asynctasq.drivers.memory_driver:MemoryDriver", "memory://"),
    "sqlite": ("asynctasq.drivers.sqlite_driver:SQLiteDriver", "sqlite:///.asynctasq/queue.db"),
    "redis": ("asynctasq.drivers.redis_driver:RedisDriver", "redis://localhost:6379"),
    "rediss": ("asynctasq.drivers.redis_driver:RedisDriver", "rediss://localhost:6379"),
    "redis+sentinel": ("asynctasq.drivers.redis_driver:RedisDriver", "redis+sentinel://localhost:26379/mymaster"),
    "rediss+sentinel": ("asynctasq.drivers.redis_driver:RedisDriver", "rediss+sentinel://localhost:26379/mymaster"),
    "redis+cluster": ("asynctasq.drivers.redis_driver:RedisDriver", "redis+cluster://localhost:6379"),
    "rediss+cluster": ("asynctasq.drivers.redis_driver:RedisDriver", "rediss+cluster://localhost:6379"),
    "postgres": ("asynctasq.drivers.postgres_driver:PostgresDriver", "postgres://localhost:5432/postgres"),
    "postgresql": ("asynctasq.drivers.postgres_driver:PostgresDriver", "postgresql://localhost:5432/postgres"),
    "mysql": ("asynctasq.drivers.mysql_driver:MySQLDriver", "mysql://localhost:3306/asynctasq"),
    "mariadb": ("asynctasq.drivers.mysql_driver:MySQLDriver", "mariadb://localhost:3306/asynctasq"),
    "sqs": ("asynctasq.drivers.sqs_driver:SQSDriver", "sqs://"),
}
"""Scheme -> (class to import, address to use when only the name is given)."""
NAME = re.compile(r"[a-z][a-z0-9+_-]*")
HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[\w.%-]*)(?::[0-9]{1,5})?"
ADDRESS = (
    r"(?P<scheme>[a-z][a-z0-9+]*)://(?:(?P<userinfo>[^/?#]*)@)?"
    rf"(?P<hosts>{HOST}(?:,{HOST})*)(?P<path>/[^?#@]*)?(?:\?(?P<query>[^#@]*))?"
)
"""Where a password could be meant by what follows the host, such as an `@` in the path, an address does not match."""
PORT_MAX = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    """The parts of an address, decoded but for `hosts` and `path`. `label` is for texts and has no secret."""

    scheme: str
    user: str | None = field(repr=False)
    password: str | None = field(repr=False)
    hosts: tuple[str, ...]
    path: str
    options: Mapping[str, str] = field(repr=False)
    label: str

    def host_and_port(self, host: str, default_port: int) -> tuple[str, int]:
        """Return the parts of one of the hosts; one that is left out is this machine."""
        name, _, port = host[1:].partition("]") if host.startswith("[") else host.partition(":")
        return unquote(name) or "localhost", int(port.removeprefix(":") or default_port)


def read_address(owner: str, url: str) -> ServerAddress:
    """Take an address of a server apart.

    Raises: ConfigError that shows no part of it, since any may be the password's.
    """
    found = re.fullmatch(ADDRESS, url)
    if found is None or not url.isprintable() or any(port > PORT_MAX for port in _ports(found["hosts"])):
        raise ConfigError(
            f"{owner}: the address can't be read; write SCHEME://USER:PASSWORD@HOST:PORT/..., the port a number, no "
            "spaces around it, percent-encode / ? # @ in a password (%2F %3F %23 %40). It is not shown: it may hold one"
        )
    user, colon, password = (found["userinfo"] or "").partition(":")
    path = (found["path"] or "").removeprefix("/")
    at = "***@" if found["userinfo"] else ""
    return ServerAddress(
        scheme=found["scheme"],
        user=unquote(user) or None,
        password=unquote(password) if colon else None,
        hosts=tuple(found["hosts"].split(",")),
        path=path,
        options=_options(found["query"] or ""),
        label=f"{found['scheme']}://{at}{found['hosts']}{found['path'] or ''}",
    )


def _ports(hosts: str) -> list[int]:
    return [int(port) for port in re.findall(r":([0-9]+)(?:,|$)", hosts)]


def create_driver(address: str, **options: Any) -> Driver:
    """Return the driver for a name (`redis`) or a URL (`redis://host:6379/1?max_connections=5`); opens nothing.

    Other packages add schemes through the entry point group `asynctasq.drivers`.

    Raises: ConfigError for an unknown scheme, MissingExtra if the driver's library is not installed.
    """
    scheme = address.split("://", 1)[0]
    target, default_url = SCHEMES.get(scheme) or _from_entry_point(scheme)
    module_name, _, class_name = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "asynctasq":
            raise ConfigError(f"driver {scheme!r} is not part of this build: {error}") from error
        extra = next((name for name, (known, _) in SCHEMES.items() if known == target), scheme)
        raise MissingExtra(
            f"driver {scheme!r} needs the package {error.name!r}; install it with: pip install 'asynctasq[{extra}]'"
        ) from error
    driver: Driver = getattr(module, class_name).from_url(address if "://" in address else default_url, **options)
    return driver


def _from_entry_point(scheme: str) -> tuple[str, str]:
    for entry in entry_points(group="asynctasq.drivers", name=scheme):
        return entry.value, f"{scheme}://"
    known = sorted({*SCHEMES, *(entry.name for entry in entry_points(group="asynctasq.drivers"))})
    nearest = get_close_matches(scheme, known, 1)
    if NAME.fullmatch(scheme) and nearest:
        raise ConfigError(f"no driver {scheme!r}; did you mean {nearest[0]!r}?")
    raise ConfigError(
        f"no driver has the name or address that was given; known names: {', '.join(known)}; an address begins with "
        "SCHEME://. What was given is not shown: it may hold a password"
    )


def names_kind_of(name: str, address: str) -> bool:
    """Whether `name` is a driver's bare name, and `address` a URL of that driver (`postgres`, `postgresql://h/db`)."""
    scheme, is_url, _ = address.partition("://")
    return bool(is_url) and name in SCHEMES and scheme in SCHEMES and SCHEMES[name][0] == SCHEMES[scheme][0]


def split_options(url: str) -> tuple[str, dict[str, str]]:
    """Split a URL from the options in its query."""
    address, _, query = url.partition("?")
    return address, _options(query)


def _options(query: str) -> dict[str, str]:
    return dict(parse_qsl(query, keep_blank_values=True))


def sqlite_url(path: Path) -> str:
    """Return the address of a SQLite file; a relative path stays relative to the working directory."""
    return f"sqlite:///{quote(str(path))}"


def redact(url: str) -> str:
    """Return a driver's name or address without user, password and query; `***` for what can't be taken apart."""
    if url in SCHEMES:
        return url
    try:
        return read_address("driver", url).label
    except ConfigError:
        return "***"


def read_options(owner: str, given: Mapping[str, Any], known: Mapping[str, type]) -> dict[str, Any]:
    """Convert texts from a URL to the types in `known` (bool, int, float, str).

    Raises: ConfigError naming the nearest known option, or the option whose value does not fit. What was given is not
    shown: of a mistyped address it may be a part of the password.
    """
    options: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            nearest = get_close_matches(name, known, 1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(sorted(known))}"
            raise ConfigError(f"{owner}: an option that was given is unknown; {hint}")
        options[name] = _convert(owner, name, value, known[name])
    return options


def _convert(owner: str, name: str, value: Any, wanted: type) -> Any:
    if not isinstance(value, str) or wanted is str:
        return value
    try:
        if wanted is bool:
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[value.lower()]
        number = wanted(value)
    except (KeyError, ValueError):
        raise ConfigError(f"{owner} option {name!r} must be a {wanted.__name__}") from None
    if isinstance(number, float) and not math.isfinite(number):
        raise ConfigError(f"{owner} option {name!r} must be a finite number")
    return number
