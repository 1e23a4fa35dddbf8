"""TLS as all drivers see it: which hosts are this machine, the checks of a certificate, and how it is told."""

import ipaddress
import ssl
from collections.abc import Iterable
from pathlib import Path

from asynctasq.errors import ConfigError, DriverMisconfigured

__all__ = ["certificate_refused", "describe", "is_local", "verifying_context"]


def is_local(host: str) -> bool:
    """Say whether a name is this machine: localhost, a loopback address, the path of a socket. Asks no name server."""
    name = host.strip("[]").rstrip(".").lower()
    if not name or name.startswith(("/", "@")) or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def verifying_context(
    owner: str, *, authorities: str | None, certificate: str | None = None, key: str | None = None
) -> ssl.SSLContext:
    """Return a context that checks chain and host name; without `authorities` by those of the system.

    certificate, key: what this client shows of itself, if the server asks.
    Raises: ConfigError for a file that can't be read or is no certificate.
    """
    for file in (authorities, certificate, key):
        if file is not None and not Path(file).is_file():
            raise ConfigError(f"{owner}: there is no file {file!r}, which is to hold a certificate or key")
    try:
        context = ssl.create_default_context(cafile=authorities)
        if certificate is not None:
            # An empty password instead of a question on the terminal.
            context.load_cert_chain(certificate, keyfile=key, password="")
    except (ssl.SSLError, OSError) as error:
        files = ", ".join(repr(file) for file in (authorities, certificate, key) if file is not None)
        raise ConfigError(f"{owner}: a certificate or key of {files} can't be used: {error}") from error
    return context


def certificate_refused(error: BaseException, where: str, *, option: str) -> DriverMisconfigured | None:
    """Return the error to raise if `error` came of the server's certificate, else None.

    option: the setting that names the file of the authorities.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return DriverMisconfigured(
                f"the certificate of {where} is refused: {cause.verify_message.rstrip('.')}; name the file of its "
                f"authority with {option}, and address the server by a host name that its certificate holds"
            )
        cause = cause.__cause__ or cause.__context__
    return None


def describe(hosts: Iterable[str], *, encrypted: bool, checked: str, by: str) -> str:
    """Return how a connection is protected, for banners.

    checked: what is checked of the server's certificate, "" for nothing. by: the setting that chose less than all.
    """
    if not encrypted and all(map(is_local, hosts)):
        return "off, the server is on this machine"
    if not encrypted:
        return f"off by {by}: whoever is on the way can read and change messages"
    if not checked:
        return f"on, but by {by} no certificate is checked: whoever is on the way can pose as the server"
    return f"on, {checked} checked"
