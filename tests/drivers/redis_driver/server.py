"""A private redis-server with settings of its own: for a password, TLS, a cluster, a sentinel, little memory."""

import asyncio
import contextlib
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from asynctasq.drivers.redis_driver import RedisDriver
from asynctasq.testing.servers.server import _free_port, _is_listened_on, _lock_port
from tests.patience import SOON_S, wait_until

NODE_PORTS = range(12_000, 22_000)
BUS_PORT_OFFSET = 10_000


def free_port() -> int:
    """Return a free port, locked for as long as this process runs."""
    port, _ = _free_port()
    return port


def free_node_port() -> int:
    """Return a free port for a node of a cluster, whose bus port is 10000 above.

    Both are below those that the system gives to connections: one of these could take the bus port before its server.
    """
    while True:
        port = secrets.choice(NODE_PORTS)
        free = not _is_listened_on(port) and not _is_listened_on(port + BUS_PORT_OFFSET)
        if free and _lock_port(port) is not None:
            return port


class RedisServer:
    """A child process, started with the block and gone after it."""

    def __init__(self, *options: str, port: int | None = None, sentinel_config: str | None = None) -> None:
        self.port = port or (free_node_port() if "--cluster-enabled" in options else free_port())
        self.url = f"redis://127.0.0.1:{self.port}"
        self._options = options
        self._sentinel_config = sentinel_config
        self._data = Path(tempfile.mkdtemp(prefix="asynctasq-redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["redis-server"]
        if self._sentinel_config is not None:
            config = self._data / "sentinel.conf"
            config.write_text(self._sentinel_config)
            command += [str(config), "--sentinel"]
        command += ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._data), *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        wait_until(self._answers_or_ended, "redis-server answers")
        assert self._process.poll() is None, "redis-server ended at once"

    def ask(self, command: str) -> bytes:
        """Return the beginning of a reply, on a connection that is not a driver's."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=SOON_S) as probe:
            probe.sendall(command.encode() + b"\r\n")
            return probe.recv(65536)

    def _answers_or_ended(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            return True
        try:
            return self.ask("PING").startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def restart(self) -> None:
        self.kill()
        await asyncio.to_thread(self.start)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._data, ignore_errors=True)


@contextlib.asynccontextmanager
async def driving(url: str, **options: Any) -> AsyncIterator[RedisDriver]:
    driver = RedisDriver(url, **options)
    try:
        yield driver
    finally:
        await driver.close()
