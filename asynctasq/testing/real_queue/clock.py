"""The clock of a queue on a real driver: the system's, moved forward by what a test lets pass."""

from datetime import UTC, datetime, timedelta

from asynctasq.clock import Clock, SystemClock

__all__ = ["MovedClock"]


class MovedClock(Clock):
    """Now is real time plus `offset_s`. Its monotonic seconds are real: a worker counts its leases in them."""

    def __init__(self, system: Clock | None = None) -> None:
        self.offset_s = 0.0
        self._system = system or SystemClock()
        self._opened = self._system.monotonic()
        self.opened_at = self._system.now()

    def __repr__(self) -> str:
        return f"<MovedClock {self.utc().isoformat()}, {self.elapsed} since its start>"

    def now(self) -> float:
        return self._system.now() + self.offset_s

    def monotonic(self) -> float:
        return self._system.monotonic()

    def utc(self) -> datetime:
        """Return now as an aware UTC datetime."""
        return datetime.fromtimestamp(self.now(), UTC)

    @property
    def real_s(self) -> float:
        """How many real seconds have passed since the start."""
        return self._system.monotonic() - self._opened

    @property
    def elapsed(self) -> timedelta:
        """How much time has passed since the start, real and skipped."""
        return timedelta(seconds=self.real_s + self.offset_s)
