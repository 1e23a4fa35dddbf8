"""Process tasks that use the pipe between their child process and the worker; imported by the children of the tests."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from asynctasq.codec.typed_msgpack import packb
from asynctasq.core.lanes.child import Reply, ReplyKind
from asynctasq.tasks import SyncProcessTask
from tests.core.lanes.process_tasks import tell

__all__ = ["FORGED", "Fails", "Hostile", "Innocent"]

FORGED = "forged"
LONG_S = 600
FORGED_REPLY = Reply(kind=ReplyKind.RETURNED, result=packb(FORGED)).encode()
HOLDER = """
import os, sys, time
descriptors, data = [int(one) for one in sys.argv[3:]], bytes.fromhex(sys.argv[2])
written = False
while True:
    for one in descriptors:
        try:
            os.write(one, data)
        except OSError:
            sys.exit()
    if not written:
        written = True
        os.close(os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY))
    time.sleep(0.05)
"""


def frame(data: bytes, nonce: bytes = bytes(16)) -> bytes:
    return len(data).to_bytes(8, "big") + nonce + data


def nonce() -> bytes:
    """Find the nonce of the request that runs, where code of the same process finds it."""
    here = sys._getframe()
    while here is not None:
        for value in here.f_locals.values():
            if isinstance(value, bytes) and len(value) == 16:
                return value
        here = here.f_back
    return bytes(16)


def sockets() -> dict[str, int]:
    """Find every socket of this process: name and descriptor."""
    found: dict[str, int] = {}
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            name = os.readlink(f"/proc/self/fd/{number}")
            if name.startswith("socket:"):
                found[name] = int(number)
    return found


def pipes() -> Iterator[socket.socket]:
    """Hand out a copy of each of them."""
    for number in sockets().values():
        yield socket.socket(fileno=os.dup(number))


def send(data: bytes) -> None:
    for pipe in pipes():
        with suppress(OSError):
            pipe.settimeout(None)
            pipe.sendall(data)


class Hostile(SyncProcessTask[str]):
    """Tells its pid in a file and attacks."""

    keep_result = True
    max_crashes = 2
    retry_delay = 0
    kept: ClassVar[list[object]] = []

    def __init__(self, how: str, file: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.how = how
        self.file = file

    def execute(self) -> str:
        tell(self.file, f"{os.getpid()}")
        return str(getattr(self, self.how)() or "returned")

    def old_frames(self) -> None:
        send((len(FORGED_REPLY).to_bytes(8, "big") + FORGED_REPLY) * 3)

    def frames_without_nonce(self) -> None:
        send(frame(FORGED_REPLY) * 3)

    def frames_with_nonce(self) -> None:
        send(frame(FORGED_REPLY, nonce()) * 3)

    def answer_and_stay(self) -> None:
        send(frame(FORGED_REPLY, nonce()))
        time.sleep(LONG_S)

    def garbage(self) -> None:
        send(b"\xff" * 1000)

    def garbage_with_nonce(self) -> None:
        send(frame(b"\xc1 no reply", nonce()))

    def one_byte(self) -> None:
        send(b"\0")

    def one_byte_and_stay(self) -> None:
        send(b"\0")
        time.sleep(LONG_S)

    def half_a_frame_and_stay(self) -> None:
        send(frame(FORGED_REPLY, nonce())[:-1])
        time.sleep(LONG_S)

    def a_byte_now_and_then(self) -> None:
        for byte in frame(bytes(10_000), nonce()):
            send(bytes([byte]))
            time.sleep(0.1)

    def huge(self) -> None:
        send((2**62).to_bytes(8, "big") + nonce())
        while True:
            send(bytes(1 << 20))

    def leave_a_thread(self) -> None:
        written = threading.Event()

        def write() -> None:
            while True:
                send(frame(FORGED_REPLY))
                written.set()
                time.sleep(0.01)

        threading.Thread(target=write, daemon=True).start()
        written.wait()

    def leave_a_process(self) -> None:
        self._start_holder(frame(FORGED_REPLY))

    def leave_a_silent_process_and_die(self) -> None:
        self._start_holder(b"")
        os._exit(1)

    def _start_holder(self, data: bytes) -> None:
        held = list(pipes())
        self.kept.append(held)
        written = Path(f"{self.file}.written")
        numbers = [one.fileno() for one in held]
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(written), data.hex(), *map(str, numbers)],
            pass_fds=numbers,
            start_new_session=True,
        )
        while not written.exists():
            time.sleep(0.01)


class Innocent(SyncProcessTask[int]):
    """Says which process it runs in, and that it ran."""

    keep_result = True

    def __init__(self, file: str = "", **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.file = file

    def execute(self) -> int:
        if self.file:
            Path(self.file).touch()
        return os.getpid()


class Fails(SyncProcessTask[str]):
    """Must be seen to fail."""

    max_attempts = 1

    keep_result = True

    def execute(self) -> str:
        raise RuntimeError("this payment failed")


class Inherits(SyncProcessTask[list[list[str]]]):
    """Says which sockets it has, which a process that it starts, and which one that it forks."""

    keep_result = True

    def execute(self) -> list[list[str]]:
        look = "from tests.security.hostile_children import sockets; print(*sockets())"
        command = [sys.executable, "-c", look]
        started = subprocess.run(command, close_fds=False, capture_output=True, text=True, check=True).stdout
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, " ".join(sockets()).encode())
            os._exit(0)
        os.close(writer)
        return [[*sockets()], started.split(), os.read(reader, 100_000).decode().split()]
