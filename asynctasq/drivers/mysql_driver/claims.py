"""Claims of the MySQL/MariaDB driver: where each starts, and what becomes of rows that can't be read; no SQL text."""

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from asynctasq.drivers.base import Settlements
from asynctasq.drivers.damaged import CLAIMS_MAX, leases_kept, log_damaged
from asynctasq.drivers.levels import LevelTurns
from asynctasq.drivers.mysql_driver.claim_cursors import ClaimCursors
from asynctasq.drivers.mysql_driver.statement_runner import StatementRunner
from asynctasq.drivers.mysql_driver.statements import Statements
from asynctasq.drivers.mysql_driver.steps import Claim, Claimed, bury_damaged, turn
from asynctasq.kernel.messages import Lease

__all__ = ["Claims"]


class Claims:
    """Settles and reserves in one transaction, then looks for what that claim could not return."""

    def __init__(self, runner: StatementRunner, sql: Statements, where: str) -> None:
        self._runner = runner
        self._sql = sql
        self._where = where
        self._cursors = ClaimCursors()
        self._levels = LevelTurns()

    def lines(self, queues: Sequence[str]) -> tuple[str, ...]:
        """Return the lines of the next claim, in their order."""
        return tuple(self._levels.lines(queues))

    async def claim(
        self, settlements: Settlements, claim: Claim, *, offset_us: int
    ) -> tuple[AbstractSet[str], list[Lease]]:
        """Return the ids of lost leases, and new leases."""
        clock = asyncio.get_running_loop().time
        started_at = clock()
        start_after = self._cursors.start_after(claim.lines, offset_us=offset_us, at=started_at)
        claim = replace(claim, start_after=start_after)
        lost, claimed = await self._runner.run_steps(lambda: turn(self._sql, settlements, claim, offset_us=offset_us))
        full = len(claimed) >= claim.limit
        if not start_after:
            self._cursors.note_full_scan(
                claimed.last, full=full, offset_us=offset_us, started_at=started_at, ended_at=clock()
            )
        else:
            self._cursors.note_partial_scan(claimed.last, full=full)
        with leases_kept(self._where):
            if start_after and not full:  # there may be messages before those positions
                claimed.add(await self._claim_rest(claim, claimed, offset_us), earlier=True)
            for _ in range(CLAIMS_MAX):
                if not claimed.damaged:
                    break
                await self._bury_damaged(claimed, offset_us)
                claimed.add(await self._claim_rest(claim, claimed, offset_us), earlier=False)
        self._levels.note(claimed.leases)
        return lost, claimed.leases

    async def _claim_rest(self, claim: Claim, claimed: Claimed, offset_us: int) -> Claimed:
        """Claim, from the beginning, what is left of the limit."""
        rest = replace(claim, start_after={}, limit=claim.limit - len(claimed))
        return (await self._runner.run_steps(lambda: turn(self._sql, (), rest, offset_us=offset_us)))[1]

    async def _bury_damaged(self, claimed: Claimed, offset_us: int) -> None:
        rows = claimed.damaged[:]
        claimed.damaged.clear()
        found = await self._runner.run_steps(lambda: bury_damaged(self._sql, rows, offset_us=offset_us))
        log_damaged(self._where, found)
