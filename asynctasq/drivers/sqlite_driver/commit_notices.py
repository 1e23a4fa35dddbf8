"""Notices of commits between the processes that use one SQLite file: datagrams to sockets beside it, best effort.

Where they can't be had (Windows, a path too long for a socket, a folder of another user), who waits only polls.
"""

import asyncio
import os
import secrets
import socket
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Self

__all__ = ["NoticeReceiver", "notice_folder", "send_notices"]

POSSIBLE = hasattr(socket, "AF_UNIX")

_own_names: set[str] = set()
"""The sockets of this process, whose waiting calls are woken without a notice."""


def notice_folder(path: str) -> str:
    """Return the folder of the sockets of those who wait for a file to change."""
    return f"{os.path.realpath(path)}-wake"


def send_notices(folder: str, *, to_this_process: bool = False) -> None:
    """Send a notice to each process that waits, or has waited and is busy since; from any thread."""
    if not POSSIBLE:
        return
    with suppress(OSError):  # there is no folder before somebody has waited
        paths = [os.path.join(folder, name) for name in os.listdir(folder) if to_this_process or name not in _own_names]
        if paths:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
                own.setblocking(False)
                for path in paths:
                    _send(own, path)


def _send(own: socket.socket, path: str) -> None:
    try:
        own.sendto(b"\0", path)
    except ConnectionRefusedError:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)  # of a process that was killed
    except OSError:
        return  # it has unread notices, has just ended, or is another user's


class NoticeReceiver:
    """The socket of one event loop. It is read only while somebody waits, so that work under way is not disturbed."""

    def __init__(self, own: socket.socket, path: str, on_notice: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = own
        self._path = path
        self._on_notice = on_notice
        self._waiting = 0

    @classmethod
    def open(cls, folder: str, on_notice: Callable[[], None]) -> Self | None:
        """Make a socket that this user alone can send to; None if that is not possible here."""
        if not POSSIBLE:
            return None
        own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            own.setblocking(False)
            os.makedirs(folder, mode=0o700, exist_ok=True)
            found = os.lstat(folder)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                raise PermissionError(f"{folder} is not a folder of this user")
            os.chmod(folder, 0o700)
            name = secrets.token_hex(8)
            path = os.path.join(folder, name)
            own.bind(path)
            os.chmod(path, 0o600)
        except OSError:
            own.close()
            return None
        _own_names.add(name)
        return cls(own, path, on_notice)

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Call `on_notice` for notices that arrive meanwhile."""
        self._waiting += 1
        if self._waiting == 1:
            self._read_all()  # of commits that the call which now waits will see
            with suppress(NotImplementedError):  # a loop that watches no sockets
                self._loop.add_reader(self._socket, self._notice)
        try:
            yield
        finally:
            self._waiting -= 1
            if self._waiting == 0:
                self._stop_reading()

    def _stop_reading(self) -> None:
        if not self._loop.is_closed() and self._socket.fileno() >= 0:
            with suppress(NotImplementedError):
                self._loop.remove_reader(self._socket)

    def _notice(self) -> None:
        self._read_all()
        self._on_notice()

    def _read_all(self) -> None:
        with suppress(OSError):
            while True:
                self._socket.recv(1)

    def close(self) -> None:
        """Remove the socket; from any thread once nobody waits, and also when the loop was closed."""
        if self._waiting:
            self._stop_reading()
        self._socket.close()
        _own_names.discard(os.path.basename(self._path))
        with suppress(OSError):
            os.unlink(self._path)
