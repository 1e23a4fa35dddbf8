"""Calls that wait for messages: woken from within the process, else polling with a growing pause."""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import TypeVar
from weakref import WeakValueDictionary

from asynctasq.errors import DriverUnavailable

__all__ = ["PollBackoff", "Waiter", "Wakeups", "wait_until_ended", "wait_until_visible"]

T = TypeVar("T")


class Waiter:
    """One waiting call: woken when a message may be visible in one of its queues, or ended by `close`."""

    __slots__ = ("__weakref__", "_event", "closed", "loop", "queues")

    def __init__(self, queues: Iterable[str]) -> None:
        self.queues = frozenset(queues)
        self.loop = asyncio.get_running_loop()
        self.closed = False
        self._event = asyncio.Event()

    async def wait(self, timeout_s: float) -> bool:
        """Sleep until woken (True) or `timeout_s` later (False); a wake-up that came before counts."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True

    async def unless_closed(self, call: Awaitable[T]) -> T | None:
        """Await a call of the driver; None if it failed because `close` took its connection away."""
        try:
            return await call
        except DriverUnavailable:
            if self.closed:
                return None
            raise

    def set(self) -> None:
        """Wake the call; only from its own loop."""
        self._event.set()

    def close(self) -> None:
        """End the wait: its driver is closed in this loop; only from its own loop."""
        self.closed = True
        self._event.set()


class Wakeups:
    """The waiting calls of this process on one store; every method may be called from any thread."""

    _shared: "WeakValueDictionary[str, Wakeups]" = WeakValueDictionary()
    _shared_lock = threading.Lock()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiters: dict[Waiter, None] = {}

    @classmethod
    def for_store(cls, store: str) -> "Wakeups":
        """Return the object of a store, one for all driver instances of the process, so that they wake each other."""
        with cls._shared_lock:
            found = cls._shared.get(store)
            if found is None:
                found = cls._shared[store] = cls()
            return found

    @contextmanager
    def waiting(self, queues: Iterable[str], *, into: "set[Waiter] | None" = None) -> Generator[Waiter, None, None]:
        """Register a waiter; no wake-up from now on is missed. `into` collects the waiters of one owner."""
        waiter = Waiter(queues)
        with self._lock:
            self._waiters[waiter] = None
        if into is not None:
            into.add(waiter)
        try:
            yield waiter
        finally:
            with self._lock:
                self._waiters.pop(waiter, None)
            if into is not None:
                into.discard(waiter)

    def wake(self, queues: AbstractSet[str] | None = None) -> None:
        """Wake the calls that wait for one of these queues; all of them for None."""
        if not self._waiters:
            return
        with self._lock:
            chosen = [waiter for waiter in self._waiters if queues is None or not queues.isdisjoint(waiter.queues)]
        running = asyncio._get_running_loop()  # noqa: SLF001 - the public one raises outside a loop
        for waiter in chosen:
            if waiter.loop is running:
                waiter.set()
            else:
                _call_in_loop(waiter.loop, waiter.set)


def _call_in_loop(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        return  # That loop was closed meanwhile, and its waiters with it.


class PollBackoff:
    """How long to sleep between two polls while nothing wakes us: from `first_s` up to `longest_s`, with jitter."""

    __slots__ = ("_factor", "_first_s", "_longest_s", "_next_s", "_rng")

    def __init__(self, *, first_s: float, longest_s: float, rng: random.Random, factor: float = 2.0) -> None:
        self._first_s = self._next_s = first_s
        self._longest_s = longest_s
        self._factor = factor
        self._rng = rng

    def anew(self) -> "PollBackoff":
        """Return another one with the same bounds, which starts from `first_s`."""
        return PollBackoff(first_s=self._first_s, longest_s=self._longest_s, rng=self._rng, factor=self._factor)

    def reset(self) -> None:
        """Start again from `first_s`: a message was found."""
        self._next_s = self._first_s

    def next_pause_s(self) -> float:
        """Return the next pause, between three quarters of the step and all of it."""
        pause_s = self._next_s * self._rng.uniform(0.75, 1.0)
        self._next_s = min(self._next_s * self._factor, self._longest_s)
        return pause_s


async def wait_until_visible(
    waiter: Waiter, due_in_s: Callable[[], Awaitable[float | None]], *, wait_s: float, backoff: PollBackoff
) -> bool:
    """Sleep until `due_in_s()` is zero or less (True), `wait_s` seconds passed or the waiter was closed (False).

    `due_in_s` asks the server how long it is until the next message of the queues is visible, None if there
    is none. Between two polls it sleeps until the earliest of that instant, a wake-up, the pause and the deadline.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while not waiter.closed:
        due_s = await due_in_s()
        if due_s is not None and due_s <= 0:
            backoff.reset()
            return True
        remaining_s = deadline - loop.time()
        if remaining_s <= 0 or waiter.closed:
            return False
        pause_s = min(remaining_s, backoff.next_pause_s())
        await waiter.wait(pause_s if due_s is None else min(pause_s, due_s))
    return False


async def wait_until_ended(
    waiter: Waiter, has_ended: Callable[[], Awaitable[bool]], *, wait_s: float, backoff: PollBackoff
) -> bool:
    """Ask whether a message has ended at every wake-up and after every pause; as `wait_until_visible`."""

    async def due_in_s() -> float | None:
        return 0.0 if await waiter.unless_closed(has_ended()) else None

    return await wait_until_visible(waiter, due_in_s, wait_s=wait_s, backoff=backoff)
