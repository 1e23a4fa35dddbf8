"""The delay before the next attempt: a pure function of policy, attempt and a random source."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, assert_never

__all__ = ["Delays", "Exponential", "Fixed", "RandomSource", "RetryPolicy", "delay_before_next"]


class RandomSource(Protocol):
    """What a policy needs of `random.Random`."""

    def random(self) -> float:
        """Return a float in [0, 1)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """The same delay before every retry."""

    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponential:
    """`base_s * factor ** (attempt - 1)`, at most `cap_s`; with `jitter`, anything from 0 to that.

    Full jitter spreads a burst of failures over the whole interval.
    """

    base_s: float
    factor: float = 2.0
    cap_s: float = 3600.0
    jitter: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Delays:
    """One delay per retry, the last one repeated when there are more retries than delays."""

    delays_s: tuple[float, ...]


RetryPolicy = Fixed | Exponential | Delays


def delay_before_next(policy: RetryPolicy, *, attempt: int, rng: RandomSource) -> float:
    """Return the seconds to wait after the failed `attempt` (from 1)."""
    match policy:
        case Fixed():
            return policy.delay_s
        case Exponential():
            # 1 - random(), so that a source of zeros, as a simulation's first seed is, gives the plain delay.
            return _exponential(policy, attempt) * (1.0 - rng.random() if policy.jitter else 1.0)
        case Delays():
            return _from_list(policy.delays_s, attempt)
        case _:  # pragma: no cover - closed union
            assert_never(policy)


def _exponential(policy: Exponential, attempt: int) -> float:
    try:
        delay_s = policy.base_s * float(policy.factor) ** (attempt - 1)  # a power of whole numbers could take for ever
    except OverflowError:
        return policy.cap_s
    return min(policy.cap_s, delay_s)


def _from_list(delays_s: Sequence[float], attempt: int) -> float:
    return delays_s[min(attempt, len(delays_s)) - 1]
