"""Claims of the PostgreSQL driver: where each starts, and what becomes of rows that can't be read; no SQL text."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from asynctasq.drivers.damaged import CLAIMS_MAX, leases_kept
from asynctasq.drivers.levels import LevelTurns, line_by_time
from asynctasq.drivers.postgres_driver.inspection import Inspection
from asynctasq.drivers.postgres_driver.rows import ScanBounds, first_visible_us, is_readable, leases_from
from asynctasq.kernel.messages import Lease

__all__ = ["ClaimValues", "Claims"]

ClaimValues = tuple[list[str], list[str], list[int], int, int, str]
"""The lines of a claim, those to which what it takes moves, where each scan starts, limit, lease in us, and holder."""


class Claims:
    """Reads what claims return; `fetch` runs another one, `note` is told how many leases each had."""

    def __init__(
        self,
        scan_bounds: ScanBounds,
        inspection: Inspection,
        *,
        fetch: Callable[[ClaimValues], Awaitable[list[Any]]],
        note: Callable[[int], None],
        holder: Callable[[], str],
        where: str,
    ) -> None:
        self._scan_bounds = scan_bounds
        self._inspection = inspection
        self._fetch = fetch
        self._note = note
        self._holder = holder
        self._where = where
        self._levels = LevelTurns()

    def values(self, queues: Sequence[str], limit: int, lease_us: int, *, offset_us: int) -> ClaimValues:
        """Return the parameters of a claim."""
        lines = self._levels.all_lines(queues)
        moved = [line_by_time(line) for line in lines]
        self._scan_bounds.forget_if_shifted(offset_us)
        return lines, moved, self._scan_bounds.lower_us(lines), limit, lease_us, self._holder()

    async def read(self, rows: list[Any], claim: ClaimValues) -> tuple[list[Lease], list[str] | None]:
        """Return the leases, and the ids that the settling part of the statement settled.

        Rows that can't be read become dead letters, and as many messages behind them are claimed.
        """
        won: list[str] | None = rows[-1][-1]
        leases, damaged = self._leases(rows, claim)
        with leases_kept(self._where):
            for _ in range(CLAIMS_MAX):
                if not damaged:
                    break
                await self._inspection.bury_damaged(damaged, rows[-1][1], self._where)
                lines, moved, lower_us, limit, lease_us, holder = claim
                rest = lines, moved, lower_us, limit - len(leases), lease_us, holder
                rows = await self._fetch(rest)
                more, damaged = self._leases(rows, rest)
                leases += more
        self._levels.note(leases)
        return leases, won

    def _leases(self, rows: list[Any], claim: ClaimValues) -> tuple[list[Lease], list[Any]]:
        """Return the leases of a claim, and the rows that can't be read."""
        taken, (_, now_us, took_us, *_) = rows[:-1], rows[-1]
        leases = leases_from([row for row in taken if is_readable(row)])
        self._scan_bounds.note_scan(now_us, took_us, len(taken), first_visible_us(taken, claim[0], claim[3], now_us))
        self._note(len(leases))
        return leases, [] if len(leases) == len(taken) else [row for row in taken if not is_readable(row)]
