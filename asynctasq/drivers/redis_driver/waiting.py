"""Waiting for work: one blocked connection per set of queues, shared by all who wait in this event loop."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import Connection

from asynctasq.drivers.redis_driver.errors import mapped_errors
from asynctasq.drivers.redis_driver.pool import Pool, discard, pack
from asynctasq.errors import DriverError

__all__ = ["BLOCK_S", "WakeupListener", "WakeupListeners"]

BLOCK_S = 5
"""Longest sleep between two polls of the queues, should a wake-up get lost with its server or in the network."""

WAKE_NEXT_S = 1.0

WakeNext = Callable[[Sequence[str]], Coroutine[Any, Any, None]]


class WakeupListener:
    """Read the wake-up tokens that producers push for one of the clients that wait for these queues.

    The blocked read outlives a waiter that was cancelled, for up to `BLOCK_S`: workers wait again within
    milliseconds, and opening a connection each time would cost more than the task. A token that comes when
    nobody waits here any more wakes another client instead.
    """

    def __init__(self, pool: Pool, base: str, queues: tuple[str, ...], wake_next: WakeNext) -> None:
        self._pool = pool
        self._queues = queues
        self._command = pack(("BLPOP", *(f"{base}wake:{queue}" for queue in queues), BLOCK_S))
        self._wake_next = wake_next
        self._waiters: dict[asyncio.Future[bool], None] = {}
        self._read_task: asyncio.Task[None] | None = None

    async def wait(self, wait_s: float) -> bool:
        """Return True when woken, False when the time is over or the listener was closed."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(wait_s, _set_result, waiter, False)
        self._waiters[waiter] = None
        if self._read_task is None and self._queues:
            self._read_task = self._pool.spawn(self._read_tokens())
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None and waiter.result():
                self._pool.spawn(self._wake_next(self._queues))
            raise
        finally:
            timer.cancel()
            self._waiters.pop(waiter, None)

    @property
    def is_in_use(self) -> bool:
        """Whether somebody waits, or the blocked read goes on."""
        return bool(self._waiters) or self._read_task is not None

    def close(self) -> bool:
        """End every wait, and the blocked read with its connection; return whether there was one."""
        for waiter in self._waiters:
            _set_result(waiter, False)
        if self._read_task is None:
            return False
        self._read_task.cancel()
        return True

    async def _read_tokens(self) -> None:
        connection: Connection | None = None
        try:
            with mapped_errors(self._pool.address.label):
                connection = await self._pool.connect()
                while self._waiters:
                    await self._read_token(connection)
        except DriverError as error:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_exception(error)
        finally:
            # Before the next await, so that the next waiter starts a read of its own.
            self._read_task = None
            if connection is not None:
                await discard(connection)

    async def _read_token(self, connection: Connection) -> None:
        reply = await self._pool.exchange(connection, self._command, extra_s=BLOCK_S, brief=True)
        if reply is None:
            return
        waiting = [waiter for waiter in self._waiters if not waiter.done()]
        for waiter in waiting:
            waiter.set_result(True)
        if not waiting:
            await self._wake_next(self._queues)


def _set_result(waiter: asyncio.Future[bool], woken: bool) -> None:
    if not waiter.done():
        waiter.set_result(woken)


class WakeupListeners:
    """The listeners of one event loop, one per set of queues that somebody waits for."""

    def __init__(self, pool: Pool, base: str, wake_next: WakeNext) -> None:
        self.closed = False
        self._pool = pool
        self._base = base
        self._wake_next = wake_next
        self._listeners: dict[tuple[str, ...], WakeupListener] = {}

    def for_queues(self, queues: Sequence[str]) -> WakeupListener:
        """Return the listener for these queues."""
        names = tuple(sorted(set(queues)))
        listener = self._listeners.get(names)
        if listener is None:
            self._listeners = {names: listener for names, listener in self._listeners.items() if listener.is_in_use}
            listener = self._listeners[names] = WakeupListener(self._pool, self._base, names, self._wake_next)
        return listener

    async def close(self) -> None:
        """End all waits; wake another client for a token that was already on its way to us, if the server answers."""
        self.closed = True
        read = [queue for names, listener in self._listeners.items() if listener.close() for queue in names]
        if read:
            with suppress(DriverError, TimeoutError):
                async with asyncio.timeout(WAKE_NEXT_S):
                    await self._wake_next(read)
