"""The pool of child processes: a dead child costs its own task, a timeout kills that child alone.

Why it is our own: docs/decisions/process-pool.md.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from pathlib import Path

from asynctasq.core.lanes.child import NO_LIFESPAN, READY, ChildSettings
from asynctasq.core.lanes.child_log import ChildLog, log_levels
from asynctasq.core.lanes.pipe import BadAnswer, WorkerEnd
from asynctasq.core.lanes.thread_pool import ThreadPool
from asynctasq.errors import LifespanError, TaskTimeoutError, WorkerCrashedError
from asynctasq.logs import get_logger

__all__ = ["ChildCrashed", "ProcessPool"]

logger = get_logger(__name__)

START = (
    "import sys; sys.path.insert(0, sys.argv[1]); from asynctasq.core.lanes.child import main;"
    " main(*map(int, sys.argv[2:]))"
)
LIBRARY = str(Path(__file__).parents[3])
"""With -P and this, a child imports nothing from the folder it is started in before it is given the worker's path."""
START_S_MAX = 60.0
END_S_MAX = 30.0
"""How long a child may take to leave its lifespans and end."""
IDLE_S_MAX = 5.0
"""How long a child may take to say that it waits for the next attempt."""
ANSWER_BYTES_EXTRA = 256 * 1024
"""How much an answer may exceed the largest body: an exception has texts, arguments and attributes, each bounded."""


class ChildCrashed(WorkerCrashedError):
    """The child process of an attempt died."""


class _Child:
    """One child process and the pipe to it. Blocking; used by one thread at a time, but `kill` by any."""

    def __init__(self, settings: ChildSettings) -> None:
        ours, theirs = socket.socketpair()
        reading, sending = socket.socketpair()
        with theirs, sending:
            command = [sys.executable, "-P", "-c", START, LIBRARY, str(os.getpid()), str(sending.fileno())]
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command, stdin=theirs.fileno(), start_new_session=True, pass_fds=[sending.fileno()]
            )
        self.log = ChildLog(reading)
        self._pipe = WorkerEnd(ours, self._died, answer_bytes_max=settings.body_bytes_max + ANSWER_BYTES_EXTRA)
        self.tasks_run = 0
        self._settings = settings

    def wait_until_ready(self) -> None:
        """Send the settings and wait for the application to be imported.

        Raises: ChildCrashed with the child's traceback if it can't, or takes longer than `START_S_MAX`; LifespanError,
        a failure of the attempt and no crash, if one of its lifespans could not be entered.
        """
        try:
            answer = self._exchange(replace(self._settings, log_levels=log_levels()).encode(), START_S_MAX)
        except TaskTimeoutError as error:  # the task has not run, so its own limit is not what was exceeded
            raise ChildCrashed(
                f"a child process was not ready after {START_S_MAX:g} s; what does the application wait for at import?"
            ) from error
        if answer != READY:
            self.end()
            if answer.startswith(NO_LIFESPAN):
                why = answer.removeprefix(NO_LIFESPAN).decode(errors="replace")
                raise LifespanError(f"a child process could not start: {why}")
            raise ChildCrashed(f"a child process could not start the application:\n{answer.decode(errors='replace')}")

    def run(self, request: bytes, timeout_s: float | None) -> bytes:
        """Run one attempt; kills the process when it takes longer than `timeout_s`."""
        self.tasks_run += 1
        return self._exchange(request, timeout_s)

    def _exchange(self, data: bytes, timeout_s: float | None) -> bytes:
        try:
            return self._pipe.exchange(data, timeout_s)
        except TimeoutError:
            self.end()
            raise TaskTimeoutError(f"ran longer than {timeout_s:g} s; its process was killed") from None
        except ConnectionError:
            raise self._crashed() from None
        except BadAnswer as error:
            self.end()
            raise ChildCrashed(f"the child process was killed: {error}") from None

    @property
    def idle(self) -> bool:
        """Whether the process runs and has sent nothing that it was not asked for."""
        return self._process.poll() is None and self._pipe.silent

    def has_ended_its_attempt(self) -> bool:
        """Ask the child; code of the task that sent the answer itself may still run there."""
        try:
            return self.idle and self._pipe.exchange(b"", IDLE_S_MAX) == b""
        except (TimeoutError, ConnectionError, BadAnswer):
            return False

    def _died(self) -> bool:
        """Check without reaping: until the dead process is reaped, its group can be killed by its number."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _crashed(self) -> ChildCrashed:
        self.end()
        code = self._process.returncode
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        return ChildCrashed(f"the child process died ({how}) while it ran the task")

    def kill(self) -> None:
        """Kill the process and those it started; a call that waits for its reply raises ChildCrashed."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def ask_to_end(self) -> None:
        """Let a process that waits for its next attempt leave its lifespans and end."""
        self._pipe.end_requests()

    def wait_until_ended(self) -> None:
        """Wait for a process that was asked to end; kill it if it takes longer than `END_S_MAX`."""
        if not self._pipe.closed_within(END_S_MAX):
            logger.error("a child process was killed: its lifespans did not end within %g s", END_S_MAX)
        self.end()

    def end(self) -> None:
        """Kill the process if it still runs, and wait until it has ended."""
        self.kill()
        self._process.wait()
        self._pipe.close()
        self.log.close()


class _CancellableCall:
    """The child that runs a call, so that cancelling the call can kill it from another thread."""

    def __init__(self) -> None:
        self._child: _Child | None = None
        self._cancelled = False

    def use(self, child: _Child) -> None:
        self._child = child
        if self._cancelled:
            child.kill()

    def cancel(self) -> None:
        self._cancelled = True
        if self._child is not None:
            self._child.kill()


class ProcessPool:
    """Child processes, started when a task needs one; used from one event loop at a time.

    At most `size` at once (default: the number of processors). `max_tasks_per_child` replaces a child
    after so many tasks; None keeps it.
    """

    def __init__(
        self, settings: ChildSettings, *, size: int | None = None, max_tasks_per_child: int | None = None
    ) -> None:
        self._settings = settings
        self._size = size or os.cpu_count() or 1
        self._max_tasks = max_tasks_per_child
        self._threads = ThreadPool(self._size, name="asynctasq-child")
        self._slots: asyncio.Semaphore | None = None
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._busy: dict[_Child, None] = {}

    async def run(self, request: bytes, *, timeout_s: float | None, message_id: str = "") -> bytes:
        """Run one attempt in a child and return its reply; the time limit covers execution alone.

        What the child logs under this message id is handled in the caller's context.
        Cancelling kills the child and waits until it has ended.

        Raises: TaskTimeoutError after the child was killed, ChildCrashed if it died by itself.
        """
        if self._slots is None:
            self._slots = asyncio.Semaphore(self._size)
        async with self._slots:
            begin_log = partial(ChildLog.begin, message_id=message_id, context=copy_context())
            return await self._in_thread(partial(self._run_in_some_child, request, timeout_s, begin_log))

    async def _in_thread(self, call: Callable[["_CancellableCall"], bytes]) -> bytes:
        running = _CancellableCall()
        future = asyncio.get_running_loop().run_in_executor(self._threads, call, running)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            running.cancel()
            await asyncio.wait([future])
            future.exception()  # retrieved: the child was killed on purpose
            raise

    def _run_in_some_child(
        self,
        request: bytes,
        timeout_s: float | None,
        begin_log: Callable[[ChildLog], None],
        running: "_CancellableCall",
    ) -> bytes:
        child = self._acquire()
        try:
            running.use(child)
            begin_log(child.log)
            if child.tasks_run == 0:
                child.wait_until_ready()
            return child.run(request, timeout_s)
        finally:
            self._release(child)

    def _acquire(self) -> _Child:
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.idle:
                    break
                child.end()
            else:
                child = _Child(self._settings)
            self._busy[child] = None
            return child

    def _release(self, child: _Child) -> None:
        used_up = self._max_tasks is not None and child.tasks_run >= self._max_tasks
        usable = not used_up and child.has_ended_its_attempt()
        with self._lock:
            stopped = self._busy.pop(child, child) is child
            keep = usable and not stopped
            if keep:
                self._idle.append(child)
        if not keep:
            if used_up and not stopped and self._settings.lifespans and child.has_ended_its_attempt():
                child.ask_to_end()
                child.wait_until_ended()
            child.end()

    async def interrupt(self) -> None:
        """Kill the children that run something: calls that wait for one raise ChildCrashed. Ask the others to end."""
        with self._lock:
            busy, self._busy = list(self._busy), {}
            idle = self._idle if self._settings.lifespans else []
        for child in busy:
            child.kill()
        for child in idle:
            child.ask_to_end()

    async def end_idle(self) -> None:
        """Let the children that run nothing leave their lifespans and end; if cancelled, kill those that have not."""
        with self._lock:
            idle, self._idle = (self._idle, []) if self._settings.lifespans else ([], self._idle)
        for child in idle:
            child.ask_to_end()
        try:
            for child in idle:
                await asyncio.get_running_loop().run_in_executor(self._threads, child.wait_until_ended)
        except asyncio.CancelledError:
            logger.error("child processes that left their lifespans were killed: time was over")  # noqa: TRY400 - no bug
            raise
        finally:
            for child in idle:
                child.end()

    async def stop(self) -> None:
        """Kill every child, busy or not. Calls that wait for one raise ChildCrashed."""
        await self.interrupt()
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.end()

    def close(self) -> None:
        """Let the threads end; call after `stop`. The pool can be used again, from another loop too."""
        self._threads.shutdown()
        self._slots = None  # a semaphore belongs to the loop it first waited in
