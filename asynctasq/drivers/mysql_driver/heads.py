"""Where the claims of a backlog got to, so that the next one need not read the index from its beginning; does no I/O.

InnoDB keeps index entries of rows that moved on until its purge has removed them, which a long transaction
anywhere on the server holds up. A claim that starts at the front reads all of them again, every time.
"""

from collections.abc import Mapping, Sequence

__all__ = ["FULL_LOOK_S", "Heads", "Position"]

Position = tuple[int, int]
"""`visible_us` and `seq`: where a message stood in its queue."""

FULL_LOOK_S = 0.1
FULL_LOOK_S_MAX = 2.0
COST_SHARE = 10


class Heads:
    """The last positions claimed, for as long as the claims find all they ask for.

    Whatever comes later stands behind them, since it becomes visible later; but for a transaction that
    commits late, or one that is rolled back. So every tenth of a second a claim looks from the front again,
    less often where that takes long, but so that it takes a tenth of the time at most or happens every two seconds.
    """

    def __init__(self) -> None:
        self._positions: dict[str, Position] = {}
        self._offset_us = 0
        self._full_look_at = 0.0

    def floors(self, queues: Sequence[str], *, offset_us: int, at: float) -> dict[str, Position]:
        """Return after which position to look in which queue; in the others from the front. `at` is monotonic."""
        if at >= self._full_look_at or offset_us != self._offset_us:
            return {}
        positions = self._positions
        return {queue: positions[queue] for queue in queues if queue in positions}

    def claimed(
        self, last: Mapping[str, Position], *, full: bool, offset_us: int, started_at: float, ended_at: float
    ) -> None:
        """Note a claim from the front: the last position in each queue, and whether it found all it asked for."""
        took_s = ended_at - started_at
        self._full_look_at = ended_at + min(max(FULL_LOOK_S, COST_SHARE * took_s), FULL_LOOK_S_MAX)
        self._offset_us = offset_us
        self._positions = dict(last) if full else {}

    def moved_on(self, last: Mapping[str, Position], *, full: bool) -> None:
        """Note a claim that looked after `floors`."""
        if full:
            self._positions = {**self._positions, **last}
        else:
            self._positions = {}
