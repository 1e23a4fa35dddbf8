"""A private certificate authority, and servers of each kind that show its certificates."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from asynctasq.testing.servers import Server, start_server
from asynctasq.testing.servers.commands import COMMANDS
from tests.drivers.redis_driver.server import RedisServer, free_port


@dataclass(frozen=True, kw_only=True)
class Files:
    """A certificate with its key, and the certificate of the authority that signed it."""

    certificate: Path
    key: Path
    authority: Path
    stranger: Path
    """Another authority, which signed nothing here."""


@contextmanager
def certificates(name: str, *, kind: str = "redis") -> Iterator[Files]:
    """Make files for a server of that name, which the account of such a server may read."""
    authority = trustme.CA()
    issued = authority.issue_cert(name)
    folder = Path(tempfile.mkdtemp(prefix="asynctasq-tls-"))
    files = Files(
        **{part: folder / f"{part}.pem" for part in ("certificate", "key", "authority", "stranger")},
    )
    try:
        issued.private_key_pem.write_to_path(files.key)
        files.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        authority.cert_pem.write_to_path(files.authority)
        trustme.CA().cert_pem.write_to_path(files.stranger)
        files.key.chmod(0o600)
        if os.geteuid() == 0 and (user := COMMANDS[kind]().user):
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, user)
        yield files
    finally:
        shutil.rmtree(folder)


@contextmanager
def postgres_with(files: Files) -> Iterator[Server]:
    settings = "ssl=on", f"ssl_cert_file={files.certificate}", f"ssl_key_file={files.key}"
    server = start_server("postgres", *(part for setting in settings for part in ("-c", setting)))
    try:
        yield server
    finally:
        server.remove()


@contextmanager
def mysql_with(files: Files) -> Iterator[Server]:
    server = start_server("mysql", f"--ssl-cert={files.certificate}", f"--ssl-key={files.key}")
    try:
        yield server
    finally:
        server.remove()


@contextmanager
def redis_with(files: Files, *options: str) -> Iterator[int]:
    """Yield the port where this Redis speaks TLS, and nothing else."""
    port = free_port()
    with RedisServer("--tls-port", str(port), *redis_options(files), *options):
        yield port


def redis_options(files: Files) -> tuple[str, ...]:
    shown = ("--tls-cert-file", str(files.certificate), "--tls-key-file", str(files.key))
    return (*shown, "--tls-ca-cert-file", str(files.authority), "--tls-auth-clients", "no")
