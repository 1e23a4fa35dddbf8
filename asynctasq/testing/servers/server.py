"""Private servers for tests: child processes on free ports of 127.0.0.1, ended by pid; nothing is fetched.

An address in the environment (`ASYNCTASQ_REDIS_URL`, `ASYNCTASQ_POSTGRES_URL`, `ASYNCTASQ_MYSQL_URL`,
`ASYNCTASQ_SQS_URL`) is used instead, and such a server is never stopped or restarted.
Only the standard library is needed here, so a server can be made ready whatever driver is installed.
"""

import atexit
import contextlib
import fcntl
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from asynctasq.drivers.urls import read_address, redact
from asynctasq.testing.patience import patient_s
from asynctasq.testing.servers.commands import COMMANDS, HOST, KINDS, ServerCommands, ServerUnavailable

__all__ = ["KINDS", "NotPossible", "Server", "ServerUnavailable", "Servers", "start_server"]


class NotPossible(Exception):
    """What a test wants to do to a server can't be done to this one; the text is the reason."""


@dataclass(slots=True, kw_only=True)
class Server:
    """One server: `url` is where it is, whether it is private (`owned`), and how to stop and restart it.

    A restart keeps the port, so every URL stays valid.
    """

    kind: str
    url: str
    owned: bool
    _commands: ServerCommands | None = None
    _data: Path = Path()
    _port: int = 0
    _port_lock: int | None = None
    _process: subprocess.Popen[bytes] | None = None
    _watchdog: subprocess.Popen[bytes] | None = None

    @property
    def keeps_data(self) -> bool:
        """Whether messages outlive `restart`; false for a stand-in that keeps them in memory."""
        return self._commands is None or self._commands.keeps_data

    @property
    def pid(self) -> int | None:
        """The process id of a private server that runs, None for any other."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start and wait until it answers. Starting a running server changes nothing.

        Raises: ServerUnavailable with the end of its log; NotPossible for a server that is not ours.
        """
        commands = self._own_commands()
        if self._process is not None:
            return
        if _is_listened_on(self._port):  # it would answer in place of ours, which could not open the port
            raise ServerUnavailable(f"a private {self.kind} server can't start: port {self._port} is in use")
        log_path = self._data / "server.log"
        with log_path.open("ab") as log:
            self._process = _spawn(commands.serve(self._data, self._port), commands.user, log.fileno())
        self._watchdog = _watchdog(self._process.pid)
        deadline = time.monotonic() + patient_s(60)
        while not commands.is_ready(self._port) or self._process.poll() is not None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = log_path.read_text(errors="replace")[-800:]
                raise ServerUnavailable(f"private {self.kind} server did not start; its log ends with:\n{tail}")
            time.sleep(0.02)

    def stop(self, *, kill: bool = False) -> None:
        """End it, as an operator would, or with SIGKILL; wait until it is gone. The data stays."""
        commands = self._own_commands()
        process, self._process = self._process, None
        watchdog, self._watchdog = self._watchdog, None
        if process is None:
            return
        process.send_signal(signal.SIGKILL if kill else commands.stop_signal)
        try:
            process.wait(timeout=patient_s(20))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if watchdog is not None:
            watchdog.kill()
            watchdog.wait()
            if watchdog.stdin is not None:
                watchdog.stdin.close()

    def restart(self, *, kill: bool = False) -> None:
        """Stop and start on the same port with the same data. Blocks: use `asyncio.to_thread` in a coroutine.

        Raises: NotPossible for a server that is not ours.
        """
        self.stop(kill=kill)
        self.start()

    def remove(self) -> None:
        """Stop and delete the data. Does nothing to a server that is not ours."""
        if self.owned:
            self.stop(kill=True)
            shutil.rmtree(self._data, ignore_errors=True)
            if self._port_lock is not None:
                os.close(self._port_lock)
                self._port_lock = None

    def _own_commands(self) -> ServerCommands:
        if self._commands is None:
            raise NotPossible(f"{redact(self.url)} is not a private server of this test run; it is left as it is")
        return self._commands


@dataclass(slots=True)
class Servers:
    """The servers of one test run: each started when first asked for, all removed at the end."""

    _started: dict[str, Server] = field(default_factory=dict[str, Server])
    _failed: dict[str, ServerUnavailable] = field(default_factory=dict[str, ServerUnavailable])

    def redis(self) -> Server:
        """`redis://host:port`, append-only file on."""
        return self.get("redis")

    def postgres(self) -> Server:
        """`postgresql://postgres@host:port/postgres`, a superuser without password."""
        return self.get("postgres")

    def mysql(self) -> Server:
        """`mysql://root@host:port/mysql`, all rights, no password; make databases of your own."""
        return self.get("mysql")

    def sqs(self) -> Server:
        """`http://host:port`, an endpoint that speaks SQS; the messages do not outlive a restart."""
        return self.get("sqs")

    def get(self, kind: str) -> Server:
        """Return the server of this kind, from the environment or private.

        Raises: ServerUnavailable, again at every call, without another try.
        """
        if kind in self._failed:
            raise self._failed[kind]
        if kind not in self._started:
            try:
                self._started[kind] = _from_environment(kind) or start_server(kind)
            except ServerUnavailable as error:
                self._failed[kind] = error
                raise
        return self._started[kind]

    def remove(self) -> None:
        """End all private ones."""
        while self._started:
            self._started.popitem()[1].remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def start_server(kind: str, *options: str) -> Server:
    """Start a private server of this kind, with a data folder of its own; `options` are for its program.

    Raises: ServerUnavailable naming the program that is missing, or with the end of the server's log.
    """
    plain = COMMANDS[kind]()

    def serve(data: Path, port: int) -> list[str]:
        return [*plain.serve(data, port), *options]

    commands = replace(plain, serve=serve)
    for last_try in (False, False, True):
        port, lock = _free_port()
        server = Server(
            kind=kind,
            url=commands.url(port),
            owned=True,
            _commands=commands,
            _data=_new_data(kind, commands),
            _port=port,
            _port_lock=lock,
        )
        try:
            server.start()
        except ServerUnavailable:
            server.remove()
            if last_try:
                raise
        else:
            return server
    raise AssertionError("the last try returned or raised")


def _from_environment(kind: str) -> Server | None:
    url = os.environ.get(KINDS[kind])
    if not url:
        return None
    parts = read_address(f"server in {KINDS[kind]}", url)
    ports = {"redis": 6379, "postgres": 5432, "mysql": 3306, "sqs": 443}
    try:
        socket.create_connection(parts.host_and_port(parts.hosts[0] or HOST, ports[kind]), timeout=5).close()
    except OSError as error:
        raise ServerUnavailable(f"{KINDS[kind]} names {redact(url)}, which can't be reached: {error}") from error
    return Server(kind=kind, url=url, owned=False)


# -- child processes -----------------------------------------------------------------------------


def _spawn(command: list[str], user: str | None, output: int) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, so that Ctrl-C in the terminal is not the server's."""
    account = _service_account(user)
    return subprocess.Popen(  # noqa: S603 - a command of ours, no shell
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        cwd="/",
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
    )


def _watchdog(pid: int) -> subprocess.Popen[bytes]:
    """Start a shell that kills `pid` when this process dies, however it dies: its standard input then ends."""
    script = f"trap '' INT TERM HUP; read -r _ || kill -9 {pid}"
    return subprocess.Popen(  # noqa: S603 - a script of ours
        ["/bin/sh", "-c", script], stdin=subprocess.PIPE, start_new_session=True, cwd="/"
    )


def _service_account(user: str | None) -> pwd.struct_passwd | None:
    """Return the service's account when we are root (PostgreSQL refuses root), None to stay who we are."""
    if os.geteuid() != 0 or user is None:
        return None
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise ServerUnavailable(f"run as root, the server needs the user {user!r}, which does not exist") from None


def _new_data(kind: str, commands: ServerCommands) -> Path:
    """Return a new data folder: a copy of one that is made once per process, since making takes longer."""
    folder = _temporary_folder(kind, commands.user)
    if commands.make is not None:
        template = _template(kind)
        subprocess.run(["/bin/cp", "-a", f"{template}/.", str(folder)], check=True)  # noqa: S603 - keeps the owner
    return folder


@functools.cache
def _template(kind: str) -> Path:
    commands = COMMANDS[kind]()
    assert commands.make is not None
    folder = _temporary_folder(f"{kind}-template", commands.user)
    with (folder.parent / f"{folder.name}.log").open("w+b") as log:
        _remove_at_exit(Path(log.name))
        if _spawn(commands.make(folder), commands.user, log.fileno()).wait(timeout=patient_s(120)) != 0:
            log.seek(0)
            text = log.read().decode(errors="replace")
            raise ServerUnavailable(f"the data folder of a private {kind} server could not be made:\n{text[-4000:]}")
    return folder


def _temporary_folder(name: str, user: str | None) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"asynctasq-{name}-"))
    _remove_at_exit(folder)
    if account := _service_account(user):
        os.chown(folder, account.pw_uid, account.pw_gid)
    return folder


def _remove_at_exit(path: Path) -> None:
    """Remove `path` when this very process ends; a fork of it must not."""
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    atexit.register(remove)


def _free_port() -> tuple[int, int]:
    """Return a port that nobody uses, and the descriptor of a lock.

    Until that is closed, no other run of tests gets the port from here.
    """
    while True:
        with contextlib.closing(socket.socket()) as probe:
            probe.bind((HOST, 0))
            port: int = probe.getsockname()[1]
            lock = _lock_port(port)
            if lock is not None:
                return port, lock


def _lock_port(port: int) -> int | None:
    """Return the descriptor of a port's lock; None while a server has it that may not have opened the port yet."""
    folder = Path(tempfile.gettempdir()) / f"asynctasq-ports-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(folder / str(port), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _is_listened_on(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended do not count
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False
