"""A private PgBouncer in front of a PostgreSQL, and the harness of the driver that goes through it."""

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from asynctasq.testing.conformance.harnesses.postgres import PostgresHarness
from asynctasq.testing.servers import Server, Servers
from tests.drivers.redis_driver.server import free_port
from tests.patience import wait_until


class PgBouncer:
    """A child process, started with the block and gone after it. `url` is the server's, through it."""

    def __init__(self, server_url: str, mode: str = "transaction") -> None:
        parts = urlsplit(server_url)
        self.port = free_port()
        self.url = parts._replace(netloc=f"{parts.username}@127.0.0.1:{self.port}").geturl()
        self._data = Path(tempfile.mkdtemp(prefix="asynctasq-pgbouncer-"))
        (self._data / "users").write_text(f'"{parts.username}" ""\n')
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": self._data / "users",
            "pool_mode": mode,
            # Two connections to the server, so that a client meets another one soon.
            "default_pool_size": 2 if mode == "transaction" else 50,
            "max_client_conn": 500,
            "server_login_retry": 1,
        }
        lines = [f"{name} = {value}" for name, value in settings.items()]
        database = f"* = host={parts.hostname} port={parts.port}"
        self._config = self._data / "pgbouncer.ini"
        self._config.write_text("\n".join(["[databases]", database, "[pgbouncer]", *lines, ""]))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        assert program is not None, "pgbouncer is missing; .ci/servers installs it"
        # It refuses to run as root.
        account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        if account is not None:
            for path in (self._data, *self._data.iterdir()):
                os.chown(path, account.pw_uid, account.pw_gid)
        self._process = subprocess.Popen(
            [program, "-q", str(self._config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )
        wait_until(self._accepts, "pgbouncer accepts connections")
        return self

    def _accepts(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "pgbouncer ended at once"
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        shutil.rmtree(self._data, ignore_errors=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PgBouncerHarness(PostgresHarness):
    """A database that its drivers reach through a pooler for transactions, by a plain address."""

    name = "postgres behind pgbouncer"

    def __init__(self, server: Server, **options: Any) -> None:
        super().__init__(server, **options)
        self.direct_url = self.url
        self._pooler = PgBouncer(self.url)

    async def prepare(self) -> None:
        await asyncio.to_thread(self._pooler.__enter__)
        self.url = self._pooler.url
        await super().prepare()

    async def clean_up(self) -> None:
        self._pooler.close()
        await super().clean_up()


def make_harness(servers: Servers) -> PgBouncerHarness:
    """Return an empty store on the run's PostgreSQL server, behind a PgBouncer of its own."""
    return PgBouncerHarness(servers.postgres())
