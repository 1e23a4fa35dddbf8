"""The virtual clock of one simulation or one FakeQueue, which moves only when it is called; never a global."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from asynctasq.clock import Clock
from asynctasq.errors import MissingExtra
from asynctasq.kernel.messages import MICROSECONDS, microseconds

__all__ = ["EPOCH", "VirtualClock", "frozen_to"]

EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
_UNIX = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class VirtualClock:
    """A `Clock` in integer microseconds, so that 0.2 s - 0.05 s is 0.15 s.

    It starts at `epoch` and never goes back. A simulation loop that owns it jumps it from timer to
    timer; whoever owns it without a loop moves it with `advance` and `jump_to`.
    """

    __slots__ = ("__weakref__", "_epoch_us", "_watchers", "elapsed_us", "epoch")

    def __init__(self, epoch: datetime = EPOCH) -> None:
        if epoch.tzinfo is None:
            raise ValueError(f"epoch {epoch} has no time zone; write datetime(..., tzinfo=UTC)")
        self.epoch = epoch
        self.elapsed_us = 0
        self._epoch_us = (epoch - _UNIX) // _MICROSECOND
        self._watchers: tuple[Callable[[int], None], ...] = ()

    def __repr__(self) -> str:
        return f"<VirtualClock {self.utc().isoformat()}, {self.elapsed} since its start>"

    def now(self) -> float:
        return (self._epoch_us + self.elapsed_us) / MICROSECONDS

    @property
    def now_us(self) -> int:
        """Now, in microseconds since the Unix epoch."""
        return self._epoch_us + self.elapsed_us

    def monotonic(self) -> float:
        return self.elapsed_us / MICROSECONDS

    def utc(self) -> datetime:
        """Return now as an aware UTC datetime, exact to the microsecond."""
        return self.epoch.astimezone(UTC) + self.elapsed

    @property
    def elapsed(self) -> timedelta:
        """How much virtual time has passed since the start."""
        return timedelta(microseconds=self.elapsed_us)

    def advance(
        self,
        delta: timedelta | None = None,
        *,
        seconds: float = 0,
        minutes: float = 0,
        hours: float = 0,
        days: float = 0,
    ) -> None:
        """Move forward. Timers of a loop on this clock that came due run, late, when the loop next looks."""
        step_us = (delta or timedelta()) // _MICROSECOND
        step_us += microseconds(seconds + 60 * minutes + 3600 * hours + 86400 * days)
        self.move_to_us(self.elapsed_us + step_us)

    def jump_to(self, when: datetime | float) -> None:
        """Move forward to an instant: an aware datetime, or seconds since the Unix epoch as `now` gives."""
        if isinstance(when, datetime):
            if when.tzinfo is None:
                raise ValueError(f"cannot jump to {when}: it has no time zone; write datetime(..., tzinfo=UTC)")
            target_us = (when - _UNIX) // _MICROSECOND
        else:
            target_us = round(when * MICROSECONDS)
        self.move_to_us(target_us - self._epoch_us)

    def move_to_us(self, elapsed_us: int) -> None:
        """Set the microseconds since the start; going back is an error."""
        if elapsed_us < self.elapsed_us:
            behind_s = (self.elapsed_us - elapsed_us) / MICROSECONDS
            raise ValueError(f"a clock never goes back: that is {behind_s} s before its {self.utc().isoformat()}")
        self.elapsed_us = elapsed_us
        for watcher in self._watchers:
            watcher(elapsed_us)

    def watch(self, watcher: Callable[[int], None]) -> Callable[[], None]:
        """Call `watcher(elapsed_us)` after every move; return what ends that."""
        self._watchers = (*self._watchers, watcher)

        def unwatch() -> None:
            self._watchers = tuple(known for known in self._watchers if known is not watcher)

        return unwatch

    def skewed(self, seconds: float) -> Clock:
        """Return this clock as a client sees it whose wall clock is wrong by `seconds`.

        Its monotonic time is the same: a wrong wall clock still counts seconds rightly.
        """
        return _SkewedClock(self, seconds)


class _SkewedClock:
    """A view, not a copy: it follows its clock."""

    __slots__ = ("_clock", "_skew_s")

    def __init__(self, clock: Clock, skew_s: float) -> None:
        self._clock = clock
        self._skew_s = skew_s

    def now(self) -> float:
        return self._clock.now() + self._skew_s

    def monotonic(self) -> float:
        return self._clock.monotonic()


@contextmanager
def frozen_to(clock: VirtualClock) -> Generator[None]:
    """Freeze the wall clock to `clock` and move it whenever the clock moves.

    freezegun replaces the functions in every imported module, so the whole process sees virtual
    time meanwhile: one frozen simulation at a time, and entering takes milliseconds. asyncio's own
    loops keep real time; `time.sleep` really sleeps.

    Raises: MissingExtra if freezegun is not installed.
    """
    frozen: Any
    with _freezegun().freeze_time(clock.utc().replace(tzinfo=None), real_asyncio=True) as frozen:
        frozen_us = clock.elapsed_us

        def follow(elapsed_us: int) -> None:
            nonlocal frozen_us
            frozen.tick(timedelta(microseconds=elapsed_us - frozen_us))
            frozen_us = elapsed_us

        unwatch = clock.watch(follow)
        try:
            yield
        finally:
            unwatch()


def _freezegun() -> Any:
    try:
        import freezegun
    except ImportError as error:
        raise MissingExtra(
            "freeze_time=True needs freezegun, which is not installed; run: pip install 'asynctasq[testing]'"
        ) from error
    return freezegun
