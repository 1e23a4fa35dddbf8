"""Drivers whose levels of priority are wrong in one way each; `wrong_drivers.py` names the test that notices."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from asynctasq.drivers.base import NO
from asynctasq.drivers.levels import LevelTurns, priority_in
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.memory_driver.row import MemoryRow, depth_of
from asynctasq.errors import UnsupportedFeature
from asynctasq.kernel.messages import Depth, Lease, Message, Release
from asynctasq.kernel.priority import PRIORITIES, Priority

__all__ = [
    "CountsClaimsOfAllQueues",
    "CountsEmptyClaims",
    "CountsNormalOnly",
    "FollowUpsAreNormal",
    "ForgetsLevelsAtRedrive",
    "ForgetsLevelsAtRelease",
    "LevelsGoBeforeQueues",
    "PriorityInverted",
    "RefusesLevelsItClaims",
    "ShowsLines",
    "StarvesLowLevels",
    "TakesAnyLevel",
    "TakesOverBeforeLevels",
    "UnderClaimsPriorities",
    "WaitsForNormalOnly",
]


class PriorityInverted(MemoryDriver):
    """Sorts levels as numbers, the larger the later."""

    def _store_one(self, message: Message, now: int) -> bool:
        swapped: dict[Priority, Priority] = {"high": "low", "low": "high"}
        level = swapped.get(message.priority, message.priority)
        return super()._store_one(replace(message, priority=level), now)


class _FixedLines(LevelTurns):
    """Lines in an order that was chosen before."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def all_lines(self, queues: Iterable[str]) -> list[str]:
        del queues
        return self._lines


class LevelsGoBeforeQueues(MemoryDriver):
    """Takes the high ones of all queues, then the normal ones."""

    _levels: LevelTurns

    def _reserve_now(self, queues: Sequence[str], limit: int, lease_s: float) -> list[Lease]:
        levels: LevelTurns = self._levels
        lines = sorted(levels.all_lines(queues), key=lambda line: PRIORITIES.index(priority_in(line)))
        self._levels = _FixedLines(lines)
        try:
            return super()._reserve_now(queues, limit, lease_s)
        finally:
            self._levels = levels


class ForgetsLevelsAtRelease(MemoryDriver):
    """Stores a retry as if it were new, with what it takes from the message and nothing else."""

    def _end(self, row: MemoryRow, settlement: Any) -> None:
        if isinstance(settlement, Release):
            row.message = replace(row.message, priority="normal")
        super()._end(row, settlement)


class ForgetsLevelsAtRedrive(MemoryDriver):
    """Drives all dead letters to one line."""

    async def redrive(self, queue: str, *, limit: int) -> int:
        for message_id in self._dead.get(queue, {}):
            row = self._rows[message_id]
            row.message = replace(row.message, priority="normal")
        return await super().redrive(queue, limit=limit)


class StarvesLowLevels(MemoryDriver):
    """Begins every claim with high."""

    def _reserve_now(self, queues: Sequence[str], limit: int, lease_s: float) -> list[Lease]:
        self._levels = LevelTurns()
        return super()._reserve_now(queues, limit, lease_s)


class CountsEmptyClaims(MemoryDriver):
    """Counts each call as a claim, whether or not it took something."""

    def _reserve_now(self, queues: Sequence[str], limit: int, lease_s: float) -> list[Lease]:
        leases = super()._reserve_now(queues, limit, lease_s)
        if not leases:
            self._levels.note([replace(SOME_LEASE, queue=queue) for queue in queues])
        return leases


class CountsClaimsOfAllQueues(MemoryDriver):
    """Has one count for all queues."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._levels = _OneCount()


class _OneCount(LevelTurns):
    """What counts claims for all queues together."""

    def __init__(self) -> None:
        super().__init__()
        self._total = 0

    def all_lines(self, queues: Iterable[str]) -> list[str]:
        self._claims.update(dict.fromkeys(queues, self._total))
        return super().all_lines(queues)

    def note(self, leases: Sequence[Lease]) -> None:
        self._total += bool(leases)


class TakesOverBeforeLevels(MemoryDriver):
    """Looks for expired leases first, whatever their level."""

    def _lease(self, row: MemoryRow, until: int) -> Lease:
        lease = super()._lease(row, until)
        heapq.heappush(self._due.setdefault(f"{row.message.queue}!h", []), (until, row.arrival, row.message.id))
        return lease


class FollowUpsAreNormal(MemoryDriver):
    """Copies the fields of a follow-up that it knows."""

    def _follow(self, messages: Sequence[Message]) -> None:
        super()._follow([replace(message, priority="normal") for message in messages])


class WaitsForNormalOnly(MemoryDriver):
    """Asks the line of the queue's name when the next message is due."""

    def _first_due(self, queues: Iterable[str]) -> float:
        normal = [row for row in self._rows.values() if row.message.queue in queues and row.line in queues]
        return min((row.visible_us for row in normal if row.reason is None), default=float("inf"))


class CountsNormalOnly(MemoryDriver):
    """Counts the line of the queue's name."""

    async def depth(self, queue: str) -> Depth:
        with self._lock:
            rows = [row for row in self._rows.values() if row.line == queue]
            return depth_of(rows, self._now())


class ShowsLines(MemoryDriver):
    """Gives away the names under which levels are stored."""

    def _lease(self, row: MemoryRow, until: int) -> Lease:
        return replace(super()._lease(row, until), queue=row.line)


class TakesAnyLevel(MemoryDriver):
    """Takes for normal what it does not know."""

    def _check(self, messages: Iterable[Message]) -> None:
        super()._check([replace(message, priority="normal") for message in messages])

    def _store_one(self, message: Message, now: int) -> bool:
        level = message.priority if message.priority in PRIORITIES else "normal"
        return super()._store_one(replace(message, priority=level), now)


class RefusesLevelsItClaims(MemoryDriver):
    """Claims levels, and has but one."""

    def _check(self, messages: Iterable[Message]) -> None:
        super()._check(messages)
        if any(message.priority != "normal" for message in messages):
            raise UnsupportedFeature("no levels here")


class UnderClaimsPriorities(MemoryDriver):
    """Does not claim the levels it has."""

    capabilities = replace(MemoryDriver.capabilities, priorities=NO)


SOME_LEASE = Lease(
    message_id="m", queue="q", body=b"", token="1", attempt=1, crashes=0, enqueued_at=0.0, expires_at=0.0
)
