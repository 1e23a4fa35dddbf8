"""What supervises a worker is told how it is: systemd at its socket, anybody else by a file."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynctasq.cli import supervision
from asynctasq.cli.supervision import tell_supervisor
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import ConfigError
from tests.cli.blocking import WorkerInThread, worker_on
from tests.patience import SOON_S, until, wait_until


class Listener:
    """The socket of systemd; `heard` is what came, in order."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while text := self._socket.recv(100).decode():
            self.heard.append(text)

    @property
    def states(self) -> list[str]:
        """What came besides the pings of the watchdog."""
        return [text for text in self.heard if text.startswith(("READY", "STOPPING"))]

    def wait_for_all(self) -> None:
        """Wait until all that was sent is heard: a message of our own comes behind it."""
        marker = str(uuid.uuid4())
        self._send(marker)
        wait_until(lambda: marker in self.heard, "all is heard")

    def _send(self, text: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(self._socket.getsockname())
            sender.send(text.encode())

    def close(self) -> None:
        self._send("")
        self._thread.join(SOON_S)
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    address = str(tmp_path / "notify") if request.param == "file" else f"@asynctasq-test-{uuid.uuid4()}"
    listener = Listener(address)
    yield listener
    listener.close()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "PERIOD_S", 0.02)


async def test_systemd_hears_that_a_worker_is_ready_lives_and_stops(systemd: Listener) -> None:
    worker = worker_on(MemoryDriver())
    with tell_supervisor(worker, ready_file=None, environment={"NOTIFY_SOCKET": systemd.address}):
        running = asyncio.create_task(worker.start())
        await until(lambda: systemd.states, "it is told")
        assert systemd.states == ["READY=1"]
        pings = systemd.heard.count("WATCHDOG=1")
        await until(lambda: systemd.heard.count("WATCHDOG=1") > pings + 2, "it lives")

        worker.stop()
        await asyncio.wait_for(running, SOON_S)

    await until(lambda: len(systemd.states) == 2, "it is told again")
    assert systemd.states == ["READY=1", "STOPPING=1"]


async def test_a_ready_file_is_there_while_the_worker_takes_tasks(tmp_path: Path) -> None:
    worker, path = worker_on(MemoryDriver()), tmp_path / "ready"
    path.write_text("from a worker that was killed")
    with tell_supervisor(worker, ready_file=str(path), environment={}):
        assert not path.exists()
        running = asyncio.create_task(worker.start())
        await until(path.exists, "it is ready")

        worker.stop()
        await until(lambda: not path.exists(), "it stops")
        await asyncio.wait_for(running, SOON_S)
    assert not path.exists()


def test_a_blocked_worker_is_not_said_to_live(
    systemd: Listener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(supervision, "LIVE_S", 0.5)
    blocked, path = WorkerInThread(), tmp_path / "ready"
    telling = tell_supervisor(blocked.worker, ready_file=str(path), environment={"NOTIFY_SOCKET": systemd.address})
    with telling, blocked.running():
        wait_until(path.exists, "it is ready")
        blocked.block()
        wait_until(lambda: not path.exists(), "the blockage is found out")
        systemd.wait_for_all()
        pings = systemd.heard.count("WATCHDOG=1")
        wait_until(lambda: blocked.worker.loop_blocked_s > 1.5, "it is blocked for longer")
        systemd.wait_for_all()
        assert systemd.heard.count("WATCHDOG=1") == pings

        blocked.release()
        wait_until(lambda: systemd.heard.count("WATCHDOG=1") > pings and path.exists(), "it lives again")


def test_nothing_is_done_where_nobody_listens() -> None:
    with tell_supervisor(worker_on(MemoryDriver()), ready_file=None, environment={}):
        assert not [thread for thread in threading.enumerate() if thread.name == "asynctasq-supervision"]


def test_a_ready_file_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "ready"
    telling = tell_supervisor(worker_on(MemoryDriver()), ready_file=str(path), environment={})
    with pytest.raises(ConfigError, match=f"{path} can't be written: No such file"), telling:
        pass


async def test_a_socket_that_is_gone_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    worker, path = worker_on(MemoryDriver()), tmp_path / "ready"
    environment = {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "what"}
    with tell_supervisor(worker, ready_file=str(path), environment=environment):
        running = asyncio.create_task(worker.start())
        await until(path.exists, "it is ready")
        worker.stop()
        await asyncio.wait_for(running, SOON_S)

    assert caplog.text.count("systemd can't be told") == 1


@pytest.mark.program
def test_the_command_tells_systemd(systemd: Listener, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    command = [sys.executable, "-m", "asynctasq", "worker", "--json", "--ready-file", "ready"]
    environment = {**os.environ, "NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "90000000"}
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "started"
    wait_until(lambda: systemd.states == ["READY=1"] and (tmp_path / "ready").exists(), "it is ready")

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=SOON_S)

    assert process.returncode == 0
    wait_until(lambda: systemd.states == ["READY=1", "STOPPING=1"], "it is told")
    assert not (tmp_path / "ready").exists()
