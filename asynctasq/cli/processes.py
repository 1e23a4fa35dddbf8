"""`asynctasq worker --processes N`: runs N workers as child processes and starts again what dies."""

import asyncio
import os
import signal
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from asynctasq.cli.exit_codes import ExitCode
from asynctasq.cli.output import configure_logging
from asynctasq.logs import get_logger

__all__ = ["address_of_child", "child_number", "run_processes", "stop_with_parent"]

logger = get_logger(__name__)

NUMBER: Final = "WORKER_NUMBER_OF_ASYNCTASQ"
"""The environment variable that makes a process one of those children, and says which."""
BACKOFF_S_FIRST: Final = 1.0
BACKOFF_S_MAX: Final = 30.0
SETTLED_S: Final = 60.0
"""One that has lived so long is started again at once; the pause grows only with deaths in a row."""
FINAL: Final = frozenset({ExitCode.USAGE, ExitCode.CONFIGURATION, ExitCode.LIFESPAN})
"""Codes of an end at the first start that would come again at every other: then all end."""
OF_SUPERVISORS: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What systemd tells the process that it has started, and nobody else."""


def child_number() -> int | None:
    """Return, once, which child of `--processes` this process is, from 0; None if it is none."""
    number = os.environ.pop(NUMBER, "")  # what it starts itself is none
    return int(number) if number.isdecimal() else None


def address_of_child(address: str, number: int) -> str:
    """Return where a child answers health checks: at the port that was given, and those after it."""
    host, colon, port = address.rpartition(":")
    return f"{host}{colon}{int(port) + number}" if port.isascii() and port.isdecimal() and int(port) else address


def stop_with_parent(stop: Callable[[], None]) -> None:
    """Call `stop` in the running event loop when the parent has died: it holds the other end of standard input."""
    loop = asyncio.get_running_loop()

    def wait() -> None:
        while os.read(0, 1024):
            pass
        with suppress(RuntimeError):  # the loop is closed: the worker has ended by itself
            loop.call_soon_threadsafe(stop)

    threading.Thread(target=wait, name="asynctasq-parent", daemon=True).start()


def run_processes(count: int, *, burst: bool, log_level: str, as_json: bool) -> int:
    """Run this program `count` times, as workers, until a signal has stopped them all; return the exit code.

    With `burst` those that end well are not started again.

    Raises: ConfigError.
    """
    configure_logging(log_level, as_json=as_json)
    return asyncio.run(_Processes(count, burst=burst).run())


class _Processes:
    def __init__(self, count: int, *, burst: bool) -> None:
        self._count = count
        self._burst = burst
        self._stopping = asyncio.Event()
        self._children: dict[int, Process] = {}
        self._code = 0

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        logger.info("process %d runs %d workers", os.getpid(), self._count)
        kept: list[Coroutine[Any, Any, None]] = [self._keep(number) for number in range(self._count)]
        await asyncio.gather(*kept)
        return self._code

    def _stop(self) -> None:
        """Let every child drain, or at the second signal hand everything back at once."""
        request = signal.SIGINT if self._stopping.is_set() else signal.SIGTERM  # twice the same may be seen as one
        self._stopping.set()
        for child in self._children.values():
            _send(child, request)

    async def _keep(self, number: int) -> None:
        loop, backoff_s, is_first = asyncio.get_running_loop(), BACKOFF_S_FIRST, True
        while not self._stopping.is_set():
            started_at = loop.time()
            code = await self._run_child(number)
            can_not_start, is_first = is_first and code in FINAL, False
            if self._stopping.is_set() or can_not_start or (self._burst and code == ExitCode.DONE):
                self._code = max(self._code, _exit_code(code))
                if can_not_start and not self._stopping.is_set():
                    logger.error("worker %d can't start (code %d); all are stopped", number, code)
                    self._stop()
                return
            if code == ExitCode.DONE:
                continue  # it has run as many tasks, or needs as much memory, as it may
            backoff_s = BACKOFF_S_FIRST if loop.time() - started_at >= SETTLED_S else backoff_s
            logger.warning("worker %d ended with %s; it is started again in %g s", number, _described(code), backoff_s)
            await self._pause(backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_S_MAX)

    async def _run_child(self, number: int) -> int:
        """Return the code that the child ended with, that of a signal below 0."""
        environment = {name: text for name, text in os.environ.items() if name not in OF_SUPERVISORS}
        child = await asyncio.create_subprocess_exec(
            *sys.orig_argv,
            env={**environment, NUMBER: str(number)},
            stdin=PIPE,
            start_new_session=True,  # a terminal's ^C is for the parent alone, which passes it on once
        )
        self._children[number] = child
        if self._stopping.is_set():  # the signal came while it was started
            _send(child, signal.SIGTERM)
        return await child.wait()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


def _send(child: Process, number: signal.Signals) -> None:
    """Send a signal to a child that nobody has waited for yet; `Process.send_signal` may take its exit code away."""
    if child.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(child.pid, number)


def _exit_code(code: int) -> int:
    """Return the code of a child as the shell would: 128 and the number of the signal that ended it.

    One that our own signal ended before it could handle any had nothing yet, and has ended well.
    """
    if code in (-signal.SIGTERM, -signal.SIGINT):
        return ExitCode.DONE
    return 128 - code if code < 0 else code


def _described(code: int) -> str:
    return f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"code {code}"
