"""Receive messages for one event loop, by short and long polls; keeps received messages that nobody reserved yet.

Every ReceiveMessage call belongs to a task of its own, so that cancelling a reserve cancels none: the messages
it returns wait here for the next reserve, or are handed back, uncounted, after a second.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from asynctasq.drivers.sqs_driver.batches import Batches, Copy
from asynctasq.drivers.sqs_driver.client import Connection, Reply
from asynctasq.drivers.sqs_driver.forwarding import Forwarder
from asynctasq.drivers.sqs_driver.leases import LeaseRegistry
from asynctasq.drivers.sqs_driver.queues import QueueDirectory
from asynctasq.drivers.sqs_driver.wire import BATCH_ENTRIES_MAX, BODY, SYSTEM_ATTRIBUTES, NewerVersion, Received
from asynctasq.errors import AsyncTasqError
from asynctasq.kernel.messages import Lease
from asynctasq.logs import get_logger

__all__ = ["LEASE_S_MAX", "Receiver", "whole_lease_s"]

logger = get_logger(__name__)

LONG_POLL_S_MAX = 20
LEASE_S_MAX = 43_200
POLLS_MAX = 10
"""Short polls of one queue at once."""
FETCH_S_MAX = 1.0
UNCLAIMED_S = 1.0
POLL_GRACE_S = 1.0
LATENCY_S = 0.1


def whole_lease_s(lease_s: float) -> int:
    """Return what SQS can do: whole seconds, never less than asked for, at most 12 hours."""
    return min(max(1, math.ceil(lease_s)), LEASE_S_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Polled:
    """How one ReceiveMessage call ended."""

    full: bool = False
    error: AsyncTasqError | None = None


class Receiver:
    """Receives for one event loop."""

    def __init__(
        self,
        connection: Connection,
        directory: QueueDirectory,
        batches: Batches,
        forwarder: Forwarder,
        registry: LeaseRegistry,
    ) -> None:
        self._connection = connection
        self._directory = directory
        self._batches = batches
        self._forwarder = forwarder
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        self._closing: asyncio.Future[None] = self._loop.create_future()
        self._ready: dict[str, deque[Received]] = {}
        self._short: dict[asyncio.Task[_Polled], None] = {}
        self._long: dict[str, asyncio.Task[_Polled]] = {}
        self._parallel_polls: dict[str, int] = {}
        self._was_empty: dict[str, bool] = {}
        self._idle_queues: dict[str, None] = {}
        self._errors: dict[str, AsyncTasqError] = {}
        self._claimers: Counter[str] = Counter()
        self._hand_back_timer: asyncio.TimerHandle | None = None

    # -- claiming ----------------------------------------------------------------------------------

    async def reserve(self, queues: Sequence[str], *, limit: int, lease_s: float, wait_s: float) -> list[Lease]:
        """Do what `Driver.reserve` promises, as far as SQS can."""
        with self.claiming(queues):
            return await self._reserve(queues, limit, lease_s, wait_s)

    @contextmanager
    def claiming(self, queues: Sequence[str]) -> Generator[None, None, None]:
        """Announce a claim on these queues: none of their messages is handed back meanwhile."""
        self._claimers.update(queues)
        try:
            yield
        finally:
            self._claimers.subtract(queues)

    async def _reserve(self, queues: Sequence[str], limit: int, lease_s: float, wait_s: float) -> list[Lease]:
        asked_at = self._loop.time()
        deadline = asked_at + wait_s
        while limit > 0:
            if wait_s < 1 or self._order_matters(queues):
                await self.fetch(queues, limit=limit, lease_s=lease_s)
            if not self._ready_count(queues) and deadline > self._loop.time():
                await self._listen(queues, limit, whole_lease_s(lease_s), deadline)
                if wait_s < 1:  # too short for a long poll
                    await self.fetch(queues, limit=limit, lease_s=lease_s)
            if self._closing.done():
                break
            if self._ready_count(queues) >= BATCH_ENTRIES_MAX:
                await self.fetch(queues, limit=limit, lease_s=lease_s)  # a full batch: there is more
            leases = await self.claim(queues, limit=limit, lease_s=lease_s, asked_at=asked_at)
            if leases or self._loop.time() + LATENCY_S >= deadline:
                return leases
        return []

    async def fetch(self, queues: Sequence[str], *, limit: int, lease_s: float) -> None:
        """Receive up to `limit` messages, waiting for none; they are then to be claimed.

        More calls at once are made only as long as the calls before came back full: empty ones cost too.
        Raises: DriverError, UnknownQueue, if nothing is there to be claimed.
        """
        error: AsyncTasqError | None = None
        enough_at = self._loop.time() + FETCH_S_MAX
        for queue in queues:
            while (missing := limit - self._ready_count(queues)) > 0 and not self._closing.done():
                parallel = min(self._parallel_polls.get(queue, 1), math.ceil(missing / BATCH_ENTRIES_MAX))
                polls = [
                    self._short_poll(queue, min(BATCH_ENTRIES_MAX, missing - n * BATCH_ENTRIES_MAX), lease_s)
                    for n in range(parallel)
                ]
                await asyncio.wait(polls)
                results = [poll.result() for poll in polls if not poll.cancelled()]
                full = sum(result.full for result in results)
                self._parallel_polls[queue] = min(2 * parallel, POLLS_MAX) if full == parallel else max(1, full)
                error = error or next((result.error for result in results if result.error), None)
                if full < parallel:
                    break
                if self._loop.time() > enough_at and self._ready_count(queues):
                    return  # SQS is slow, and the leases of the first messages run
        if error is not None and not self._ready_count(queues):
            raise error

    async def claim(self, queues: Sequence[str], *, limit: int, lease_s: float, asked_at: float) -> list[Lease]:
        """Turn received messages into leases; a cancelled call leaves all of them where they were.

        `asked_at`, on the loop's clock, is when the caller was asked: a lease holds `lease_s` from then.
        """
        chosen: list[Received] = []
        for queue in queues:
            ready = self._ready.get(queue, deque())
            while ready and len(chosen) < limit:
                chosen.append(ready.popleft())
        try:
            lost = await self._renew_stale(chosen, whole_lease_s(lease_s), asked_at)
        except BaseException:
            for received in reversed(chosen):
                self._ready[received.queue].appendleft(received)
            raise
        now = self._connection.clock.now()
        granted = [self._registry.grant(received, now) for received in chosen if received.receipt not in lost]
        return [lease for lease in granted if lease is not None]

    async def _renew_stale(self, chosen: Sequence[Received], lease_s: int, asked_at: float) -> frozenset[str]:
        """Renew the leases of messages received before this call or for another lease length; return lost receipts."""
        stale = [item for item in chosen if item.lease_s != lease_s or item.arrived_at + LATENCY_S < asked_at]
        if not stale:
            return frozenset()
        granted_at, arrived_at = self._connection.clock.now(), self._loop.time()
        failures = await self._batches.hide(
            [Copy(queue=item.queue, receipt=item.receipt, hide_s=lease_s) for item in stale]
        )
        for item, failure in zip(stale, failures, strict=True):
            if failure is None:
                item.ends_at, item.lease_s, item.arrived_at = granted_at + lease_s, lease_s, arrived_at
        return frozenset(item.receipt for item, failure in zip(stale, failures, strict=True) if failure is not None)

    def _ready_count(self, queues: Sequence[str]) -> int:
        return sum(len(self._ready.get(queue, ())) for queue in queues)

    def _order_matters(self, queues: Sequence[str]) -> bool:
        """Whether queues may hold messages, so that their order matters: long polls ask all at once, any may win."""
        return len(queues) > 1 and not all(self._was_empty.get(queue, False) for queue in queues)

    # -- polling ---------------------------------------------------------------------------------

    async def _listen(self, queues: Sequence[str], limit: int, lease_s: int, deadline: float) -> None:
        """Wait until one of the queues has brought something, or until the deadline."""
        count = min(limit, BATCH_ENTRIES_MAX)
        self._raise_poll_error(queues)
        while not self._closing.done() and not self._ready_count(queues):
            left = deadline - self._loop.time()
            wait_s = min(LONG_POLL_S_MAX, int(left + LATENCY_S))
            if wait_s >= 1:
                for queue in queues:
                    if queue not in self._long:
                        # A queue whose last long poll came back empty most likely stays empty, and the next reserve
                        # takes over a poll that this one leaves: the longest poll costs the fewest calls.
                        self._long_poll(
                            queue, count, lease_s, LONG_POLL_S_MAX if queue in self._idle_queues else wait_s
                        )
            polls = [self._long[queue] for queue in queues if queue in self._long]
            waiting: list[asyncio.Future[Any]] = [self._closing, *polls]
            if left <= 0:
                return
            await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            self._raise_poll_error(queues)
            if wait_s < 1:
                return

    def _raise_poll_error(self, queues: Sequence[str]) -> None:
        """Raise the error of a long poll, which may have come after the reserve that began it had returned."""
        met = [self._errors.pop(queue) for queue in queues if queue in self._errors]
        if met and not self._ready_count(queues):
            raise met[0]

    def _short_poll(self, queue: str, count: int, lease_s: float) -> "asyncio.Task[_Polled]":
        poll = asyncio.ensure_future(self._poll(queue, count, whole_lease_s(lease_s), 0))
        self._short[poll] = None
        poll.add_done_callback(lambda done: self._short.pop(done, None))
        return poll

    def _long_poll(self, queue: str, count: int, lease_s: int, wait_s: int) -> None:
        poll = asyncio.ensure_future(self._poll(queue, count, lease_s, wait_s))
        self._long[queue] = poll
        poll.add_done_callback(lambda _: self._long.pop(queue, None))

    async def _poll(self, queue: str, count: int, lease_s: int, wait_s: int) -> _Polled:
        try:
            reply = await self._directory.run(
                self._connection,
                queue,
                lambda url: self._connection.receive(
                    QueueUrl=url,
                    MaxNumberOfMessages=count,
                    VisibilityTimeout=lease_s,
                    WaitTimeSeconds=wait_s,
                    MessageAttributeNames=[BODY],
                    MessageSystemAttributeNames=SYSTEM_ATTRIBUTES,
                ),
            )
        except AsyncTasqError as error:
            if wait_s:
                self._errors[queue] = error
            return _Polled(error=error)
        self._errors.pop(queue, None)
        received = len(reply.data.get("Messages", ()))
        self._was_empty[queue] = not received
        if received:
            self._idle_queues.pop(queue, None)
        elif wait_s:
            self._idle_queues[queue] = None
        self._classify(queue, reply, lease_s)
        return _Polled(full=received >= count)

    def _classify(self, queue: str, reply: Reply, lease_s: int) -> None:
        """Keep the messages that can be leased for `claim`; forward, delete or leave the others."""
        redelivered: list[Copy] = []
        to_forward: list[Received] = []
        ready = self._ready.setdefault(queue, deque())
        for raw in reply.data.get("Messages", ()):
            try:
                received = Received.parse(
                    queue, raw, taken_at=reply.answered_at, lease_s=lease_s, arrived_at=self._loop.time()
                )
            except NewerVersion as error:
                logger.warning("%s; it stays in queue %s for a newer worker", error, queue)
                continue
            except KeyError as error:
                logger.warning("a message without %s came from queue %s, so it is left there", error, queue)
                continue
            if self._registry.was_deleted(received.sqs_id):
                redelivered.append(Copy(queue=queue, receipt=received.receipt))
            elif received.is_leasable:
                ready.append(received)
            else:
                to_forward.append(received)
        if to_forward:
            self._connection.spawn(
                self._forwarder.forward(to_forward), f"forwarding messages of queue {queue} that are not due"
            )
        if redelivered:
            self._connection.spawn(self._delete_again(redelivered), f"deleting messages of queue {queue} again")
        if ready and self._hand_back_timer is None:
            self._hand_back_timer = self._loop.call_later(UNCLAIMED_S, self._hand_back_unclaimed)

    async def _delete_again(self, copies: Sequence[Copy]) -> None:
        await self._batches.delete(copies)

    # -- handing back ----------------------------------------------------------------------------

    def _hand_back_unclaimed(self, older_than_s: float = UNCLAIMED_S) -> None:
        self._hand_back_timer = None
        before = self._loop.time() - older_than_s
        unclaimed: list[Received] = []
        for queue, ready in self._ready.items():
            while ready and ready[0].arrived_at <= before and (not self._claimers[queue] or self._closing.done()):
                unclaimed.append(ready.popleft())
        if unclaimed:
            self._connection.spawn(self._forwarder.hand_back(unclaimed), "handing back messages that nobody reserved")
        if any(self._ready.values()):
            self._hand_back_timer = self._loop.call_later(UNCLAIMED_S, self._hand_back_unclaimed)

    async def close(self) -> None:
        """End waiting calls, let open polls finish for a second, and hand back the messages that are left."""
        if not self._closing.done():
            self._closing.set_result(None)
        polls = [*self._short, *self._long.values()]
        if polls:
            await asyncio.wait(polls, timeout=POLL_GRACE_S)
            for poll in polls:
                poll.cancel()
            await asyncio.wait(polls, timeout=POLL_GRACE_S)
        self._hand_back_unclaimed(older_than_s=0)
        if self._hand_back_timer is not None:
            self._hand_back_timer.cancel()
