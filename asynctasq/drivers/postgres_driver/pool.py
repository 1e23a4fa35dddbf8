"""Connections to PostgreSQL for one event loop: a small pool.

asyncpg's own pool sends a reset statement at every release, a second round trip for each of ours; our
statements leave nothing to reset. No statement is ever cancelled in mid-command: it may end within a second,
or its connection is discarded.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import asyncpg

from asynctasq.drivers.loops import close_socket
from asynctasq.drivers.silence import AnswerLimit

__all__ = ["CANCELLED_GRACE_S", "LOCK_WAIT_S", "OnCancelled", "Operation", "Pool", "close_bounded", "close_its_socket"]

T = TypeVar("T")

Operation = Callable[[Any], Coroutine[Any, Any, T]]
OnCancelled = Callable[[Any, T], Coroutine[Any, Any, object]]

CANCELLED_GRACE_S = 1.0
CLOSE_S = 2.0
LOCK_WAIT_S = 4.0
"""Less than `SILENCE_S`: a claim that waits for a lock fails, rather than be given up and take messages later."""


class Pool:
    """Up to `max_connections` connections of one loop, the one used last first.

    `on_silence` is called when a connection did not answer or could not be opened: others are most likely silent, too.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Any]], *, max_connections: int, command_timeout_s: float
    ) -> None:
        self._open = connect
        self._answer_limit = AnswerLimit(command_timeout_s)
        self._slots = asyncio.Semaphore(max_connections)
        self._idle: list[Any] = []
        self._busy: dict[Any, None] = {}
        self._all_idle = asyncio.Event()
        self._closed = False
        self.on_silence: Callable[[], None] = lambda: None

    async def run(
        self,
        operation: Operation[T],
        *,
        on_cancelled: OnCancelled[T] | None = None,
        brief: bool = False,
    ) -> T:
        """Run one operation on one connection. If the caller is cancelled meanwhile, `on_cancelled` gets the result."""
        async with self._slots:
            task = await self._run_on(self._take_idle() or await self._connect(), operation, on_cancelled, brief)
            if _sent_nothing(task):
                task = await self._run_on(await self._connect(), operation, on_cancelled, brief)
            return task.result()

    async def _run_on(
        self, connection: Any, operation: Operation[T], on_cancelled: OnCancelled[T] | None, brief: bool
    ) -> "asyncio.Task[T]":
        """Return the task of the operation, which has ended."""
        loop = asyncio.get_running_loop()
        self._busy[connection] = None
        limit_s = self._answer_limit.seconds(loop.time(), brief=brief)
        task = loop.create_task(operation(connection))
        try:
            # Unlike awaiting the task, waiting for it does not cancel it when we are cancelled.
            await asyncio.wait((task,), timeout=limit_s)
        except asyncio.CancelledError:
            await self._finish_cancelled(connection, task, on_cancelled)
            raise
        finally:
            self._give_back(connection, task)
        if not task.done():
            self._answer_limit.note_late(limit_s, loop.time())
            raise TimeoutError(f"no answer within {limit_s:g} s")
        return task

    async def _connect(self) -> Any:
        try:
            return await self._open()
        except (OSError, TimeoutError):
            self.on_silence()
            raise

    def _take_idle(self) -> Any | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None

    def _give_back(self, connection: Any, task: "asyncio.Task[T]") -> None:
        self._busy.pop(connection, None)
        if not self._busy:
            self._all_idle.set()
        task.add_done_callback(_retrieve_exception)
        if not task.done() or task.cancelled() or _sent_nothing(task) or connection.is_closed():
            # Most likely the server went away, or the network is silent: for the idle connections as well.
            connection.terminate()
            self.discard_idle()
            self.on_silence()
        elif self._closed or connection.is_in_transaction():
            connection.terminate()
        else:
            self._idle.append(connection)

    async def _finish_cancelled(
        self,
        connection: Any,
        task: "asyncio.Task[T]",
        on_cancelled: OnCancelled[T] | None,
    ) -> None:
        """Wait shortly for a command whose caller was cancelled, so that connection and result are not lost."""
        await asyncio.wait((task,), timeout=CANCELLED_GRACE_S)
        if on_cancelled is None or not task.done() or task.cancelled() or task.exception() is not None:
            return
        cleaning_up = asyncio.get_running_loop().create_task(on_cancelled(connection, task.result()))
        try:
            await asyncio.wait((cleaning_up,), timeout=CANCELLED_GRACE_S)
        finally:
            cleaning_up.add_done_callback(_retrieve_exception)
            if not cleaning_up.done():
                connection.terminate()

    def discard_idle(self) -> None:
        """Drop the connections that nobody uses."""
        for connection in self._idle:
            connection.terminate()
        self._idle.clear()

    async def close(self) -> None:
        """Close idle connections; let busy ones finish for two seconds, then terminate them."""
        self._closed = True
        idle, self._idle = self._idle, []
        async with asyncio.TaskGroup() as group:
            for connection in idle:
                group.create_task(close_bounded(connection))
            group.create_task(self._terminate_busy())

    async def _terminate_busy(self) -> None:
        try:
            if self._busy:
                self._all_idle.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_S):
                        await self._all_idle.wait()
        finally:
            for connection in list(self._busy):
                connection.terminate()

    def abandon(self) -> None:
        """Close the sockets of connections whose loop was closed."""
        for connection in (*self._idle, *self._busy):
            close_its_socket(connection)


def _retrieve_exception(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled():
        task.exception()


def _sent_nothing(task: "asyncio.Task[Any]") -> bool:
    """Say whether asyncpg refused to send: the server has ended the session, and the socket's end is to come."""
    error = task.exception() if task.done() and not task.cancelled() else None
    return isinstance(error, asyncpg.InternalClientError) and "cannot switch to state" in str(error)


async def close_bounded(connection: Any) -> None:
    """Close within two seconds, then terminate."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await connection.close(timeout=CLOSE_S)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        connection.terminate()
    except BaseException:
        connection.terminate()
        raise


def close_its_socket(connection: Any) -> None:
    """Close the socket of a connection whose loop was closed."""
    transport: Any = getattr(connection, "_transport", None)
    # `terminate` schedules on the loop, which is closed and refuses.
    with suppress(RuntimeError, AttributeError, OSError):
        connection.terminate()
    close_socket(transport)
