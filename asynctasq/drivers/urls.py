"""Driver addresses: scheme table, options in the query, and texts without secrets."""

import importlib
import math
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

from asynctasq.drivers.base import Driver
from asynctasq.errors import ConfigError, MissingExtra

__all__ = ["SCHEMES", "create_driver", "names_kind_of", "read_options", "redact", "split_options", "sqlite_url"]

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
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}"
    raise ConfigError(f"no driver for {redact(scheme)!r}; {hint}")


def names_kind_of(name: str, address: str) -> bool:
    """Whether `name` is a driver's bare name, and `address` a URL of that driver (`postgres`, `postgresql://h/db`)."""
    scheme, is_url, _ = address.partition("://")
    return bool(is_url) and name in SCHEMES and scheme in SCHEMES and SCHEMES[name][0] == SCHEMES[scheme][0]


def split_options(url: str) -> tuple[str, dict[str, str]]:
    """Split a URL from the options in its query."""
    address, _, query = url.partition("?")
    return address, dict(parse_qsl(query, keep_blank_values=True))


def sqlite_url(path: Path) -> str:
    """Return the address of a SQLite file; a relative path stays relative to the working directory."""
    return f"sqlite:///{quote(str(path))}"


def redact(url: str) -> str:
    """Return the URL with its password, if it has one, replaced by `***`; query left out."""
    authority, at, rest = url.split("?", 1)[0].rpartition("@")
    if not at:
        return rest
    scheme, separator, userinfo = authority.partition("://")
    user, colon, _password = userinfo.partition(":")
    return f"{scheme}{separator}{user}{':***' if colon else ''}@{rest}"


def read_options(owner: str, given: Mapping[str, Any], known: Mapping[str, type]) -> dict[str, Any]:
    """Convert texts from a URL to the types in `known` (bool, int, float, str).

    Raises: ConfigError naming the nearest known option, or the value that does not fit.
    """
    options: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            nearest = get_close_matches(name, known, 1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(sorted(known))}"
            raise ConfigError(f"{owner} has no option {name!r}; {hint}")
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
        raise ConfigError(f"{owner} option {name!r} must be a {wanted.__name__}, not {value!r}") from None
    if isinstance(number, float) and not math.isfinite(number):
        raise ConfigError(f"{owner} option {name!r} must be a finite number, not {value!r}")
    return number
