"""Waiting for work: one blocked connection per set of queues, shared by all who wait in this event loop."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import Connection

from asynctasq.drivers.redis_driver.errors import translated
from asynctasq.drivers.redis_driver.pool import Pool, discard, pack
from asynctasq.errors import DriverError

__all__ = ["BLOCK_S", "Bell", "Bells"]

BLOCK_S = 15
"""Longest sleep between two looks at the queues, should a wake-up get lost with a failing server."""

PASS_ON_S = 1.0

PassOn = Callable[[Sequence[str]], Coroutine[Any, Any, None]]


class Bell:
    """Be woken by the token that a producer leaves for one of those who wait for these queues.

    The blocked read outlives a waiter that was cancelled, for up to `BLOCK_S`: workers wait again within
    milliseconds, and opening a connection each time would cost more than the task. A token that comes when
    nobody waits here any more is passed on to the other processes.
    """

    def __init__(self, pool: Pool, base: str, queues: tuple[str, ...], pass_on: PassOn) -> None:
        self._pool = pool
        self._queues = queues
        self._command = pack(("BLPOP", *(f"{base}wake:{queue}" for queue in queues), BLOCK_S))
        self._pass_on = pass_on
        self._waiters: dict[asyncio.Future[bool], None] = {}
        self._listener: asyncio.Task[None] | None = None

    async def wait(self, wait_s: float) -> bool:
        """Return True when woken, False when the time is over or the bell was closed."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(wait_s, _finish, waiter, False)
        self._waiters[waiter] = None
        if self._listener is None and self._queues:
            self._listener = self._pool.spawn(self._listen())
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None and waiter.result():
                self._pool.spawn(self._pass_on(self._queues))
            raise
        finally:
            timer.cancel()
            self._waiters.pop(waiter, None)

    @property
    def is_used(self) -> bool:
        """Whether somebody waits, or the blocked read goes on."""
        return bool(self._waiters) or self._listener is not None

    def close(self) -> bool:
        """End every wait, and the blocked read with its connection; return whether there was one."""
        for waiter in self._waiters:
            _finish(waiter, False)
        if self._listener is None:
            return False
        self._listener.cancel()
        return True

    async def _listen(self) -> None:
        connection: Connection | None = None
        try:
            with translated(self._pool.address.label):
                connection = await self._pool.connect()
                while self._waiters:
                    await self._block(connection)
        except DriverError as error:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_exception(error)
        finally:
            # Before the next await, so that whoever waits next starts a listener of their own.
            self._listener = None
            if connection is not None:
                await discard(connection)

    async def _block(self, connection: Connection) -> None:
        reply = await self._pool.exchange(connection, self._command, extra_s=BLOCK_S)
        if reply is None:
            return
        waiting = [waiter for waiter in self._waiters if not waiter.done()]
        for waiter in waiting:
            waiter.set_result(True)
        if not waiting:
            await self._pass_on(self._queues)


def _finish(waiter: asyncio.Future[bool], woken: bool) -> None:
    if not waiter.done():
        waiter.set_result(woken)


class Bells:
    """The bells of one event loop, one per set of queues that somebody waits for."""

    def __init__(self, pool: Pool, base: str, pass_on: PassOn) -> None:
        self.closed = False
        self._pool = pool
        self._base = base
        self._pass_on = pass_on
        self._bells: dict[tuple[str, ...], Bell] = {}

    def of(self, queues: Sequence[str]) -> Bell:
        """Return the bell for these queues."""
        names = tuple(sorted(set(queues)))
        bell = self._bells.get(names)
        if bell is None:
            self._bells = {names: bell for names, bell in self._bells.items() if bell.is_used}
            bell = self._bells[names] = Bell(self._pool, self._base, names, self._pass_on)
        return bell

    async def close(self) -> None:
        """End all waits; a token that was already on its way to us is passed on, as far as the server answers."""
        self.closed = True
        listening = [queue for names, bell in self._bells.items() if bell.close() for queue in names]
        if listening:
            with suppress(DriverError, TimeoutError):
                async with asyncio.timeout(PASS_ON_S):
                    await self._pass_on(listening)
