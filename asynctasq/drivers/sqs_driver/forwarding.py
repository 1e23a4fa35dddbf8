"""Forward copies that are not to be leased as they are: not due yet, moved back by a console, or reserved by nobody.

A copy is sent again before the old one is deleted: a failure in between leaves two copies, never none.
"""

import math
from collections.abc import Sequence

from asynctasq.drivers.sqs_driver.batches import Batches, Copy
from asynctasq.drivers.sqs_driver.client import Failure, ServerClock
from asynctasq.drivers.sqs_driver.wire import DELAY_S_MAX, Envelope, Outgoing, Received, Writer
from asynctasq.errors import DriverUnavailable
from asynctasq.kernel.messages import MICROSECONDS
from asynctasq.logs import get_logger

__all__ = ["Forwarder"]

logger = get_logger(__name__)

HIDE_S_MAX = 43_000
"""A little less than SQS's 12 hours, which count from the receive."""
LAST_FORWARD_S = 600
"""When a hidden copy comes back, this much of its delay is left: enough to be late by, and within SQS's own delay."""
REFRESH_AFTER_S = 86_400
"""An older copy is sent again rather than hidden: SQS drops messages by their age."""

TIMESTAMP_US = 1000
"""SQS tells whole milliseconds, so a copy may have been sent so much later; a year of copies would add that up."""


class Forwarder:
    """Forwards the copies of one event loop."""

    def __init__(self, batches: Batches, writer: Writer, clock: ServerClock) -> None:
        self._batches = batches
        self._writer = writer
        self._clock = clock

    async def forward(self, copies: Sequence[Received]) -> None:
        """Hide each copy, or send it again with the rest of its delay; the last time as a copy that can be leased."""
        now = self._clock.now()
        hidden: list[tuple[Received, int]] = []
        sent: list[tuple[Received, Outgoing]] = []
        for copy in copies:
            hide_s = self._hide_s(copy, now)
            if hide_s:
                hidden.append((copy, hide_s))
            else:
                sent.append((copy, self._next_copy(copy, now)))
        if hidden:
            sent += [(copy, self._next_copy(copy, now)) for copy in await self._hide(hidden)]
        await self.replace(sent)

    async def hand_back(self, copies: Sequence[Received]) -> None:
        """Make each visible again as it was; no attempt or crash is counted."""
        await self.replace(
            [(copy, self._writer.build(copy.next_copy(), copy.queue, key=copy.receipt)) for copy in copies]
        )

    async def replace(self, moves: Sequence[tuple[Received, Outgoing]], *, dead: bool = False) -> int:
        """Send the replacement of each copy, then delete the copies that were replaced; return how many.

        Raises: DriverUnavailable if some were not sent; they come back.
        """
        failures = await self._batches.send([outgoing for _, outgoing in moves])
        done = [copy for (copy, _), failure in zip(moves, failures, strict=True) if failure is None]
        undeleted = await self._batches.delete(
            [Copy(queue=copy.queue, receipt=copy.receipt, dead=dead) for copy in done]
        )
        for copy, failure in zip(done, undeleted, strict=True):
            if failure is not None:
                logger.warning("message %s has two copies now: %s", copy.envelope.id, failure.text)
        _raise_first(failures, "sending messages again")
        return len(done)

    def _remaining_us(self, copy: Received, now: float) -> int:
        if not copy.envelope.due_in_us:
            return 0
        return max(0, copy.sent_us + TIMESTAMP_US + copy.envelope.due_in_us - math.floor(now * MICROSECONDS))

    def _hide_s(self, copy: Received, now: float) -> int:
        """Return for how long to hide a copy, 0 if it is to be sent again."""
        left_s = self._remaining_us(copy, now) / MICROSECONDS
        if now - copy.sent_us / MICROSECONDS > REFRESH_AFTER_S:
            return 0
        if self._writer.is_fifo(copy.queue):
            return min(math.ceil(left_s), HIDE_S_MAX)
        return min(math.floor(left_s) - LAST_FORWARD_S, HIDE_S_MAX) if left_s > DELAY_S_MAX else 0

    def _next_copy(self, copy: Received, now: float) -> Outgoing:
        envelope: Envelope = copy.next_copy()
        if envelope.reason is not None:
            envelope = envelope.redriven()
        return self._writer.build(envelope, copy.queue, delay_us=self._remaining_us(copy, now), key=copy.receipt)

    async def _hide(self, hidden: Sequence[tuple[Received, int]]) -> list[Received]:
        """Hide the copies; return those that SQS won't hide any longer, which are to be sent again."""
        failures = await self._batches.hide(
            [Copy(queue=copy.queue, receipt=copy.receipt, hide_s=hide_s) for copy, hide_s in hidden]
        )
        return [
            copy
            for (copy, _), failure in zip(hidden, failures, strict=True)
            if failure is not None and failure.code == "InvalidParameterValue"
        ]


def _raise_first(failures: Sequence[Failure | None], action: str) -> None:
    failed = [failure for failure in failures if failure is not None]
    if failed:
        raise DriverUnavailable(f"{action}: {len(failed)} of {len(failures)} failed: {failed[0].text}")
