"""Delays before the next attempt."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynctasq.kernel.retry import Delays, Exponential, Fixed, delay_before_next

RNG = random.Random(7)
attempts = st.integers(min_value=1, max_value=10_000)


@given(attempts, st.floats(min_value=0, max_value=1e6))
def test_fixed_is_the_same_every_time(attempt: int, delay_s: float) -> None:
    assert delay_before_next(Fixed(delay_s=delay_s), attempt=attempt, rng=RNG) == delay_s


@pytest.mark.parametrize(("attempt", "expected"), [(1, 2.0), (2, 4.0), (3, 8.0), (4, 10.0), (5000, 10.0)])
def test_exponential_doubles_up_to_its_cap(attempt: int, expected: float) -> None:
    policy = Exponential(base_s=2, cap_s=10, jitter=False)

    assert delay_before_next(policy, attempt=attempt, rng=RNG) == expected


@given(attempts, st.floats(min_value=0, max_value=1e6), st.floats(min_value=0, max_value=1e6), st.randoms())
def test_full_jitter_stays_between_zero_and_the_plain_delay(
    attempt: int, base_s: float, cap_s: float, rng: random.Random
) -> None:
    plain = delay_before_next(Exponential(base_s=base_s, cap_s=cap_s, jitter=False), attempt=attempt, rng=rng)
    jittered = delay_before_next(Exponential(base_s=base_s, cap_s=cap_s), attempt=attempt, rng=rng)

    assert 0 <= jittered <= plain <= cap_s


def test_full_jitter_covers_the_whole_interval() -> None:
    policy = Exponential(base_s=10, cap_s=10)
    delays = [delay_before_next(policy, attempt=1, rng=random.Random(seed)) for seed in range(200)]

    assert min(delays) < 1 < 9 < max(delays)


@pytest.mark.parametrize(("attempt", "expected"), [(1, 1.0), (2, 5.0), (3, 30.0), (4, 30.0), (99, 30.0)])
def test_a_list_repeats_its_last_delay(attempt: int, expected: float) -> None:
    assert delay_before_next(Delays(delays_s=(1.0, 5.0, 30.0)), attempt=attempt, rng=RNG) == expected
