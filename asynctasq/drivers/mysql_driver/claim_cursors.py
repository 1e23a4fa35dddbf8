"""The positions that the claims of a backlog reached, after which the next claim starts; does no I/O.

InnoDB keeps index entries of rows that moved on until its purge has removed them, which a long transaction
anywhere on the server holds up. A claim that starts at the beginning reads all of them, every time.
"""

from collections.abc import Mapping, Sequence

__all__ = ["FULL_SCAN_S", "ClaimCursors", "Position"]

Position = tuple[int, int]
"""`visible_us` and `seq`: the position of a message in the index of its line."""

FULL_SCAN_S = 0.1
FULL_SCAN_S_MAX = 2.0
FULL_SCAN_COST_FACTOR = 10


class ClaimCursors:
    """The last positions claimed, for as long as the claims find all they ask for.

    Later messages have later positions, since they become visible later, except those of a transaction that
    commits late or is rolled back. So every tenth of a second a claim scans from the beginning again. Where that
    takes long it is done less often, to take a tenth of the time at most, but at least every two seconds.
    """

    def __init__(self) -> None:
        self._positions: dict[str, Position] = {}
        self._offset_us = 0
        self._full_scan_at = 0.0

    def start_after(self, lines: Sequence[str], *, offset_us: int, at: float) -> dict[str, Position]:
        """Return the position to start after, of the lines that have one. `at` is monotonic."""
        if at >= self._full_scan_at or offset_us != self._offset_us:
            return {}
        positions = self._positions
        return {line: positions[line] for line in lines if line in positions}

    def note_full_scan(
        self, last: Mapping[str, Position], *, full: bool, offset_us: int, started_at: float, ended_at: float
    ) -> None:
        """Note a claim from the beginning: the last position in each line, and whether it found all it asked for."""
        took_s = ended_at - started_at
        self._full_scan_at = ended_at + min(max(FULL_SCAN_S, FULL_SCAN_COST_FACTOR * took_s), FULL_SCAN_S_MAX)
        self._offset_us = offset_us
        self._positions = dict(last) if full else {}

    def note_partial_scan(self, last: Mapping[str, Position], *, full: bool) -> None:
        """Note a claim that started after the positions of `start_after`."""
        if full:
            self._positions = {**self._positions, **last}
        else:
            self._positions = {}
