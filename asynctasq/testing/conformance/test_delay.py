"""Delays: never early, on time at the very instant, from a microsecond to decades."""

import asyncio

import pytest

from asynctasq.kernel.messages import Complete, Lease, Release
from asynctasq.testing.conformance.harness import NotPossible
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, Q, StoreUnderTest, message

HOUR_S = 3600.0
YEAR_S = 365.25 * 24 * HOUR_S
ROUNDING_S = 2e-6
"""Instants travel as floats; at the epoch's present value they are exact to a quarter of a microsecond."""


@conforms("enqueue: becomes visible `delay_s` after now, never earlier")
async def test_a_delay_of_zero_is_visible_at_once(store: StoreUnderTest) -> None:
    await store.put("m", delay_s=0.0)

    await store.assert_depth(ready=1)
    assert (await store.take_one()).message_id == "m"


async def _assert_comes_after(store: StoreUnderTest, delay_s: float) -> None:
    if not store.virtual:
        raise NotPossible("the driver's clock can't be moved")
    margin_s = 30.0
    await store.put(f"m{delay_s}", delay_s=delay_s)
    await store.assert_nothing_visible()
    await store.assert_depth(scheduled=1)

    await store.advance(delay_s - margin_s)
    await store.assert_nothing_visible()
    await store.assert_depth(scheduled=1)

    await store.advance(margin_s)
    await store.assert_depth(ready=1)
    lease = await store.take_one()
    assert lease.message_id == f"m{delay_s}"
    await store.settle((lease, Complete()))


@conforms("enqueue: becomes visible `delay_s` after now, never earlier")
async def test_a_delay_of_minutes_ends_exactly_then(store: StoreUnderTest) -> None:
    await _assert_comes_after(store, 60.0)
    await _assert_comes_after(store, 61.000001)


@conforms("enqueue: becomes visible `delay_s` after now, never earlier")
async def test_delays_of_hours_and_days_end_exactly_then(store: StoreUnderTest) -> None:
    await _assert_comes_after(store, HOUR_S)
    await _assert_comes_after(store, 30 * 24 * HOUR_S)


@conforms("enqueue: becomes visible `delay_s` after now, never earlier")
async def test_delays_of_years_end_exactly_then(store: StoreUnderTest) -> None:
    await _assert_comes_after(store, YEAR_S)
    await _assert_comes_after(store, 30 * YEAR_S)


@conforms("Release: a delay of years")
async def test_a_retry_after_years_comes_exactly_then(store: StoreUnderTest) -> None:
    if not store.virtual:
        raise NotPossible("the driver's clock can't be moved")
    await store.settle((await store.lease("m"), Release(delay_s=30 * YEAR_S, counted=True)))
    await store.advance(30 * YEAR_S - 30)
    await store.assert_nothing_visible()

    await store.advance(30)

    assert (await store.take_one()).attempt == 2


def _granted_after_s(lease: Lease, lease_s: float) -> float:
    """Return how long after the enqueue the lease was granted, by the driver's own clock."""
    return lease.expires_at - lease_s - lease.enqueued_at


@conforms("enqueue: never earlier, by a fraction of a second")
async def test_delays_below_a_second_are_never_early(store: StoreUnderTest) -> None:
    delays = [0.000001, 0.001, 0.05, 0.25, 0.333333, 0.5] if store.virtual else [0.25, 0.5]
    await store.driver.enqueue([message(f"m{delay}", delay_s=delay) for delay in delays])
    seen: dict[str, float] = {}
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 20
    while len(seen) < len(delays):
        assert loop.time() < deadline, f"delays of {delays} s, and after 20 s only these came: {sorted(seen)}"
        for lease in await store.driver.reserve([Q], limit=10, lease_s=LONG_S, wait_s=2):
            seen[lease.message_id] = _granted_after_s(lease, LONG_S)

    early = {delay: seen[f"m{delay}"] for delay in delays if seen[f"m{delay}"] < delay - ROUNDING_S}
    if store.exact:
        assert not early, f"these were given away early (delay: granted after): {early}"


@conforms("Release: never earlier, by a fraction of a second")
async def test_a_release_below_a_second_is_never_early(store: StoreUnderTest) -> None:
    delay_s = 0.3 if store.virtual else 1.0
    lease = await store.lease("m")
    before = asyncio.get_running_loop().time()
    await store.settle((lease, Release(delay_s=delay_s, counted=True)))

    leases: list[Lease] = []
    while not leases:
        leases = await store.driver.reserve([Q], limit=1, lease_s=LONG_S, wait_s=5)
        assert asyncio.get_running_loop().time() - before < 20, f"released for {delay_s} s and not visible after 20"

    assert asyncio.get_running_loop().time() - before >= delay_s - 0.02, "visible before its delay had passed"


@conforms("a message's place is its own `visible_at`: a delay does not hold up the others")
async def test_a_delayed_message_holds_up_nobody(store: StoreUnderTest) -> None:
    await store.put("later", delay_s=HOUR_S if store.virtual else 60)
    await store.put("now")

    assert (await store.take_one()).message_id == "now"

    await store.assert_depth(scheduled=1, reserved=1)


@conforms("capabilities.delay_s_max: longest delay the backend takes in one step; longer ones go step by step")
async def test_a_delay_beyond_one_step_is_accepted_and_not_early(store: StoreUnderTest) -> None:
    longest_s = store.capabilities.delay_s_max
    if longest_s is None:
        raise NotPossible("the driver takes a delay of any length in one step")

    await store.put("m", delay_s=longest_s * 3)

    await store.assert_nothing_visible()
    await store.assert_depth(scheduled=1)


@conforms("clock_offset takes effect at the next call")
async def test_the_clock_of_two_drivers_moves_together(store: StoreUnderTest) -> None:
    if not store.virtual:
        raise NotPossible("the driver's clock can't be moved")
    other = store.other()
    await store.put("m", delay_s=HOUR_S)
    await store.advance(HOUR_S)

    assert (await store.take_one(driver=other)).message_id == "m"
    assert other.clock_offset == pytest.approx(store.driver.clock_offset)
