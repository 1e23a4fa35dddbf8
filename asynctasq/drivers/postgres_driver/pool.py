"""Connections to PostgreSQL for one event loop: a small pool and a listener.

asyncpg's own pool sends a reset statement at every release, a second round trip for each of ours; our
statements leave nothing to reset. No statement is ever cancelled in mid-command: it may end within a second,
or its connection is discarded.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Any, TypeVar

import asyncpg

from asynctasq.drivers.loops import close_socket

__all__ = ["Listener", "OnCancelled", "Operation", "Pool", "close_bounded"]

T = TypeVar("T")

Operation = Callable[[Any], Coroutine[Any, Any, T]]
OnCancelled = Callable[[Any, T], Coroutine[Any, Any, object]]

CANCELLED_GRACE_S = 1.0
CLOSE_S = 2.0
RELISTEN_S = 5.0


class Pool:
    """Up to `max_connections` connections of one loop, the one used last first."""

    def __init__(
        self, connect: Callable[[], Awaitable[Any]], *, max_connections: int, command_timeout_s: float
    ) -> None:
        self._connect = connect
        self._command_timeout_s = command_timeout_s
        self._slots = asyncio.Semaphore(max_connections)
        self._idle: list[Any] = []
        self._busy: dict[Any, None] = {}
        self._all_idle = asyncio.Event()
        self._closed = False

    async def run(
        self,
        operation: Operation[T],
        *,
        on_cancelled: OnCancelled[T] | None = None,
    ) -> T:
        """Run one operation on one connection. If the caller is cancelled meanwhile, `on_cancelled` gets the result."""
        async with self._slots:
            connection = self._take_idle() or await self._connect()
            self._busy[connection] = None
            task = asyncio.get_running_loop().create_task(operation(connection))
            try:
                # Unlike awaiting the task, waiting for it does not cancel it when we are cancelled.
                await asyncio.wait((task,), timeout=self._command_timeout_s)
            except asyncio.CancelledError:
                await self._finish_cancelled(connection, task, on_cancelled)
                raise
            finally:
                self._give_back(connection, task)
            if not task.done():
                raise TimeoutError(f"no answer within {self._command_timeout_s} s")
            return task.result()

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
        if not task.done() or task.cancelled():
            connection.terminate()
        elif connection.is_closed():
            # Most likely the server went away, and the idle connections with it.
            self._discard_idle()
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

    def _discard_idle(self) -> None:
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
        if self._busy:
            self._all_idle.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._all_idle.wait()
        for connection in list(self._busy):
            connection.terminate()

    def abandon(self) -> None:
        """Close the sockets of connections whose loop was closed."""
        for connection in (*self._idle, *self._busy):
            _close_socket(connection)


def _retrieve_exception(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled():
        task.exception()


async def close_bounded(connection: Any) -> None:
    """Close within two seconds, then terminate."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await connection.close(timeout=CLOSE_S)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        connection.terminate()


def _close_socket(connection: Any) -> None:
    transport: Any = getattr(connection, "_transport", None)
    # `terminate` schedules on the loop, which is closed and refuses.
    with suppress(RuntimeError, AttributeError, OSError):
        connection.terminate()
    close_socket(transport)


class Listener:
    """One connection of a loop that listens for wake-ups; opened again when it was lost."""

    def __init__(
        self, connect: Callable[[], Awaitable[Any]], channel: str, wake: Callable[[AbstractSet[str] | None], None]
    ) -> None:
        self._connect = connect
        self._channel = channel
        self._wake = wake
        self._lock = asyncio.Lock()
        self._connection: Any | None = None
        self._closed = False
        self._not_before = 0.0

    @property
    def listens(self) -> bool:
        """Whether wake-ups arrive at the moment, as far as we know."""
        return self._connection is not None and not self._connection.is_closed()

    async def ensure(self) -> bool:
        """Listen, if that is possible; say whether we do. If not, waiting calls poll."""
        if self.listens:
            return True
        loop = asyncio.get_running_loop()
        async with self._lock:
            if self.listens or self._closed or loop.time() < self._not_before:
                return self.listens
            try:
                await self._listen()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                self._not_before = loop.time() + RELISTEN_S
            return self.listens

    async def _listen(self) -> None:
        connection = await self._connect()
        try:
            connection.add_termination_listener(self._lost)
            await connection.add_listener(self._channel, self._notified)
        except BaseException:
            connection.terminate()
            raise
        if self._closed:
            connection.terminate()
        else:
            self._connection = connection

    def _notified(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        self._wake({payload})

    def _lost(self, _connection: Any) -> None:
        if not self._closed:
            self._wake(None)

    async def close(self) -> None:
        """Stop listening."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            await close_bounded(connection)

    def abandon(self) -> None:
        """As `Pool.abandon`."""
        if self._connection is not None:
            _close_socket(self._connection)
