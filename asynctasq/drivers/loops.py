"""One lazily opened resource per event loop, since connections belong to the loop that made them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

__all__ = ["PerLoop", "close_socket", "running_loop"]

T = TypeVar("T")


class _Entry(Generic[T]):
    __slots__ = ("lock", "resource")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.resource: T | None = None


class PerLoop(Generic[T]):
    """Keep one `T` for every running event loop, made by `open_` when first needed.

    `abandon` is called, without a loop, for resources whose loop was closed without closing them.
    """

    def __init__(
        self,
        open_: Callable[[], Awaitable[T]],
        close: Callable[[T], Awaitable[None]],
        abandon: Callable[[T], None] | None = None,
    ) -> None:
        self._open = open_
        self._close = close
        self._abandon = abandon
        self._entries: WeakKeyDictionary[asyncio.AbstractEventLoop, _Entry[T]] = WeakKeyDictionary()

    async def get(self) -> T:
        """Return the running loop's resource; concurrent first calls open it once."""
        loop = asyncio.get_running_loop()
        entry = self._entries.get(loop)
        if entry is None:
            self._forget_closed_loops()
            entry = self._entries[loop] = _Entry[T]()
        if entry.resource is None:
            async with entry.lock:
                if entry.resource is None:
                    entry.resource = await self._open()
        return entry.resource

    def get_if_open(self) -> T | None:
        """Return the running loop's resource, None if it is not open; open nothing."""
        entry = self._entries.get(asyncio.get_running_loop())
        return entry.resource if entry else None

    async def close(self) -> None:
        """Close the running loop's resource, if any."""
        entry = self._entries.get(asyncio.get_running_loop())
        if entry is None:
            return
        async with entry.lock:  # the entry stays: a call that waits for this lock opens in it again
            resource, entry.resource = entry.resource, None
        if resource is not None:
            await self._close(resource)

    def _forget_closed_loops(self) -> None:
        for loop in [loop for loop in self._entries if loop.is_closed()]:
            entry = self._entries.pop(loop)
            if entry.resource is not None and self._abandon is not None:
                self._abandon(entry.resource)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, None where none does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def close_socket(transport: Any) -> None:
    """Close the socket of an asyncio transport whose loop was closed; None and other transports are left alone."""
    # The transport needs its loop to close the socket, and would warn that nobody did.
    sock = getattr(transport, "_sock", None)
    if sock is not None:
        sock.close()
        transport._sock = None  # noqa: SLF001 - see above
