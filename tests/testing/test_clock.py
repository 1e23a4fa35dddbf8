"""The virtual clock: integer microseconds, forward only, one per owner."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from asynctasq.testing.clock import EPOCH, VirtualClock


def test_a_clock_starts_at_its_epoch_and_stands_still():
    clock = VirtualClock()

    assert datetime(2020, 1, 1, tzinfo=UTC) == EPOCH
    assert clock.now() == EPOCH.timestamp()
    assert clock.monotonic() == 0.0
    assert clock.utc() == EPOCH
    assert clock.elapsed == timedelta()


def test_an_epoch_in_another_time_zone_is_the_same_instant():
    clock = VirtualClock(datetime(2024, 2, 29, 1, tzinfo=timezone(timedelta(hours=2))))

    assert clock.now() == datetime(2024, 2, 28, 23, tzinfo=UTC).timestamp()
    assert clock.utc() == datetime(2024, 2, 28, 23, tzinfo=UTC)
    assert clock.utc().tzinfo is UTC


def test_an_epoch_without_time_zone_is_refused():
    with pytest.raises(ValueError, match="no time zone"):
        VirtualClock(datetime(2020, 1, 1))


def test_steps_add_up_without_float_error():
    clock = VirtualClock()

    for _ in range(10):
        clock.advance(seconds=0.1)

    assert clock.elapsed == timedelta(seconds=1)
    assert clock.monotonic() == 1.0


def test_advance_adds_its_units():
    clock = VirtualClock()

    clock.advance(timedelta(microseconds=1), seconds=1, minutes=1, hours=1, days=1)

    assert clock.elapsed == timedelta(days=1, hours=1, minutes=1, seconds=1, microseconds=1)


def test_now_and_monotonic_move_together():
    clock = VirtualClock()

    clock.advance(days=365)

    assert clock.now() - EPOCH.timestamp() == clock.monotonic() == 365 * 86_400


@pytest.mark.parametrize(
    "when",
    [datetime(2020, 1, 2, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC).timestamp()],
    ids=["datetime", "seconds"],
)
def test_jump_to_an_instant(when: datetime | float):
    clock = VirtualClock()

    clock.jump_to(when)

    assert clock.elapsed == timedelta(days=1)


def test_jump_to_an_instant_without_time_zone_is_refused():
    with pytest.raises(ValueError, match="no time zone"):
        VirtualClock().jump_to(datetime(2021, 1, 1))


@pytest.mark.parametrize(
    "back", [lambda c: c.advance(seconds=-1), lambda c: c.jump_to(EPOCH), lambda c: c.move_to_us(0)]
)
def test_a_clock_never_goes_back(back):
    clock = VirtualClock()
    clock.advance(seconds=5)

    with pytest.raises(ValueError, match="never goes back"):
        back(clock)

    assert clock.elapsed == timedelta(seconds=5)


def test_a_watcher_hears_every_move_until_it_is_taken_off():
    clock = VirtualClock()
    heard: list[int] = []
    unwatch = clock.watch(heard.append)

    clock.advance(seconds=1)
    clock.move_to_us(3_000_000)
    unwatch()
    clock.advance(seconds=1)

    assert heard == [1_000_000, 3_000_000]


def test_a_skewed_view_follows_with_its_error_and_counts_seconds_rightly():
    clock = VirtualClock()
    fast, slow = clock.skewed(30), clock.skewed(-0.5)

    clock.advance(seconds=10)

    assert fast.now() == clock.now() + 30
    assert slow.now() == clock.now() - 0.5
    assert fast.monotonic() == slow.monotonic() == 10


def test_two_clocks_are_independent():
    one, other = VirtualClock(), VirtualClock()

    one.advance(days=1)

    assert other.elapsed == timedelta()
