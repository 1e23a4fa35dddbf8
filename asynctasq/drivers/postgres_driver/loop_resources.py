"""What the PostgreSQL driver opens for one event loop: connections and waiting calls; runs no statement itself."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from asynctasq.drivers.base import END_CHECK_S
from asynctasq.drivers.postgres_driver.listener import Listener
from asynctasq.drivers.postgres_driver.pool import Pool
from asynctasq.drivers.sql.waiting import PollBackoff, Waiter, wait_until_ended, wait_until_visible

__all__ = ["LoopResources"]

LISTEN_POLL_S = 5.0
LOCK_BACKOFF_S_FIRST, LOCK_BACKOFF_S_MAX = 0.01, 1.0
EMPTY_CLAIMS_MAX = 3


class LoopResources:
    """The pool, the listener (None: poll instead) and the waiting calls of one loop."""

    def __init__(
        self, *, pool: Pool, listener: Listener | None, poll_backoff: PollBackoff, notified: bool, rng: random.Random
    ) -> None:
        self.pool = pool
        self.waiters: set[Waiter] = set()
        self._listener = listener
        if listener is not None:  # what makes one connection silent has most likely made all silent
            pool.on_silence, listener.on_silence = listener.drop, pool.discard_idle
        self._poll_backoff = poll_backoff
        # Poll now and then also while listening, in case a wake-up was lost.
        self._listen_backoff = PollBackoff(first_s=LISTEN_POLL_S, longest_s=LISTEN_POLL_S, rng=rng)
        self._end_backoff = PollBackoff(first_s=END_CHECK_S, longest_s=END_CHECK_S, rng=rng) if notified else None
        self._lock_backoff = PollBackoff(first_s=LOCK_BACKOFF_S_FIRST, longest_s=LOCK_BACKOFF_S_MAX, rng=rng)
        self._said_visible = False
        self._empty_claims = 0

    def note_claim(self, count: int) -> None:
        """Note how many messages a claim leased."""
        if count:
            self._empty_claims = 0
            self._lock_backoff.reset()
        elif self._said_visible:
            self._empty_claims += 1
        self._said_visible = False

    async def wait_visible(
        self, waiter: Waiter, next_visible_in_s: Callable[[Sequence[str]], Awaitable[float | None]], *, wait_s: float
    ) -> bool:
        """Wait until `next_visible_in_s` says that a message is visible (True), `wait_s` passed or `close` (False)."""
        names = sorted(waiter.queues)

        async def due_in_s() -> float | None:
            await self._listens()
            return await waiter.unless_closed(next_visible_in_s(names)) if names else None

        deadline = asyncio.get_running_loop().time() + wait_s
        # Listening starts before the first poll, so that what is enqueued after the poll is noticed.
        backoff = self._listen_backoff if await self._listens() else self._poll_backoff
        if not await wait_until_visible(waiter, due_in_s, wait_s=wait_s, backoff=backoff):
            return False
        if self._empty_claims >= EMPTY_CLAIMS_MAX:
            # Visible messages could not be leased several times: another transaction holds them locked.
            remaining_s = max(0.0, deadline - asyncio.get_running_loop().time())
            await waiter.wait(min(self._lock_backoff.next_pause_s(), remaining_s))
        self._said_visible = True
        return not waiter.closed

    async def wait_ended(self, waiter: Waiter, has_ended: Callable[[], Awaitable[bool]], *, wait_s: float) -> bool:
        """Wait until a message has ended (True), `wait_s` passed or `close` (False)."""

        async def check() -> bool:
            await self._listens()
            return await has_ended()

        woken = self._end_backoff if await self._listens() else None
        return await wait_until_ended(waiter, check, wait_s=wait_s, backoff=woken or self._poll_backoff.anew())

    async def wait_news(self, waiter: Waiter, *, wait_s: float) -> bool:
        """Wait until the waiter is woken (True), `wait_s` passed or `close` (False); asks the server nothing."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while not waiter.closed and (left_s := deadline - loop.time()) > 0:
            await self._listens()
            if await waiter.wait(min(left_s, END_CHECK_S)):
                return not waiter.closed
        return False

    async def _listens(self) -> bool:
        return self._listener is not None and await self._listener.ensure()

    async def close(self) -> None:
        """Let the waiting calls return nothing and close the connections, within a few seconds."""
        for waiter in list(self.waiters):
            waiter.close()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pool.close())
            if self._listener is not None:
                group.create_task(self._listener.close())

    def abandon(self) -> None:
        """Close the sockets of a loop that was closed."""
        self.pool.abandon()
        if self._listener is not None:
            self._listener.abandon()
