"""Private servers: they start, answer, keep their data over a restart, and end by pid, also when we are killed."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncmy
import pytest

from asynctasq.testing.servers import NotPossible, Server, Servers, ServerUnavailable, start_server
from asynctasq.testing.servers import commands as _server_commands
from asynctasq.testing.servers import server as server_module
from asynctasq.testing.servers.server import KINDS
from tests.patience import SOON_S, wait_until


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv(KINDS[request.param], raising=False)
    server = start_server(request.param)
    yield server
    server.remove()


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("ASYNCTASQ_REDIS_URL", raising=False)
    server = start_server("redis")
    yield server
    server.remove()


def _listens(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=SOON_S).close()
    except OSError:
        return False
    return True


def _runs(pid: int) -> bool:
    """Return whether the process runs; one that ended and waits for its parent does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def _ask(url: str, command: str) -> str:
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=SOON_S) as connection:
        connection.sendall(command.encode() + b"\r\n")
        return connection.recv(1000).decode()


def test_a_private_server_starts_restarts_and_ends(server: Server) -> None:
    first = server.pid
    assert first is not None
    assert server.owned
    assert "127.0.0.1" in server.url
    assert _listens(server.url)

    for kill in (False, True):
        server.restart(kill=kill)
        assert _listens(server.url), "on the same address"
    assert server.pid != first
    assert not _runs(first)

    last = server.pid
    assert last is not None
    server.stop()
    assert not _runs(last)
    assert not _listens(server.url)


def test_a_restart_keeps_the_data(redis: Server) -> None:
    assert _ask(redis.url, "SET key value") == "+OK\r\n"

    for kill in (False, True):
        redis.restart(kill=kill)

        assert "value" in _ask(redis.url, "GET key")


def test_starting_and_stopping_twice_changes_nothing(redis: Server) -> None:
    pid = redis.pid
    redis.start()
    assert redis.pid == pid

    redis.stop()
    redis.stop()
    assert redis.pid is None


def test_two_servers_of_a_kind_share_nothing(redis: Server) -> None:
    other = start_server("redis")
    try:
        assert other.url != redis.url
        _ask(redis.url, "SET key value")
        assert _ask(other.url, "GET key") == "$-1\r\n"
    finally:
        other.remove()


async def test_a_database_keeps_its_temporary_tables_where_no_other_server_removes_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(KINDS["mysql"], raising=False)
    server = start_server("mysql")
    try:
        parts = urlsplit(server.url)
        connection = await asyncmy.connect(host=parts.hostname, port=parts.port, user=parts.username)
        async with connection.cursor() as cursor:
            await cursor.execute("SELECT @@tmpdir, @@datadir")
            tmpdir, datadir = await cursor.fetchone()
        await connection.ensure_closed()
    finally:
        server.remove()

    assert Path(tmpdir) == Path(datadir)


def test_a_server_ends_when_the_process_that_started_it_is_killed() -> None:
    code = (
        "from asynctasq.testing.servers import start_server\n"
        "server = start_server('redis')\n"
        "print(server.pid, server.url, flush=True)\n"
        "input()\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        pid_text, url = owner.stdout.readline().split()
        assert _listens(url)

        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()

    wait_until(lambda: not _runs(int(pid_text)), "the server ends with the test run")


def test_a_run_starts_each_server_once_and_removes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASYNCTASQ_REDIS_URL", raising=False)
    with Servers() as servers:
        server = servers.redis()
        assert servers.get("redis") is server
        pid = server.pid
    assert pid is not None
    assert not _runs(pid)


def test_a_server_from_the_environment_is_used_and_left_alone(redis: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCTASQ_REDIS_URL", redis.url)
    with Servers() as servers:
        found = servers.redis()
        assert (found.url, found.owned, found.pid) == (redis.url, False, None)
        with pytest.raises(NotPossible, match="not a private server"):
            found.restart()

    assert _listens(redis.url)


def test_a_server_that_can_not_be_reached_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCTASQ_POSTGRES_URL", "postgresql://user:hunter2@127.0.0.1:1/db")
    servers = Servers()
    for _ in range(2):
        with pytest.raises(ServerUnavailable, match="can't be reached") as caught:
            servers.postgres()
        assert "hunter2" not in str(caught.value)


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASYNCTASQ_REDIS_URL", raising=False)
    monkeypatch.setattr(_server_commands.shutil, "which", lambda *_, **__: None)

    with pytest.raises(ServerUnavailable, match="no redis-server or valkey-server on this machine"):
        Servers().redis()


def test_a_server_that_does_not_start_shows_its_log(redis: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    redis.stop()
    aof = next(redis._data.rglob("*.manifest"))
    aof.write_text("this is no manifest\n")

    with pytest.raises(ServerUnavailable, match=r"did not start; its log ends with:(.|\n)*manifest"):
        redis.start()


def test_no_port_is_given_twice_before_its_server_has_opened_it(monkeypatch: pytest.MonkeyPatch) -> None:
    first, lock = server_module._free_port()
    chosen = iter([first, first])

    class Probe(socket.socket):
        def bind(self, address: Any) -> None:
            super().bind((address[0], next(chosen, 0)))

    monkeypatch.setattr(server_module.socket, "socket", Probe)
    second, other = server_module._free_port()

    assert second != first
    os.close(lock)
    os.close(other)


def test_a_server_whose_port_another_one_has_is_not_taken_for_ready(
    redis: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = server_module._free_port
    taken = iter([(redis._port, os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT))])
    monkeypatch.setattr(server_module, "_free_port", lambda: next(taken, None) or real())

    other = start_server("redis")

    assert other.url != redis.url
    other.remove()
