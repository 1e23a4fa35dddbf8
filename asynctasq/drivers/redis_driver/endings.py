"""Waiting for the end of messages: one blocked connection for all calls of an event loop that do."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any

from redis.asyncio.connection import Connection

from asynctasq.drivers.base import END_CHECK_S
from asynctasq.drivers.redis_driver.errors import mapped_errors
from asynctasq.drivers.redis_driver.pool import Pool, discard, pack
from asynctasq.errors import DriverError

__all__ = ["EndListener"]

BLOCK_S = 5

EndWait = asyncio.Future[None]
RunScript = Callable[..., Awaitable[Any]]


class EndListener:
    """Reads the ids of messages that have ended from a list that is this client's own, its inbox.

    The blocked read outlives the last wait for up to `BLOCK_S`, as that of the wake-ups does.
    """

    def __init__(self, pool: Pool, base: str) -> None:
        self.inbox = secrets.token_hex(8)
        self.closed = False
        self._pool = pool
        self._command = pack(("BLPOP", f"{base}inbox:{self.inbox}", BLOCK_S))
        self._waits: dict[str, dict[EndWait, None]] = {}
        self._read_task: asyncio.Task[None] | None = None

    async def wait(self, message_id: str, script: RunScript, *, wait_s: float) -> bool:
        """Do `KeepsResults.wait_result`; `script` tells the server that we wait, and says whether it has ended."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while not self.closed:
            with self._waiting(message_id) as wait:
                remaining_s = deadline - loop.time()
                told_for_ms = round(2000 * min(END_CHECK_S, remaining_s)) if remaining_s > 0 else 0
                if await script("await_end", message_id, self.inbox, told_for_ms):
                    return True
                if remaining_s <= 0:
                    break
                done, _ = await asyncio.wait([wait], timeout=min(remaining_s, END_CHECK_S))
                for woken in done:
                    woken.result()  # raises what kept us from reading
        return False

    async def wait_news(self, holder: str, script: RunScript, *, wait_s: float) -> bool:
        """Do `CancelsRunning.wait_cancelled`, under a name that no message's id can be."""
        name, loop = f"\n{holder}", asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        with self._waiting(name) as wait:
            while not self.closed and (remaining_s := deadline - loop.time()) > 0:
                await script("await_end", name, self.inbox, round(2000 * END_CHECK_S))
                done, _ = await asyncio.wait([wait], timeout=min(remaining_s, END_CHECK_S))
                for woken in done:
                    woken.result()  # raises what kept us from reading
                    return not self.closed
        return False

    @contextmanager
    def _waiting(self, message_id: str) -> Generator[EndWait]:
        """Give what is done once the message has ended or the driver is closed, or fails as reading did."""
        wait: EndWait = asyncio.get_running_loop().create_future()
        self._waits.setdefault(message_id, {})[wait] = None
        if self._read_task is None:
            self._read_task = self._pool.spawn(self._read_ids())
        try:
            yield wait
        finally:
            waits = self._waits[message_id]
            del waits[wait]
            if not waits:
                del self._waits[message_id]
            wait.cancel()

    def close(self) -> None:
        """End every wait, and the blocked read with its connection."""
        self.closed = True
        self._end(list(self._waits), None)
        if self._read_task is not None:
            self._read_task.cancel()

    async def _read_ids(self) -> None:
        connection: Connection | None = None
        try:
            with mapped_errors(self._pool.address.label):
                connection = await self._pool.connect()
                while self._waits:
                    reply = await self._pool.exchange(connection, self._command, extra_s=BLOCK_S, brief=True)
                    if reply is not None:
                        self._end([reply[1].decode(errors="replace")], None)
        except DriverError as error:
            self._end(list(self._waits), error)
        finally:
            self._read_task = None  # before the next await, so that the next wait starts a read of its own
            if connection is not None:
                await discard(connection)

    def _end(self, message_ids: list[str], error: DriverError | None) -> None:
        for message_id in message_ids:
            for wait in self._waits.get(message_id, ()):
                if wait.done():
                    continue
                if error is None:
                    wait.set_result(None)
                else:
                    wait.set_exception(error)
