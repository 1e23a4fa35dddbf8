"""What the PostgreSQL driver holds for one event loop: connections, and who waits; it runs no statement itself."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from asynctasq.drivers.postgres_driver.pool import Listener, Pool
from asynctasq.drivers.sql.waiting import PollBackoff, Waiter, wait_until_visible

__all__ = ["Backend"]

LISTENING_S = 5.0
CONTENDED_S_FIRST, CONTENDED_S_MAX = 0.01, 1.0
FRUITLESS_MAX = 3


class Backend:
    """The pool, the listener (None: look from time to time instead) and the waiting calls of one loop."""

    def __init__(self, *, pool: Pool, listener: Listener | None, polling: PollBackoff, rng: random.Random) -> None:
        self.pool = pool
        self.waiters: set[Waiter] = set()
        self._listener = listener
        self._polling = polling
        # A look now and then also while listening, in case a wake-up was lost.
        self._listening = PollBackoff(first_s=LISTENING_S, longest_s=LISTENING_S, rng=rng)
        self._contended = PollBackoff(first_s=CONTENDED_S_FIRST, longest_s=CONTENDED_S_MAX, rng=rng)
        self._answered = False
        self._fruitless = 0

    def claimed(self, count: int) -> None:
        """Note what a claim found."""
        if count:
            self._fruitless = 0
            self._contended.reset()
        elif self._answered:
            self._fruitless += 1
        self._answered = False

    async def visible(
        self, waiter: Waiter, look: Callable[[Sequence[str]], Awaitable[float | None]], *, wait_s: float
    ) -> bool:
        """Wait until `look` finds something visible (True), `wait_s` passed or the loop's side was closed (False)."""
        names = sorted(waiter.queues)

        async def due_in_s() -> float | None:
            await self._listens()
            return await waiter.unless_closed(look(names)) if names else None

        deadline = asyncio.get_running_loop().time() + wait_s
        # Listening starts before the first look, so that what is enqueued after the look is noticed.
        pace = self._listening if await self._listens() else self._polling
        if not await wait_until_visible(waiter, due_in_s, wait_s=wait_s, backoff=pace):
            return False
        if self._fruitless >= FRUITLESS_MAX:
            # What is visible was not to be had several times: another transaction holds it locked.
            remaining_s = max(0.0, deadline - asyncio.get_running_loop().time())
            await waiter.wait(min(self._contended.next_pause_s(), remaining_s))
        self._answered = True
        return not waiter.closed

    async def _listens(self) -> bool:
        return self._listener is not None and await self._listener.ensure()

    async def close(self) -> None:
        """End the waiting calls with nothing and close the connections, within a few seconds."""
        for waiter in list(self.waiters):
            waiter.close()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pool.close())
            if self._listener is not None:
                group.create_task(self._listener.close())

    def abandon(self) -> None:
        """Let go of everything when the loop is gone."""
        self.pool.abandon()
        if self._listener is not None:
            self._listener.abandon()
