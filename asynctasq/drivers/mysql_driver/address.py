"""How a MySQL/MariaDB server is named: the parts of a URL, checked; connects to nothing."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from asynctasq.drivers.silence import SILENCE_S
from asynctasq.drivers.tls import describe, is_local, verifying_context
from asynctasq.drivers.urls import read_address, read_options
from asynctasq.errors import ConfigError

__all__ = ["ADDRESS_OPTIONS", "Address", "parse_address"]

ADDRESS_OPTIONS: dict[str, type] = {"tls": str, "tls_ca": str, "unix_socket": str, "connect_timeout_s": float}
"""What the query of a URL may say about the connection."""
TLS = ("off", "on", "verify")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the server is and how to reach it. Its text is for errors and never holds the password."""

    host: str
    port: int
    unix_socket: str | None
    user: str
    password: str = field(repr=False)
    database: str
    tls: str
    tls_ca: str | None
    connect_timeout_s: float
    command_timeout_s: float

    def __str__(self) -> str:
        return f"mysql://{self.unix_socket or f'{self.host}:{self.port}'}/{self.database}"

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return what `tls` asks for: None, encryption alone, or encryption with a checked certificate.

        Made for each connection, so that files that were replaced are read again.
        """
        if self.tls == "off":
            return None
        context = verifying_context("MySQL driver", authorities=self.tls_ca)
        if self.tls == "on":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def tls_text(self) -> str:
        """Return how the connection is protected, for banners."""
        checked = "certificate and host name are" if self.tls == "verify" else ""
        hosts = [self.unix_socket or self.host]
        return describe(hosts, encrypted=self.tls != "off", checked=checked, by=f"tls={self.tls}")


def parse_address(url: str, *, command_timeout_s: float) -> Address:
    """Read `mysql://user:password@host:port/database?tls=verify`; user and password may be percent-encoded.

    Raises: ConfigError for another scheme, a missing database, or an unknown option; never showing what was given.
    """
    parts = read_address("MySQL driver", url)
    server, *more = parts.hosts
    if parts.scheme not in ("mysql", "mariadb") or more:
        raise ConfigError("the address is not a MySQL address: use mysql://user:password@host:3306/database")
    host, port = parts.host_and_port(server, 3306)
    database = unquote(parts.path)
    if not database or "/" in database:
        raise ConfigError("the MySQL address names no database: use mysql://user:password@host:3306/database")
    given = read_options("MySQL driver", parts.options, ADDRESS_OPTIONS)
    if given.get("connect_timeout_s", 1) <= 0 or command_timeout_s <= 0:
        raise ConfigError("MySQL driver options 'connect_timeout_s' and 'command_timeout_s' must be above 0")
    return Address(
        host=host,
        port=port,
        unix_socket=given.get("unix_socket"),
        user=parts.user or "root",
        password=parts.password or "",
        database=database,
        tls=_tls(given, on_this_machine=is_local(given.get("unix_socket", host))),
        tls_ca=given.get("tls_ca"),
        connect_timeout_s=given.get("connect_timeout_s", SILENCE_S),
        command_timeout_s=command_timeout_s,
    )


def _tls(given: Mapping[str, Any], *, on_this_machine: bool) -> str:
    """Return the value of `tls`: everything is checked, unless the server is on this machine or less is asked for."""
    authorities = given.get("tls_ca")
    tls: str = given.get("tls", "off" if on_this_machine and authorities is None else "verify")
    if tls not in TLS:
        raise ConfigError(f"MySQL driver option 'tls' must be one of {', '.join(TLS)}, not {tls!r}")
    if authorities is not None and tls != "verify":
        raise ConfigError(
            f"MySQL driver option 'tls_ca' checks nothing with tls={tls}; use tls=verify, or leave it out"
        )
    return tls
