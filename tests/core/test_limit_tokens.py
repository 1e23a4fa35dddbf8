"""The tokens of limits in the store: taken, planted, and dropped; and what is stored about those who wait."""

import asyncio
import random
from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import replace

import pytest

from asynctasq.codec.envelope import decode_envelope
from asynctasq.codec.limited import Wait, decode_look, decode_note, decode_wait, encode_look, encode_wait
from asynctasq.codec.limits import DEFAULT_LIMITS
from asynctasq.core.in_flight import CancelReason, InFlightAttempt
from asynctasq.core.leases import LoopLeaseRenewer
from asynctasq.core.limit_lines import WaitingLines
from asynctasq.core.limit_tokens import CLEAN_S, PLANTED_S, TokenStore
from asynctasq.drivers.base import Settlements
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import DriverUnavailable, UndecodableBody
from asynctasq.kernel.limits import LIMITS_QUEUE, LimitRule, look_id, token_index, token_queue, wait_id, waiting_queue
from asynctasq.kernel.messages import Complete, Depth, Lease, Message, Release, Settlement
from asynctasq.testing.clock import VirtualClock
from tests.patience import SOON_S


class Tokens:
    """The tokens of one worker on a driver in virtual time; what is settled later is settled by `flush`."""

    def __init__(self, driver: MemoryDriver, clock: VirtualClock) -> None:
        self.later: list[tuple[Lease, Settlement]] = []
        self.driver = driver
        self.store = TokenStore(
            driver,
            LoopLeaseRenewer(driver, lease_s=1e9, clock=clock, record=None, worker="w"),
            lease_s=30.0,
            clock=clock,
            settle_later=lambda lease, settlement: self.later.append((lease, settlement)),
            on_lost=lambda token: pytest.fail(f"{token} is lost"),
        )

    async def flush(self) -> None:
        later, self.later = self.later, []
        await self.driver.settle(later)


async def test_a_smaller_number_counts_for_who_has_it() -> None:
    clock = VirtualClock()
    driver = MemoryDriver(clock=clock)
    old, new = Tokens(driver, clock), Tokens(driver, clock)
    before, after = LimitRule("x", 5), LimitRule("x", 2)
    held = [await old.store.take(before) for _ in range(5)]
    assert all(held)
    for token in held:
        assert token is not None
        await driver.settle([(token.lease, Release(counted=False))])

    taken = [await new.store.take(after) for _ in range(3)]
    await new.flush()

    assert [token is not None and token_index(after, token.lease.message_id) for token in taken] == [0, 1, False]
    assert (await driver.depth(token_queue(after))).reserved == 2
    assert [await old.store.take(before) for _ in range(1)] == [None], "it has seen them all a moment ago"
    clock.advance(seconds=PLANTED_S)
    assert await old.store.take(before) is not None, "as long as one worker has the larger number, that many may run"


async def test_tokens_that_nobody_uses_are_removed() -> None:
    clock = VirtualClock()
    driver = MemoryDriver(clock=clock)
    tokens = Tokens(driver, clock)
    for number in range(3):
        token = await tokens.store.take(LimitRule(f"tenant {number}", 4))
        assert token is not None
        await driver.settle([(token.lease, Release(counted=False))])
    held = await tokens.store.take(LimitRule("held", 2))
    assert held is not None
    clock.advance(seconds=3601 + CLEAN_S)
    await driver.enqueue([Message(id="other", queue=LIMITS_QUEUE, body=b"\xc1")])

    await tokens.store.take(LimitRule("new", 1))

    left = Counter(row.message.queue for row in driver._rows.values())
    assert left == {LIMITS_QUEUE: 2, token_queue(LimitRule("new", 1)): 1}, "the note about it, and what is no note"
    assert await tokens.store.take(LimitRule("tenant 1", 4)) is not None


async def test_a_limit_of_thousands_has_its_tokens() -> None:
    clock = VirtualClock()
    driver = MemoryDriver(clock=clock)
    tokens = Tokens(driver, clock)

    assert await tokens.store.take(LimitRule("x", 2500)) is not None

    assert (await driver.depth(token_queue(LimitRule("x", 1)))).ready == 2499


async def test_forged_tokens_are_dropped() -> None:
    clock = VirtualClock()
    driver = MemoryDriver(clock=clock)
    tokens, rule = Tokens(driver, clock), LimitRule("x", 1)
    forged = [Message(id=f"forged {number}", queue=token_queue(rule), body=b"") for number in range(3)]
    await driver.enqueue(forged)

    assert await tokens.store.take(rule) is None, "so many as there should be seem to be there"
    assert [lease.message_id for lease, settlement in tokens.later if isinstance(settlement, Complete)] == [
        message.id for message in forged
    ]
    await tokens.flush()
    clock.advance(seconds=PLANTED_S)
    assert await tokens.store.take(rule) is not None


def test_the_wire_format_refuses_what_no_worker_writes() -> None:
    rule = LimitRule("x", 5, 60.0)
    assert decode_look(encode_look(rule)) == rule
    wait = Wait("m", "7", (rule, LimitRule("y", 1)))
    assert decode_wait(encode_wait(wait)) == wait
    for wrong in (b"\xc1", encode_look(rule), b"\x92\x01\x02", b"\x93\x01\x02\x03", b"\x93\xa1m\xa1t\x91\x01", b"\x01"):
        assert decode_wait(wrong) is None
    assert decode_note(b"\xc1") is None
    for wrong in (b"\x01", b"\x94\x01\xa1x\x00\xcb" + bytes(8), encode_look(LimitRule("x" * 201, 1)), b"\x80"):
        with pytest.raises(UndecodableBody):
            decode_look(wrong)
    for numbers in ((0, 1.0), (10_001, 1.0), (1, -1.0), (1, float("nan")), (True, 1.0), (1, 1)):
        with pytest.raises(UndecodableBody):
            decode_look(encode_look(LimitRule("x", *numbers)))


class StoresMeanwhile(MemoryDriver):
    """Gets a note about who waits while the look for its line is settled, which has found none."""

    note: Message | None = None
    refuses = False

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        if self.note is not None:
            await self.enqueue([self.note])
        return await super().settle(settlements)

    async def depth(self, queue: str) -> Depth:
        if self.refuses and self.note is not None and self.note.id in self._rows:
            raise DriverUnavailable("gone")
        return await super().depth(queue)


def lines_on(driver: MemoryDriver, clock: VirtualClock) -> WaitingLines:
    tokens = Tokens(driver, clock).store
    return WaitingLines(tokens, rng=random.Random(1), keys=None, body_limits=DEFAULT_LIMITS, on_line=list)


async def look(driver: MemoryDriver, lines: WaitingLines, rule: LimitRule) -> InFlightAttempt:
    """Let a worker look who waits in a line."""
    await driver.enqueue([replace(lines._line(rule, "mail").look, delay_s=0.0)])
    (lease,) = await driver.reserve(["mail"], limit=1, lease_s=30)
    attempt = InFlightAttempt(lease, 30.0)
    assert await lines.look(attempt, decode_envelope(lease.body, limits=DEFAULT_LIMITS)) == Complete()
    assert attempt.settled_in_transaction is True
    return attempt


@pytest.mark.parametrize("meanwhile", [False, True])
async def test_a_look_that_ends_is_stored_anew_for_a_note_that_came_meanwhile(meanwhile: bool) -> None:
    clock = VirtualClock()
    driver, rule = StoresMeanwhile(clock=clock), LimitRule("x", 1)
    lines = lines_on(driver, clock)
    if meanwhile:
        driver.note = Message(id="limit:wait:1", queue=waiting_queue(rule, "mail"), body=b"-")

    await look(driver, lines, rule)

    assert (look_id(rule, "mail") in driver._rows) is meanwhile
    assert lines.known == {}


async def test_a_worker_that_can_not_look_again_takes_part_in_the_line() -> None:
    clock = VirtualClock()
    driver, rule = StoresMeanwhile(clock=clock), LimitRule("x", 1)
    lines = lines_on(driver, clock)
    driver.note = Message(id="limit:wait:1", queue=waiting_queue(rule, "mail"), body=b"-")
    driver.refuses = True

    await look(driver, lines, rule)

    assert list(lines.known) == [waiting_queue(rule, "mail")]


async def test_a_note_that_moves_lets_its_worker_take_part_once_it_is_stored() -> None:
    clock = VirtualClock()
    driver = MemoryDriver(clock=clock)
    lines, rule = lines_on(driver, clock), LimitRule("x", 1)
    await driver.enqueue([Message(id=wait_id("m", "1"), queue="notes", body=b"-")])
    (note,) = await driver.reserve(["notes"], limit=1, lease_s=30)
    lines.beginning[note.message_id] = lines._line(rule, "mail")

    assert lines.settled([(note, Complete())]) == 0, "a note is no attempt"
    assert list(lines.known) == [waiting_queue(rule, "mail")]


async def test_an_attempt_does_not_start_with_a_token_that_was_called_lost() -> None:
    """The store may renew it still, but nobody watches it any more."""
    clock = VirtualClock()
    driver = MemoryDriver(clock=clock)
    tokens = Tokens(driver, clock).store
    token = await tokens.take(LimitRule("x", 1))
    assert token is not None
    token.holder = InFlightAttempt(token.lease, 30.0)
    token.cancel_reason = CancelReason.LIMIT_LOST

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(tokens.renew_late([token]), SOON_S)

    assert token.holder.cancel_reason is CancelReason.LIMIT_LOST
