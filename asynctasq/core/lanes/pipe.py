"""The pipe between a worker and a child process: frames of a length, a nonce and bytes.

Task code in the child can reach its end, so the worker takes nothing that does not answer its request, in time.
"""

import math
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress

__all__ = ["BadAnswer", "WorkerEnd", "receive_frame", "send_frame"]

HEADER = struct.Struct(">Q16s")
CHUNK_BYTES = 1 << 20
DEATH_CHECK_S = 0.5
"""How often a child that has not answered is checked: a process it forked can hold its socket open after its death."""


class BadAnswer(Exception):
    """What a child sent answers no request."""


class WorkerEnd:
    """The worker's end; used by one thread at a time. `died` says whether the child is dead."""

    def __init__(self, connection: socket.socket, died: Callable[[], bool], *, answer_bytes_max: int) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._died = died
        self._answer_bytes_max = answer_bytes_max

    def exchange(self, request: bytes, timeout_s: float | None) -> bytes:
        """Send a request and return the answer to it.

        Raises: TimeoutError if that takes longer than `timeout_s`, ConnectionError if the child is dead, BadAnswer if
        it sent something else, or anything before it was asked.
        """
        if not self.silent:
            raise BadAnswer("it sent something without being asked, or closed the pipe")
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        nonce = secrets.token_bytes(16)
        self._send(HEADER.pack(len(request), nonce) + request, deadline)
        count, answered = HEADER.unpack(self._receive(HEADER.size, deadline))
        if answered != nonce or count > self._answer_bytes_max:
            raise BadAnswer("it sent what is no answer to its request")
        return self._receive(count, deadline)

    @property
    def silent(self) -> bool:
        """Whether there is nothing to read, not even the end of the connection."""
        return not _poll(self._socket, select.POLLIN, 0)

    def end_requests(self) -> None:
        """Tell the child that there is no further request; repeating it is safe."""
        with suppress(OSError):  # it is dead, or knows
            self._socket.shutdown(socket.SHUT_WR)

    def closed_within(self, within_s: float) -> bool:
        """Wait until the child has closed its end, or is dead; return whether it was in time."""
        try:
            self._receive(1, time.monotonic() + within_s)
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return False

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _send(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            self._wait(select.POLLOUT, deadline)
            rest = rest[self._socket.send(rest[:CHUNK_BYTES]) :]

    def _receive(self, count: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < count:
            self._wait(select.POLLIN, deadline)
            chunk = self._socket.recv(min(count - len(data), CHUNK_BYTES))
            if not chunk:
                raise ConnectionError("the child closed the pipe")
            data += chunk
        return bytes(data)

    def _wait(self, event: int, deadline: float) -> None:
        """Wait until something can be sent or received, the end of the connection included."""
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            dead = self._died()  # before the poll: the last answer of a dead child still counts
            if _poll(self._socket, event, 0 if dead else min(left_s, DEATH_CHECK_S)):
                return
            if dead:
                raise ConnectionError("the child is dead, though its end of the pipe is open")
            if time.monotonic() >= deadline:
                raise TimeoutError


def _poll(connection: socket.socket, event: int, wait_s: float) -> bool:
    poll = select.poll()
    poll.register(connection, event)
    return bool(poll.poll(math.ceil(wait_s * 1000)))


# -- the child's end -----------------------------------------------------------------------------


def send_frame(connection: socket.socket, nonce: bytes, data: bytes) -> None:
    """Send the answer to the request that came with this nonce."""
    connection.sendall(HEADER.pack(len(data), nonce) + data)


def receive_frame(connection: socket.socket) -> tuple[bytes, bytes] | None:
    """Return nonce and bytes of a request, None when the worker has closed its end."""
    header = _receive_exactly(connection, HEADER.size)
    if header is None:
        return None
    count, nonce = HEADER.unpack(header)
    data = _receive_exactly(connection, count)
    return None if data is None else (nonce, data)


def _receive_exactly(connection: socket.socket, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        try:
            chunk = connection.recv(min(count - len(data), CHUNK_BYTES))
        except ConnectionError:
            return None
        if not chunk:
            return None
        data += chunk
    return bytes(data)
