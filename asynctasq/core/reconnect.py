"""Backoff while a worker's backend can't be reached: each pause is longer, until the worker gives up."""

from asynctasq.clock import Clock
from asynctasq.core.shutdown import StopRequest
from asynctasq.core.tracebacks import exception_text
from asynctasq.errors import DriverError, DriverMisconfigured, DriverUnavailable, UnsupportedFeature
from asynctasq.kernel.retry import Exponential, RandomSource, delay_before_next
from asynctasq.logs import get_logger

__all__ = ["ReconnectBackoff"]

logger = get_logger(__name__)

BACKOFF = Exponential(base_s=0.2, cap_s=2.0)


class ReconnectBackoff:
    """Counts failed calls in a row; logs when the state changes, not at every call."""

    def __init__(self, driver: str, *, timeout_s: float, clock: Clock, rng: RandomSource, stop: StopRequest) -> None:
        self._driver = driver
        self._timeout_s = timeout_s
        self._clock = clock
        self._rng = rng
        self._stop = stop
        self._since: float | None = None
        self._failures = 0

    @property
    def active(self) -> bool:
        """Whether the last call failed."""
        return self._since is not None

    @property
    def is_check_due(self) -> bool:
        """Whether to find out if it is what was sent that fails: after 2, 4, 8, ... failed calls in a row."""
        return self._failures > 1 and self._failures.bit_count() == 1

    async def wait(self, error: DriverError) -> None:
        """Sleep before the next call.

        Raises: `error` at once if trying again can't help; DriverUnavailable after `timeout_s` without success.
        """
        if isinstance(error, DriverMisconfigured | UnsupportedFeature):
            raise error
        now = self._clock.monotonic()
        if self._since is None:
            self._since = now
            logger.error(
                "%s can't be reached; running attempts continue, and calls are tried again: %s",
                self._driver,
                exception_text(error),
            )
        if now - self._since >= self._timeout_s:
            raise DriverUnavailable(
                f"{self._driver} could not be reached for {self._timeout_s:g} s; last error: {exception_text(error)}"
            ) from error
        self._failures += 1
        await self._stop.sleep(delay_before_next(BACKOFF, attempt=self._failures, rng=self._rng))

    def reset(self) -> None:
        """Note that a call succeeded."""
        if self._since is not None:
            logger.warning("%s can be reached again after %.1f s", self._driver, self._clock.monotonic() - self._since)
            self._since = None
            self._failures = 0
