"""The connection of one event loop on which PostgreSQL tells of new messages; who waits polls as well, seldom."""

import asyncio
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from typing import Any

import asyncpg

from asynctasq.drivers.levels import queue_in
from asynctasq.drivers.postgres_driver.pool import close_bounded, close_its_socket
from asynctasq.drivers.silence import SILENCE_S

__all__ = ["Listener"]

RELISTEN_S = 5.0
PING_S = 10.0
"""A listener that has heard nothing for so long asks whether its connection still works."""
LOST = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


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
        self._heard_at = 0.0
        self.on_silence: Callable[[], None] = lambda: None
        """Called when the connection did not answer."""

    @property
    def listens(self) -> bool:
        """Whether wake-ups arrive at the moment, as far as we know."""
        return self._connection is not None and not self._connection.is_closed()

    async def ensure(self) -> bool:
        """Listen, if that is possible; say whether we do. If not, waiting calls poll."""
        loop = asyncio.get_running_loop()
        if self.listens and loop.time() - self._heard_at < PING_S:
            return True
        async with self._lock:
            if self.listens and loop.time() - self._heard_at >= PING_S:
                await self._ping()
            if self.listens or self._closed or loop.time() < self._not_before:
                return self.listens
            try:
                await self._listen()
            except LOST:
                self._not_before = loop.time() + RELISTEN_S
            return self.listens

    async def _ping(self) -> None:
        """Find out whether the connection still works; drop it if not."""
        connection = self._connection
        assert connection is not None
        try:
            async with asyncio.timeout(SILENCE_S):
                await connection.execute("SELECT 1")
            self._heard_at = asyncio.get_running_loop().time()
        except LOST:
            connection.terminate()
            self.on_silence()
        except BaseException:
            connection.terminate()
            raise

    async def _listen(self) -> None:
        connection = await self._connect()
        try:
            connection.add_termination_listener(self._lost)
            async with asyncio.timeout(SILENCE_S):
                await connection.add_listener(self._channel, self._notified)
        except BaseException:
            connection.terminate()
            raise
        if self._closed:
            connection.terminate()
        else:
            self._connection, self._heard_at = connection, asyncio.get_running_loop().time()

    def _notified(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        self._wake({payload, queue_in(payload)})

    def _lost(self, _connection: Any) -> None:
        if not self._closed:
            self._wake(None)

    def drop(self) -> None:
        """Listen on another connection from the next call of `ensure` on."""
        if self._connection is not None:
            self._connection.terminate()

    async def close(self) -> None:
        """Stop listening."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            await close_bounded(connection)

    def abandon(self) -> None:
        """As `Pool.abandon`."""
        if self._connection is not None:
            close_its_socket(self._connection)
