"""Delays: never early, on time at the very instant, from a microsecond to decades."""

import asyncio

import pytest

from asynctasq.kernel.messages import Complete, Lease, Release
from asynctasq.testing.conformance.harness import NotPossible
from asynctasq.testing.conformance.trial import LONG_S, Q, Trial, message
from asynctasq.testing.conformance.verdict import conforms

HOUR_S = 3600.0
YEAR_S = 365.25 * 24 * HOUR_S
ROUNDING_S = 2e-6
"""Instants travel as floats; at the epoch's present value they are exact to a quarter of a microsecond."""


@conforms("enqueue: becomes visible `delay_s` after now, never earlier")
async def test_a_delay_of_zero_is_visible_at_once(trial: Trial) -> None:
    await trial.put("m", delay_s=0.0)

    await trial.assert_depth(ready=1)
    assert (await trial.take_one()).message_id == "m"


async def _assert_comes_after(trial: Trial, delay_s: float) -> None:
    if not trial.virtual:
        raise NotPossible("the driver's clock can't be moved")
    margin_s = 30.0
    await trial.put(f"m{delay_s}", delay_s=delay_s)
    await trial.assert_nothing_visible()
    await trial.assert_depth(scheduled=1)

    await trial.advance(delay_s - margin_s)
    await trial.assert_nothing_visible()
    await trial.assert_depth(scheduled=1)

    await trial.advance(margin_s)
    await trial.assert_depth(ready=1)
    lease = await trial.take_one()
    assert lease.message_id == f"m{delay_s}"
    await trial.settle((lease, Complete()))


@conforms("enqueue: becomes visible `delay_s` after now, never earlier")
async def test_a_delay_of_minutes_ends_exactly_then(trial: Trial) -> None:
    await _assert_comes_after(trial, 60.0)
    await _assert_comes_after(trial, 61.000001)


@conforms("enqueue: becomes visible `delay_s` after now, never earlier")
async def test_delays_of_hours_and_days_end_exactly_then(trial: Trial) -> None:
    await _assert_comes_after(trial, HOUR_S)
    await _assert_comes_after(trial, 30 * 24 * HOUR_S)


@conforms("enqueue: becomes visible `delay_s` after now, never earlier")
async def test_delays_of_years_end_exactly_then(trial: Trial) -> None:
    await _assert_comes_after(trial, YEAR_S)
    await _assert_comes_after(trial, 30 * YEAR_S)


@conforms("Release: a delay of years")
async def test_a_retry_after_years_comes_exactly_then(trial: Trial) -> None:
    if not trial.virtual:
        raise NotPossible("the driver's clock can't be moved")
    await trial.settle((await trial.lease("m"), Release(delay_s=30 * YEAR_S, counted=True)))
    await trial.advance(30 * YEAR_S - 30)
    await trial.assert_nothing_visible()

    await trial.advance(30)

    assert (await trial.take_one()).attempt == 2


def _granted_after_s(lease: Lease, lease_s: float) -> float:
    """Return how long after the enqueue the lease was granted, by the driver's own clock."""
    return lease.expires_at - lease_s - lease.enqueued_at


@conforms("enqueue: never earlier, by a fraction of a second")
async def test_delays_below_a_second_are_never_early(trial: Trial) -> None:
    delays = [0.000001, 0.001, 0.05, 0.25, 0.333333, 0.5] if trial.virtual else [0.25, 0.5]
    await trial.driver.enqueue([message(f"m{delay}", delay_s=delay) for delay in delays])
    seen: dict[str, float] = {}
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 20
    while len(seen) < len(delays):
        assert loop.time() < deadline, f"delays of {delays} s, and after 20 s only these came: {sorted(seen)}"
        for lease in await trial.driver.reserve([Q], limit=10, lease_s=LONG_S, wait_s=2):
            seen[lease.message_id] = _granted_after_s(lease, LONG_S)

    early = {delay: seen[f"m{delay}"] for delay in delays if seen[f"m{delay}"] < delay - ROUNDING_S}
    if trial.exact:
        assert not early, f"these were given away early (delay: granted after): {early}"


@conforms("Release: never earlier, by a fraction of a second")
async def test_a_release_below_a_second_is_never_early(trial: Trial) -> None:
    delay_s = 0.3 if trial.virtual else 1.0
    lease = await trial.lease("m")
    before = asyncio.get_running_loop().time()
    await trial.settle((lease, Release(delay_s=delay_s, counted=True)))

    leases: list[Lease] = []
    while not leases:
        leases = await trial.driver.reserve([Q], limit=1, lease_s=LONG_S, wait_s=5)
        assert asyncio.get_running_loop().time() - before < 20, f"released for {delay_s} s and not visible after 20"

    assert asyncio.get_running_loop().time() - before >= delay_s - 0.02, "visible before its delay had passed"


@conforms("a message's place is its own `visible_at`: a delay does not hold up the others")
async def test_a_delayed_message_holds_up_nobody(trial: Trial) -> None:
    await trial.put("later", delay_s=HOUR_S if trial.virtual else 60)
    await trial.put("now")

    assert (await trial.take_one()).message_id == "now"

    await trial.assert_depth(scheduled=1, reserved=1)


@conforms("capabilities.delay_s_max: longest delay the backend takes in one step; longer ones go step by step")
async def test_a_delay_beyond_one_step_is_accepted_and_not_early(trial: Trial) -> None:
    longest_s = trial.capabilities.delay_s_max
    if longest_s is None:
        raise NotPossible("the driver takes a delay of any length in one step")

    await trial.put("m", delay_s=longest_s * 3)

    await trial.assert_nothing_visible()
    await trial.assert_depth(scheduled=1)


@conforms("clock_offset takes effect at the next call")
async def test_the_clock_of_two_drivers_moves_together(trial: Trial) -> None:
    if not trial.virtual:
        raise NotPossible("the driver's clock can't be moved")
    other = trial.other()
    await trial.put("m", delay_s=HOUR_S)
    await trial.advance(HOUR_S)

    assert (await trial.take_one(driver=other)).message_id == "m"
    assert other.clock_offset == pytest.approx(trial.driver.clock_offset)
