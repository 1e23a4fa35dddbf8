"""Drivers that are wrong about fair keys in one way each, and the conformance test that must notice."""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from asynctasq.drivers.levels import LevelTurns, all_lines_of, is_by_rank, lines_of
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.memory_driver.ranks import Ranks
from asynctasq.drivers.memory_driver.row import MemoryRow, depth_of
from asynctasq.errors import UnsupportedFeature
from asynctasq.kernel.messages import MICROSECONDS, Depth, Lease, Message, StoredMessage
from tests.mutants.wrong_drivers import Wrong

__all__ = ["WRONG_FAIR"]


class _OtherRanks(MemoryDriver):
    """A driver that ranks as `ranks` does."""

    ranks: type[Ranks] = Ranks

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._ranks = self.ranks(self._rows)


class IgnoresKeys(MemoryDriver):
    """Stores messages without their keys."""

    def _store_one(self, message: Message, now: int) -> bool:
        return super()._store_one(replace(message, fair_key=""), now)


class _Arrivals(Ranks):
    def rank(self, row: MemoryRow) -> None:
        row.rank = row.arrival


class RanksByArrival(_OtherRanks):
    """Has a line of its own for messages with keys, and no turns in it."""

    ranks = _Arrivals


class _BesideTheFirst(Ranks):
    def rank(self, row: MemoryRow) -> None:
        super().rank(row)
        first = heapq.nsmallest(2, (one.rank for one in self._rows.values() if one.rank and one.line == row.line))
        others = [one for one in self._rows.values() if one.rank and one is not row and one.line == row.line]
        if others and all(one.message.fair_key != row.message.fair_key for one in others):
            row.rank = first[0]


class BeginsBesideTheFirst(_OtherRanks):
    """Lets a key of which none waits begin in the present round, however often it was served in it."""

    ranks = _BesideTheFirst


class _OnePerBatch(Ranks):
    def __init__(self, rows: Any) -> None:
        super().__init__(rows)
        self.given: dict[tuple[str, str, int], int] = {}

    def rank(self, row: MemoryRow) -> None:
        super().rank(row)
        row.rank = self.given.setdefault((row.line, row.message.fair_key, row.enqueued_us), row.rank)


class RanksABatchAtOnce(_OtherRanks):
    """Looks up the last rank of each key once a batch."""

    ranks = _OnePerBatch


class _KeepsLast(Ranks):
    def __init__(self, rows: Any) -> None:
        super().__init__(rows)
        self.last = Counter[tuple[str, str]]()

    def rank(self, row: MemoryRow) -> None:
        super().rank(row)
        place = row.line, row.message.fair_key
        self.last[place] = row.rank = max(row.rank, self.last[place] + 1)


class KeepsRanksOfTheRemoved(_OtherRanks):
    """Counts for each key, and never back."""

    ranks = _KeepsLast


class _Spends(Ranks):
    def __init__(self, rows: Any) -> None:
        super().__init__(rows)
        self.spent = Counter[str]()

    def rank(self, row: MemoryRow) -> None:
        super().rank(row)
        row.rank += self.spent[row.message.fair_key]


class SpendsRanksOnKnownIds(_OtherRanks):
    """Ranks what it does not store."""

    ranks = _Spends
    _ranks: _Spends

    def _store(self, messages: Sequence[Message], *, may_raise: bool = True) -> list[str]:
        self._ranks.spent.update(message.fair_key for message in messages if message.id in self._rows)
        return super()._store(messages, may_raise=may_raise)


class RanksTheDelayed(MemoryDriver):
    """Ranks what is not due yet, which is due then."""

    def _store_one(self, message: Message, now: int) -> bool:
        return super()._store_one(replace(message, delay_s=0.0) if message.fair_key else message, now)


class _ByRankFirst(LevelTurns):
    def all_lines(self, queues: Iterable[str]) -> list[str]:
        return sorted(super().all_lines(queues), key=lambda line: not is_by_rank(line))


class RetriesBehindTheRanked(MemoryDriver):
    """Takes by time what is left when nobody waits by rank."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._levels = _ByRankFirst()


class ShowsRanks(MemoryDriver):
    """Shows as an instant what its lines are ordered by."""

    async def find(self, message_id: str) -> StoredMessage | None:
        found, row = await super().find(message_id), self._rows.get(message_id)
        return replace(found, visible_at=row.place / MICROSECONDS) if found and row else found


class ShowsRankedLines(MemoryDriver):
    """Names in a lease the line it was taken from."""

    def _lease(self, row: MemoryRow, until: int) -> Lease:
        line = row.line
        return replace(super()._lease(row, until), queue=line)


class DepthMissesTheRanked(MemoryDriver):
    """Counts the lines by time."""

    async def depth(self, queue: str) -> Depth:
        with self._lock:
            return depth_of([row for row in self._rows.values() if row.line in lines_of(queue)], self._now())


class DepthAgesByRank(MemoryDriver):
    """Takes a rank for the instant since when a message is visible."""

    async def depth(self, queue: str) -> Depth:
        depth = await super().depth(queue)
        ranks = [row.rank for row in self._rows.values() if row.rank and row.line in all_lines_of(queue)]
        return replace(depth, oldest_age_s=(self._now() - min(ranks)) / MICROSECONDS) if ranks else depth


class WaitsByTimeOnly(MemoryDriver):
    """Asks the lines by time when the next message is due."""

    def _first_due(self, queues: Iterable[str]) -> float:
        due = [row.visible_us for row in self._rows.values() if row.message.queue in queues and not row.rank]
        return min(due, default=float("inf"))


class FollowUpsHaveNoKeys(MemoryDriver):
    """Copies the fields of a follow-up that it knows."""

    def _follow(self, messages: Sequence[Message]) -> None:
        super()._follow([replace(message, fair_key="") for message in messages])


class RefusesKeysItClaims(MemoryDriver):
    """Claims fair keys, and has none."""

    def _check(self, messages: Iterable[Message]) -> None:
        super()._check(messages)
        if any(message.fair_key for message in messages):
            raise UnsupportedFeature("no fair keys here")


class TakesAnyKey(MemoryDriver):
    """Looks at no key."""

    def _check(self, messages: Iterable[Message]) -> None:
        super()._check([replace(message, fair_key="") for message in messages])


WRONG_FAIR: tuple[Wrong, ...] = tuple(
    Wrong(driver=driver, fails=test, in_programs=in_programs)
    for driver, test, in_programs in (
        (IgnoresKeys, "test_fair.test_keys_take_turns", True),
        (RanksByArrival, "test_fair.test_keys_take_turns", True),
        (BeginsBesideTheFirst, "test_fair.test_a_key_that_waits_does_not_starve", True),
        (RanksABatchAtOnce, "test_fair.test_a_batch_is_ranked_one_after_the_other", False),
        (KeepsRanksOfTheRemoved, "test_fair.test_what_was_removed_has_no_rank_any_more", False),
        (SpendsRanksOnKnownIds, "test_fair.test_an_id_that_lives_takes_no_rank", True),
        (RanksTheDelayed, "test_fair.test_a_delayed_message_waits_by_time", True),
        (RetriesBehindTheRanked, "test_fair.test_a_released_message_waits_by_time", True),
        (ShowsRanks, "test_fair_shown.test_a_rank_is_never_shown", False),
        (ShowsRankedLines, "test_fair_shown.test_a_lease_says_what_every_lease_says", True),
        (DepthMissesTheRanked, "test_fair_shown.test_depth_counts_who_waits_by_rank", True),
        (DepthAgesByRank, "test_fair_shown.test_depth_counts_who_waits_by_rank", False),
        (WaitsByTimeOnly, "test_fair.test_a_wait_ends_for_a_message_with_a_fair_key", False),
        (FollowUpsHaveNoKeys, "test_fair.test_follow_ups_are_ranked", True),
        (RefusesKeysItClaims, "test_fair.test_fair_keys_are_claimed_or_refused", False),
        (TakesAnyKey, "test_fair.test_what_is_no_fair_key_is_refused", False),
    )
)
