"""Tasks that hurt the child process they run in; imported by the children of the tests."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from asynctasq.tasks import AsyncProcessTask, SyncProcessTask

__all__ = ["Big", "Endless", "Harm", "Parent", "Pid", "PidAsync", "Speaks"]


class Pid(SyncProcessTask[int]):
    """Says which process it runs in."""

    keep_result = True

    def execute(self) -> int:
        return os.getpid()


class PidAsync(AsyncProcessTask[int]):
    """The same, in the child's event loop."""

    keep_result = True

    async def execute(self) -> int:
        return os.getpid()


class Endless(SyncProcessTask[None]):
    """Tells its pid in a file and never ends."""

    def __init__(self, file: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.file = file

    def execute(self) -> None:
        tell(self.file, f"{os.getpid()}")
        while True:
            pass


class Harm(SyncProcessTask[None]):
    """Ends its own process in one of several ways."""

    retry_delay = 0

    def __init__(self, how: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.how = how

    def execute(self) -> None:
        match self.how:
            case "exit 0":
                os._exit(0)
            case "exit 1":
                os._exit(1)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "segfault":
                ctypes.string_at(0)
            case _:
                raise AssertionError(self.how)


class Parent(SyncProcessTask[None]):
    """Starts or forks a process of its own, then never ends, or dies and leaves it."""

    def __init__(self, file: str, *, forks: bool = False, dies: bool = False, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.file = file
        self.forks = forks
        self.dies = dies

    def execute(self) -> None:
        pid = os.fork() if self.forks else subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid
        if pid == 0:
            time.sleep(600)
        tell(self.file, f"{os.getpid()} {pid}")
        if self.dies:
            os._exit(1)
        time.sleep(600)


class Speaks(SyncProcessTask[None]):
    """Writes to standard output and standard error."""

    def execute(self) -> None:
        sys.stdout.write("a word from the child\n")
        sys.stderr.write("a complaint from the child\n")


class Big(SyncProcessTask[bytes]):
    """Returns what it is given."""

    keep_result = True

    def __init__(self, content: bytes, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.content = content

    def execute(self) -> bytes:
        return self.content


def tell(file: str, text: str) -> None:
    """Write a file that is there whole or not at all."""
    path = Path(file)
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)
