"""Tells what supervises a worker how it is: systemd by its notify socket, anybody else by a file."""

import os
import socket
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from asynctasq.core.loop_watch import LIVE_S
from asynctasq.core.worker import Worker
from asynctasq.errors import ConfigError
from asynctasq.logs import get_logger

__all__ = ["tell_supervisor"]

logger = get_logger(__name__)

PERIOD_S = 0.5
"""How often a thread looks at the worker."""


@contextmanager
def tell_supervisor(
    worker: Worker, *, ready_file: str | None, environment: Mapping[str, str] = os.environ
) -> Generator[None]:
    """While the context is open, keep a file while the worker is ready, and answer to systemd if it started us.

    Raises: ConfigError if the file can't be written.
    """
    path = None if ready_file is None else Path(ready_file)
    systemd = _Systemd(environment) if environment.get("NOTIFY_SOCKET") else None
    if path is None and systemd is None:
        yield
        return
    if path is not None:
        _check_writable(path)
    reporter = _StateReporter(worker, path, systemd)
    end = threading.Event()
    period_s = PERIOD_S if systemd is None else min(PERIOD_S, systemd.watchdog_s / 2)
    thread = threading.Thread(target=reporter.run, args=(end, period_s), name="asynctasq-supervision", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        reporter.ended()


def _check_writable(path: Path) -> None:
    try:
        path.touch()
        path.unlink()
    except OSError as error:
        raise ConfigError(f"the ready file {path} can't be written: {error.strerror or error}") from error


class _StateReporter:
    """Tells the supervisor of a worker each change of its state."""

    def __init__(self, worker: Worker, path: Path | None, systemd: "_Systemd | None") -> None:
        self._worker = worker
        self._path = path
        self._systemd = systemd
        self._ready = self._announced = self._stopping = False

    def run(self, end: threading.Event, period_s: float) -> None:
        """Look at the worker again and again."""
        while not end.wait(period_s):
            self._look()

    def _look(self) -> None:
        is_live = self._worker.loop_blocked_s < LIVE_S
        self._set_ready(is_live and not self._worker.obstacle)
        if self._systemd is None:
            return
        if self._ready and not self._announced:
            self._announced = True
            self._systemd.notify("READY=1")
        if self._worker.stopping and not self._stopping:
            self._stopping = True
            self._systemd.notify("STOPPING=1")
        if is_live:
            self._systemd.notify("WATCHDOG=1")

    def ended(self) -> None:
        """Tell that the worker has ended."""
        self._set_ready(False)
        if self._systemd is not None and not self._stopping:
            self._systemd.notify("STOPPING=1")

    def _set_ready(self, ready: bool) -> None:
        if ready == self._ready:
            return
        self._ready = ready
        if self._path is None:
            return
        try:
            if ready:
                self._path.touch()
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            logger.error("the ready file can't be changed: %s", error)  # noqa: TRY400 - it says all


class _Systemd:
    """The socket at which systemd listens to this service; `watchdog_s` is how often it wants to hear of it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        name = environment["NOTIFY_SOCKET"]
        self._address = "\0" + name[1:] if name.startswith("@") else name
        text = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(text) / 1e6 if text.isascii() and text.isdecimal() and int(text) else float("inf")
        self._failed = False

    def notify(self, state: str) -> None:
        """Send a state; that it can't be sent is logged once."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.connect(self._address)
                sender.send(state.encode())
        except OSError as error:
            if not self._failed:
                logger.warning("systemd can't be told the state of the worker: %s", error)
            self._failed = True
