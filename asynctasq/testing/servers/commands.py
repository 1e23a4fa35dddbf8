"""The commands that make and serve each kind of server, and tell whether it is ready."""

import glob
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["COMMANDS", "HOST", "KINDS", "ServerCommands", "ServerUnavailable"]

HOST = "127.0.0.1"
KINDS: Mapping[str, str] = {
    "redis": "ASYNCTASQ_REDIS_URL",
    "postgres": "ASYNCTASQ_POSTGRES_URL",
    "mysql": "ASYNCTASQ_MYSQL_URL",
    "sqs": "ASYNCTASQ_SQS_URL",
}
"""Kind of server -> environment variable that names one to use instead of a private one."""


class ServerUnavailable(Exception):
    """A server could be neither reached nor started; what needs it was not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCommands:
    """How to run one kind of server. `make` fills an empty data folder; `serve` is the command that serves it."""

    user: str | None
    make: Callable[[Path], list[str]] | None
    serve: Callable[[Path, int], list[str]]
    url: Callable[[int], str]
    is_ready: Callable[[int], bool]
    stop_signal: signal.Signals = signal.SIGTERM
    keeps_data: bool = True


def _redis() -> ServerCommands:
    program = _program("redis-server", "valkey-server")
    options = ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--daemonize", "no")
    return ServerCommands(
        user=None,
        make=None,
        serve=lambda data, port: [program, "--port", str(port), "--bind", HOST, "--dir", str(data), *options],
        url=lambda port: f"redis://{HOST}:{port}",
        is_ready=lambda port: _reply(port, b"PING\r\n").startswith(b"+PONG"),
    )


def _postgres() -> ServerCommands:
    make, serve, ask = (_program(name) for name in ("initdb", "postgres", "pg_isready"))
    settings = "fsync=off", "max_connections=300", f"listen_addresses={HOST}", "log_min_messages=warning"
    return ServerCommands(
        user="postgres",
        make=lambda data: [
            *(make, "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"),
        ],
        serve=lambda data, port: [
            *(serve, "-D", str(data), "-p", str(port), "-c", f"unix_socket_directories={data}"),
            *(argument for setting in settings for argument in ("-c", setting)),
        ],
        url=lambda port: f"postgresql://postgres@{HOST}:{port}/postgres",
        is_ready=lambda port: _succeeds(ask, "-q", "-h", HOST, "-p", str(port), "-U", "postgres"),
        stop_signal=signal.SIGINT,  # "fast": does not wait for clients to leave
    )


def _mysql() -> ServerCommands:
    make, serve = _program("mariadb-install-db"), _program("mariadbd")
    options = (
        "--skip-log-bin",
        "--max-connections=300",
        "--innodb-flush-log-at-trx-commit=2",
        f"--bind-address={HOST}",
    )
    account = ["--user=mysql"] if os.geteuid() == 0 else []
    # A tmpdir of its own: when it starts, a server removes all temporary tables it finds there, another's, too.
    return ServerCommands(
        user="mysql",
        make=lambda data: [
            *(make, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"),
            *("--skip-test-db", f"--tmpdir={data}", *account),
        ],
        serve=lambda data, port: [
            *(serve, "--no-defaults", f"--datadir={data}", f"--port={port}", f"--socket={data}/s.sock"),
            *(f"--pid-file={data}/pid", f"--tmpdir={data}", *options, *account),
        ],
        url=lambda port: f"mysql://root@{HOST}:{port}/mysql",
        is_ready=lambda port: _reply(port, b"")[4:5] == b"\n",  # the greeting, protocol version 10
    )


_MOTO = "import sys; sys.setswitchinterval(60); from moto.server import main; main(sys.argv[1:])"
"""moto looks whether a message is visible and then marks it received; threads that change between give it to two."""


def _sqs() -> ServerCommands:
    return ServerCommands(
        user=None,
        make=None,
        serve=lambda _, port: [sys.executable, "-c", _MOTO, "-H", HOST, "-p", str(port)],
        url=lambda port: f"http://{HOST}:{port}",
        is_ready=lambda port: _reply(port, b"GET /moto-api/ HTTP/1.0\r\n\r\n").startswith(b"HTTP/"),
        keeps_data=False,
    )


COMMANDS: Mapping[str, Callable[[], ServerCommands]] = {
    "redis": _redis,
    "postgres": _postgres,
    "mysql": _mysql,
    "sqs": _sqs,
}


def _program(*names: str) -> str:
    """Return the path of the first of these programs; distributions keep some outside of PATH."""
    folders = [os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"]
    folders += sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
    for name in names:
        if found := shutil.which(name, path=os.pathsep.join(folders)):
            return found
    raise ServerUnavailable(
        f"no {' or '.join(names)} on this machine; install it, or name a server in the environment "
        f"({', '.join(KINDS.values())})"
    )


def _succeeds(*command: str) -> bool:
    return subprocess.call(command, cwd="/") == 0  # noqa: S603 - a command of ours, no shell


def _reply(port: int, question: bytes) -> bytes:
    """Return the first bytes the server sends, empty if it does not answer yet."""
    try:
        with socket.create_connection((HOST, port), timeout=5) as connection:
            connection.sendall(question)
            return connection.recv(64)
    except OSError:
        return b""
