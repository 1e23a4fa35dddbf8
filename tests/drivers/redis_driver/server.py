"""A private redis-server with settings of its own: for a password, TLS, a cluster, a sentinel, little memory."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from asynctasq.drivers.redis_driver import RedisDriver


def free_port() -> int:
    """Return a free port, low enough for the bus port of a cluster node, which is 10000 above."""
    while True:
        with contextlib.closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if port < 55_000:
                return port


class RedisServer:
    """A child process, started with the block and gone after it."""

    def __init__(self, *options: str, port: int | None = None, sentinel_config: str | None = None) -> None:
        self.port = port or free_port()
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
        deadline = time.monotonic() + 20
        while not self._answers():
            assert self._process.poll() is None, "redis-server ended at once"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)

    def ask(self, command: str) -> bytes:
        """Return the beginning of a reply, on a connection that is not a driver's."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
            probe.sendall(command.encode() + b"\r\n")
            return probe.recv(65536)

    def _answers(self) -> bool:
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


async def until(condition: Any, *, wait_s: float = 5) -> None:
    """Wait until an async condition holds; fail when it does not come true in time."""
    deadline = asyncio.get_running_loop().time() + wait_s
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.005)
