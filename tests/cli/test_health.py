"""The health of a worker over HTTP while it starts, works, is blocked, loses its backend, and stops."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from asynctasq.cli import health
from asynctasq.cli.health import serve_health
from asynctasq.drivers.base import Settlements
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import ConfigError, DriverUnavailable
from asynctasq.kernel.messages import Lease
from asynctasq.tasks.configured import Lifespan
from tests.cli.blocking import WorkerInThread, worker_on
from tests.patience import SOON_S, patient_s, until, wait_until


class Away(MemoryDriver):
    """A backend that can be gone."""

    away = False

    def _check_is_there(self) -> None:
        if self.away:
            raise DriverUnavailable("nobody is there")

    async def turn(
        self, settlements: Settlements, queues: Sequence[str], *, limit: int, lease_s: float
    ) -> tuple[AbstractSet[str], list[Lease]]:
        self._check_is_there()
        return await super().turn(settlements, queues, limit=limit, lease_s=lease_s)

    async def wait_visible(self, queues: Sequence[str], *, wait_s: float) -> bool:
        self._check_is_there()
        visible = await super().wait_visible(queues, wait_s=min(wait_s, 0.02))
        self._check_is_there()
        return visible


def ask(url: str, path: str, method: str = "GET") -> tuple[int, dict[str, object]]:
    """Return status and answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=SOON_S)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"{}")
    finally:
        connection.close()


async def status(url: str, path: str) -> int:
    return (await asyncio.to_thread(ask, url, path))[0]


async def test_a_worker_is_ready_once_it_has_started_and_until_it_stops() -> None:
    go, leave = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def slow_start() -> AsyncGenerator[None]:
        await go.wait()
        yield
        await leave.wait()

    worker = worker_on(MemoryDriver(), Lifespan("", slow_start))
    with serve_health("0", worker) as url:
        assert await asyncio.to_thread(ask, url, "/ready") == not_ready("the worker has not started")
        running = asyncio.create_task(worker.start())
        await asyncio.sleep(0)
        assert await asyncio.to_thread(ask, url, "/ready") == not_ready("the worker starts")
        assert await status(url, "/live") == 200

        go.set()
        await until(lambda: is_status(url, "/ready", 200), "it is ready")
        assert await asyncio.to_thread(ask, url, "/ready") == (200, {"ready": True})

        worker.stop()
        assert await asyncio.to_thread(ask, url, "/ready") == not_ready("the worker stops")
        leave.set()
        await asyncio.wait_for(running, SOON_S)
        assert await asyncio.to_thread(ask, url, "/ready") == not_ready("the worker has ended")


def not_ready(reason: str) -> tuple[int, dict[str, object]]:
    return 503, {"ready": False, "reason": reason}


async def is_status(url: str, path: str, wanted: int) -> bool:
    return await status(url, path) == wanted


async def test_a_worker_without_its_backend_is_live_and_not_ready_until_it_is_back() -> None:
    driver = Away()
    worker = worker_on(driver)
    with serve_health("0", worker) as url:
        running = asyncio.create_task(worker.start())
        await until(lambda: is_status(url, "/ready", 200), "it is ready")

        driver.away = True
        await until(lambda: is_status(url, "/ready", 503), "it is not ready")
        _, fields = await asyncio.to_thread(ask, url, "/ready")
        assert fields["reason"] == f"{driver} can't be reached"
        assert await status(url, "/live") == 200

        driver.away = False
        await until(lambda: is_status(url, "/ready", 200), "it is ready again")
        worker.stop()
        await asyncio.wait_for(running, SOON_S)


async def test_a_worker_that_waits_for_work_finds_out_at_once_that_its_backend_is_back() -> None:
    class OnceAway(MemoryDriver):
        async def wait_visible(self, queues: Sequence[str], *, wait_s: float) -> bool:
            obstacles.append(worker.obstacle)
            if len(obstacles) == 1:
                raise DriverUnavailable("nobody is there")
            return await super().wait_visible(queues, wait_s=wait_s)

    obstacles: list[str] = []
    worker = worker_on(OnceAway())
    running = asyncio.create_task(worker.start())
    await until(lambda: len(obstacles) > 1, "it waits again")
    worker.stop()
    await asyncio.wait_for(running, SOON_S)

    assert obstacles[:2] == ["", ""]


def test_a_blocked_loop_is_not_live_until_it_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LIVE_S", 1.0)
    blocked = WorkerInThread()
    with serve_health("0", blocked.worker) as url, blocked.running():
        wait_until(lambda: ask(url, "/ready")[0] == 200, "it is ready")
        blocked.block()
        wait_until(lambda: ask(url, "/live")[0] == 503, "the blockage is found out")
        _, fields = ask(url, "/live")
        assert fields["live"] is False
        assert isinstance(blocked_s := fields["loop_blocked_s"], float)
        assert 1.0 <= blocked_s < patient_s(600)
        assert "has not run for" in str(ask(url, "/ready")[1]["reason"])

        blocked.release()
        wait_until(lambda: ask(url, "/live")[0] == 200, "it is live again")
        assert ask(url, "/ready")[0] == 200


def test_other_paths_and_methods_are_answered() -> None:
    with serve_health("localhost:0", worker_on(MemoryDriver())) as url:
        assert ask(url, "/metrics")[0] == 404
        assert "/live, /ready" in str(ask(url, "/")[1]["error"])
        assert ask(url, "/live?verbose=1")[0] == 200
        assert ask(url, "/live", "HEAD") == (200, {})
        with pytest.raises(ValueError, match="Expecting value"):  # a page of `http.server`, no JSON
            ask(url, "/live", "POST")


def test_what_is_no_http_and_who_says_nothing_keep_nobody_from_an_answer() -> None:
    with serve_health("0", worker_on(MemoryDriver())) as url:
        address = (urlsplit(url).hostname, urlsplit(url).port)
        with socket.create_connection(address), socket.create_connection(address) as hostile:
            hostile.sendall(b"\x16\x03\x01" + b"x" * 70_000)
            assert ask(url, "/live")[0] == 200


@pytest.mark.parametrize(
    "address", ["", "http://localhost:80", "port", "70000", "localhost:", ":80", "80:localhost", "-1"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with (
        pytest.raises(ConfigError, match="health must be a port or HOST:PORT"),
        serve_health(address, worker_on(MemoryDriver())),
    ):
        pass


def test_a_port_that_is_taken_is_named() -> None:
    with serve_health("0", worker_on(MemoryDriver())) as url:
        address = urlsplit(url).netloc
        with (
            pytest.raises(ConfigError, match=f"{address}: Address already in use"),
            serve_health(address, worker_on(MemoryDriver())),
        ):
            pass


def _has_ipv6_loopback() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not _has_ipv6_loopback(), reason="this machine has no IPv6 address of its own")
def test_an_address_of_ipv6() -> None:
    with serve_health("[::1]:0", worker_on(MemoryDriver())) as url:
        assert url.startswith("http://[::1]:")
        assert ask(url, "/live")[0] == 200


@pytest.mark.program
def test_the_command_answers_from_its_banner_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    command = [sys.executable, "-m", "asynctasq", "worker", "--json", "--health", "0"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env={**os.environ})
    assert process.stdout is not None
    try:
        url = json.loads(process.stdout.readline())["health"]
        wait_until(lambda: ask(url, "/ready")[0] == 200, "it is ready")
        assert ask(url, "/live")[0] == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SOON_S)
    assert process.returncode == 0
    with pytest.raises(OSError, match="refused"):
        ask(url, "/live")
