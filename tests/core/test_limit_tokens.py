"""The tokens of limits in the store: taken, planted, and dropped; and what is stored about those who wait."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from asynctasq.codec.envelope import decode_envelope
from asynctasq.codec.limited import Wait, decode_look, decode_note, decode_wait, encode_look, encode_wait
from asynctasq.codec.limits import DEFAULT_LIMITS
from asynctasq.core.in_flight import InFlightAttempt
from asynctasq.core.leases import LoopLeaseRenewer
from asynctasq.core.limit_lines import WaitingLines
from asynctasq.core.limit_tokens import CLEAN_S, PLANTED_S, TokenStore
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import UndecodableBody
from asynctasq.kernel.limits import LIMITS_QUEUE, LimitRule, token_index, token_queue, waiting_queue
from asynctasq.kernel.messages import Complete, Lease, Message, Release, Settlement
from asynctasq.testing.clock import VirtualClock


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


async def test_who_ends_the_look_for_a_line_looks_once_more() -> None:
    """A note may be stored between the look and its settlement; it relies on a look that is gone then."""
    clock = VirtualClock()
    driver = MemoryDriver(clock=clock)
    rule, told = LimitRule("x", 1), list[str]()
    tokens = Tokens(driver, clock).store
    await tokens.plant(rule)
    lines = WaitingLines(
        tokens,
        rng=random.Random(1),
        keys=None,
        body_limits=DEFAULT_LIMITS,
        on_line=lambda: told.append("line"),
    )
    await driver.enqueue([replace(lines._line(rule, "mail").look, delay_s=0.0)])
    (lease,) = await driver.reserve(["mail"], limit=1, lease_s=30)

    settlement = await lines.look(InFlightAttempt(lease, 30.0), decode_envelope(lease.body, limits=DEFAULT_LIMITS))

    assert (settlement, lines.known, told) == (Complete(), {}, [])
    assert lines.settled([(lease, settlement)]) == 1
    assert (list(lines.known), told, lines.is_due()) == ([waiting_queue(rule, "mail")], ["line"], True)
    assert await lines.start_waiting(5) == []
    assert lines.known == {}, "nobody waits"
