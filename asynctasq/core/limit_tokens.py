"""Takes the tokens of limits from the store, plants those that are missing, and drops those that nobody uses.

A limit of N is a queue of N messages, its tokens. Who has one under a lease may run an attempt.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

from asynctasq.clock import Clock
from asynctasq.codec.limited import decode_note, encode_note
from asynctasq.core.in_flight import CancelReason, InFlightAttempt
from asynctasq.core.leases import LeaseRenewer
from asynctasq.drivers.base import Driver, Inspectable, Notifies, ReservesReleased
from asynctasq.errors import DELAY_S_MAX, UnsupportedFeature
from asynctasq.kernel.limits import (
    KEPT_S,
    LIMITS_QUEUE,
    LimitRule,
    note_id,
    token_id,
    token_index,
    token_lease_s,
    token_queue,
)
from asynctasq.kernel.messages import Complete, Depth, Lease, Message, Release, Settlement

__all__ = ["HeldToken", "LimitStore", "SettleLater", "TokenStore", "check_keeps_limits", "living"]

SettleLater = Callable[[Lease, Settlement], None]
"""Settles with the worker's next call."""

PLANTED_S = 30.0
"""For how long a worker relies on what it has seen of a limit's tokens: far less than unused ones are kept."""
PLANTED_MAX = 10_000
"""Of how many limits it remembers that."""
CLEAN_S = 600.0
"""How often a worker looks for tokens that nobody uses, at the most."""
LOST_SHARE = 1 / 10
"""A token that is not renewed counts as lost that much of a lease before it ends, so that its attempt ends in time."""
NOTES_AT_ONCE = 100
TOKENS_AT_ONCE = 1_000


class LimitStore(Driver, Inspectable, Notifies, ReservesReleased, Protocol):
    """A driver that can keep limits."""


def check_keeps_limits(driver: Driver) -> LimitStore:
    """Return the driver; raise UnsupportedFeature if it can't keep limits."""
    claims = driver.capabilities
    if not (claims.reserves_released and claims.inspects and claims.wakes_waiting and claims.idempotent_enqueue):
        raise UnsupportedFeature(
            f"{driver} can't keep limits; start the workers of tasks that have any on sqlite, redis, postgres or mysql"
        )
    return cast("LimitStore", driver)  # it claims all of these protocols


@dataclass(slots=True, eq=False)
class HeldToken(InFlightAttempt):
    """A token of a limit under a lease, renewed as that of an attempt. Its attempt is to start before `start_by`."""

    rule: LimitRule = field(kw_only=True)
    start_by: float = field(kw_only=True)
    holder: InFlightAttempt | None = None
    watch: asyncio.TimerHandle | None = None
    """What calls it lost if it is not renewed in time."""

    def __str__(self) -> str:
        return f"a token of the limit {self.rule}"

    def is_late(self, now: float, lease_s: float) -> bool:
        """Return whether an attempt that starts now must renew it before: too little may be left for the renewals."""
        return self.is_cancelled or now >= (self.start_by if self.rule.per_s else self.deadline - lease_s / 2)


def living(depth: Depth) -> int:
    """Return how many messages of a queue are no dead letters."""
    return depth.ready + depth.scheduled + depth.reserved


class TokenStore:
    """The tokens in the store of a driver, as one worker sees them; `settle_later` settles with its next call.

    `on_lost` is called with a token that was not renewed in time, whether or not a call to do so still lasts.
    """

    def __init__(
        self,
        driver: Driver,
        renewer: LeaseRenewer,
        *,
        lease_s: float,
        clock: Clock,
        settle_later: SettleLater,
        on_lost: Callable[[HeldToken], None],
    ) -> None:
        self._driver = driver
        self._renewer = renewer
        self.lease_s = lease_s
        self.clock = clock
        self.settle_later = settle_later
        self._on_lost = on_lost
        self._planted: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()
        self._clean_at = 0.0
        self._cursor: str | None = None

    @property
    def store(self) -> LimitStore:
        """The driver; raises UnsupportedFeature if it can't keep limits."""
        return check_keeps_limits(self._driver)

    async def take(self, rule: LimitRule) -> HeldToken | None:
        """Take a token that is free, and renew it from now on; None if there is none.

        Raises: DriverError.
        """
        while True:
            asked_at = self.clock.monotonic()
            lease_s = token_lease_s(rule, self.lease_s)
            leases = await self.store.reserve([token_queue(rule)], limit=1, lease_s=lease_s)
            if leases and (token := self.held(rule, leases[0], asked_at)) is not None:
                self.hold(token)
                return token
            if not leases and not await self.plant(rule):
                return None

    def is_valid(self, rule: LimitRule, lease: Lease) -> bool:
        """Return whether it is a token of this limit; drop what is none, or one above the limit's number."""
        if token_index(rule, lease.message_id) is None:
            self.settle_later(lease, Complete())
            return False
        return True

    def held(self, rule: LimitRule, lease: Lease, asked_at: float) -> HeldToken | None:
        """Return a token that was reserved; None if it `is_valid` no more."""
        if not self.is_valid(rule, lease):
            return None
        start_by = asked_at + self.lease_s
        return HeldToken(lease, start_by + rule.per_s, rule=rule, start_by=start_by)

    def hold(self, token: HeldToken) -> None:
        """Renew a token from now on."""
        self._renewer.add(token)
        self._watch(token)

    def _watch(self, token: HeldToken) -> None:
        """Call the token lost when it is time, and it was not renewed meanwhile."""
        left_s = token.deadline - self.lease_s * LOST_SHARE - self.clock.monotonic()
        if left_s > 0:
            token.watch = asyncio.get_running_loop().call_later(left_s, self._watch, token)
        else:
            self.let_go(token)
            self._on_lost(token)

    def let_go(self, token: HeldToken) -> None:
        """Renew a token no more."""
        self._renewer.remove(token)
        if token.watch is not None:
            token.watch.cancel()

    def give_back(self, tokens: Sequence[HeldToken]) -> None:
        """Give back the tokens of an attempt that has ended, or of rate limits once it has started."""
        for token in tokens:
            self.let_go(token)
            self.settle_later(token.lease, Release(delay_s=token.rule.per_s, counted=False))

    def give_back_unused(self, tokens: Sequence[HeldToken]) -> None:
        """Give back tokens without which nothing has started."""
        for token in tokens:
            self.let_go(token)
            self.settle_later(token.lease, Release(counted=False))

    async def renew_late(self, tokens: Sequence[HeldToken]) -> None:
        """Renew the tokens of an attempt that starts late: none may be lost, nor come back too early.

        Raises: DriverError, CancelledError for tokens that are lost.
        """
        for token in tokens:
            while token.is_late(now := self.clock.monotonic(), self.lease_s):  # the reply may take long, too
                lease_s = token_lease_s(token.rule, self.lease_s)
                if token.is_cancelled or await self._driver.extend([token.lease], lease_s=lease_s):
                    assert token.holder is not None, "it is that of an attempt"
                    token.holder.cancel_reason = token.holder.cancel_reason or CancelReason.LIMIT_LOST
                    raise asyncio.CancelledError
                token.deadline, token.start_by = now + lease_s, now + self.lease_s

    async def plant(self, rule: LimitRule) -> bool:
        """Store the tokens that are missing; return whether there were any. To be called when none is free.

        Tokens that are not free now are kept for an hour at least, so the answer holds for some time.

        Raises: DriverError.
        """
        now = self.clock.monotonic()
        seen_at, count = self._planted.get(rule.key, (float("-inf"), 0))
        if now - seen_at < PLANTED_S and count >= rule.count:
            return False
        new: list[str] = []
        if living(await self.store.depth(token_queue(rule))) < rule.count:
            new = await self._store_tokens(rule)
        self._planted[rule.key] = now, rule.count
        self._planted.move_to_end(rule.key)
        if len(self._planted) > PLANTED_MAX:
            self._planted.popitem(last=False)
        if new and now >= self._clean_at:
            self._clean_at = now + CLEAN_S
            await self._clean()
        return bool(new)

    async def _store_tokens(self, rule: LimitRule) -> list[str]:
        body, queue, new = encode_note(rule), token_queue(rule), list[str]()
        await self.store.enqueue([Message(id=note_id(rule), queue=LIMITS_QUEUE, body=body, delay_s=DELAY_S_MAX)])
        for first in range(0, rule.count, TOKENS_AT_ONCE):
            indexes = range(first, min(first + TOKENS_AT_ONCE, rule.count))
            new += await self.store.enqueue(
                [Message(id=token_id(rule, each), queue=queue, body=b"-") for each in indexes]
            )
        return new

    async def _clean(self) -> None:
        """Drop the tokens of some limits that nobody has used for long: free ones, which is always allowed."""
        page = await self.store.list_messages(LIMITS_QUEUE, limit=NOTES_AT_ONCE, cursor=self._cursor)
        self._cursor = page.cursor
        for stored in page.messages:
            rule = decode_note(stored.body)
            if rule is None:
                continue
            queue = token_queue(rule)
            depth = await self.store.depth(queue)
            if depth.ready and (depth.oldest_age_s or 0.0) < KEPT_S:
                continue
            if depth.ready:
                leases = await self.store.reserve([queue], limit=depth.ready, lease_s=self.lease_s)
                await self.store.settle([(lease, Complete()) for lease in leases])
            if not living(await self.store.depth(queue)):
                await self.store.cancel([stored.id])
