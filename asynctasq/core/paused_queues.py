"""Which queues are paused: a note in the store for each, that workers look for before they take messages."""

import asyncio
import math
from collections.abc import Sequence
from typing import Final

from asynctasq.clock import Clock
from asynctasq.codec.schedule import decode_note, encode_note
from asynctasq.core.queue_order import QueueOrder
from asynctasq.drivers.base import Driver, Inspectable
from asynctasq.errors import DELAY_S_MAX
from asynctasq.kernel.messages import Message, check_queue_name

__all__ = ["PAUSE_CHECK_S", "OpenQueues", "pause_note", "paused_in"]

PAUSES_QUEUE: Final = "asynctasq.paused"
"""Where the notes are; nothing in it ever becomes visible."""
PAUSE_CHECK_S: Final = 1.0
"""How long a worker goes on without a look; so much later it follows a change."""
PAGE: Final = 500


def pause_note(queue: str) -> Message:
    """Return the message whose presence pauses a queue: the same for the same name, so pausing twice changes nothing.

    Raises: InvalidQueueName.
    """
    name = check_queue_name(queue)
    return Message(id=f"paused:{name}", queue=PAUSES_QUEUE, body=encode_note(name), delay_s=DELAY_S_MAX)


async def paused_in(store: Inspectable) -> frozenset[str]:
    """Return the names of all paused queues.

    Raises: DriverError.
    """
    found: set[str] = set()
    cursor: str | None = None
    while True:
        page = await store.list_messages(PAUSES_QUEUE, limit=PAGE, cursor=cursor)
        found.update(name for message in page.messages for name in decode_note(message.body))
        if (cursor := page.cursor) is None:
            return frozenset(found)


class OpenQueues:
    """The queues of a worker that are not paused, as of its latest look at the store.

    A driver that can't be inspected has no paused queues; with a `check_s` of infinity nobody looks.
    """

    def __init__(self, driver: Driver, order: QueueOrder, *, check_s: float, clock: Clock) -> None:
        can_look = driver.capabilities.inspects and check_s < math.inf
        self._store = driver if can_look and isinstance(driver, Inspectable) else None
        self._order = order
        self._check_s = check_s
        self._clock = clock
        self._looked_at = -math.inf
        self._paused: frozenset[str] = frozenset()
        self._looking = asyncio.Lock()

    @property
    def names(self) -> Sequence[str]:
        """The open queues in the order that was given."""
        return self._open(self._order.names)

    def next(self) -> Sequence[str]:
        """Return the open queues in the order for the next reserve."""
        return self._open(self._order.next())

    def _open(self, names: Sequence[str]) -> Sequence[str]:
        return [name for name in names if name not in self._paused] if self._paused else names

    @property
    def wait_s(self) -> float:
        """How long a wait for messages may last until the next look is due: for ever while all queues are open."""
        return self._check_s if self._paused else math.inf

    async def look(self) -> None:
        """Learn which queues are paused, if the latest look was too long ago.

        Raises: DriverError.
        """
        if self._store is None or self._clock.monotonic() - self._looked_at < self._check_s:
            return
        async with self._looking:  # the loop of the worker and its wait may both ask
            if self._clock.monotonic() - self._looked_at >= self._check_s:
                self._paused = await paused_in(self._store) & frozenset(self._order.names)
                self._looked_at = self._clock.monotonic()
