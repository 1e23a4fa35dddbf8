"""How long a store keeps what no worker needs any more, and when a driver looks for what is to go; removes nothing."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from asynctasq.errors import ConfigError, DriverError, DriverUnavailable
from asynctasq.kernel.messages import MICROSECONDS
from asynctasq.logs import get_logger

__all__ = ["DEAD_MAX", "DEAD_TTL_S", "PRUNED_AT_ONCE", "RETENTION_OPTIONS", "Retention"]

logger = get_logger(__name__)

DEAD_TTL_S = 90 * 86_400.0
DEAD_MAX = 100_000
PRUNED_AT_ONCE = 1_000
"""Rows that one step removes of one kind: a worker's own settlements wait for that."""
PRUNE_S = 5.0
RETENTION_OPTIONS: dict[str, type] = {"dead_ttl": float, "dead_max": int}


@dataclass(slots=True)
class Retention:
    """Dead letters go `dead_ttl` seconds after their death, and the oldest of those beyond `dead_max` in a queue.

    A driver looks every few seconds while a worker reserves or waits, and removes what it finds step by step: as long
    as a step finds all that it may remove, the next call makes one more. So nothing runs in the background, and as
    much is removed as expires.
    """

    dead_ttl: float = DEAD_TTL_S
    dead_max: int = DEAD_MAX
    _last_at: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not 0 < self.dead_ttl < math.inf:
            raise ConfigError(f"option 'dead_ttl' must be more than 0 seconds, not {self.dead_ttl!r}")
        if self.dead_max < 1:
            raise ConfigError(f"option 'dead_max' must be at least 1, not {self.dead_max!r}")

    @property
    def dead_ttl_us(self) -> int:
        """The age of a dead letter at its end, in microseconds."""
        return round(min(self.dead_ttl, 1e11) * MICROSECONDS)

    async def prune(self, step: Callable[[], Awaitable[bool]], *, clock_offset: float) -> bool:
        """Make a step if it is due, on a clock that moves with the driver's; return whether it left something.

        A step says so itself. One that the backend refuses is logged and made again later.

        Raises: DriverUnavailable.
        """
        now = asyncio.get_running_loop().time() + clock_offset
        last_at, self._last_at = self._last_at, now
        if last_at is None:  # the first call of all has other things to do
            return False
        if last_at <= now < last_at + PRUNE_S:
            self._last_at = last_at
            return False
        try:
            more = await step()
        except DriverUnavailable:
            raise
        except DriverError as error:
            logger.error("expired results and dead letters can't be removed: %s", error)  # noqa: TRY400 - says it all
            return False
        if more:
            self._last_at = -math.inf
        return more
