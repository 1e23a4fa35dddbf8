"""The ranks of messages with fair keys in the memory driver; under its lock."""

import heapq
from collections import deque
from collections.abc import Mapping

from asynctasq.drivers.memory_driver.row import MemoryRow
from asynctasq.kernel.fairness import next_rank

__all__ = ["Ranks"]


class Ranks:
    """Who waits by rank. Whether a row still does follows from the row, so nothing has to take it out."""

    def __init__(self, rows: Mapping[str, MemoryRow]) -> None:
        self._rows = rows
        self._first: dict[str, list[tuple[int, int, MemoryRow]]] = {}
        self._of_keys: dict[str, dict[str, deque[MemoryRow]]] = {}

    def rank(self, row: MemoryRow) -> None:
        """Give a rank to a row that is new in the store."""
        line, key = row.line, row.message.fair_key
        first = self._first.setdefault(line, [])
        while first and not self._waits(first[0][2]):
            heapq.heappop(first)
        if not first:
            self._of_keys[line] = {}
        of_key = self._of_keys[line].setdefault(key, deque())
        while of_key and not self._waits(of_key[-1]):
            of_key.pop()
        while of_key and not self._waits(of_key[0]):
            of_key.popleft()
        row.rank = next_rank(first[0][0] if first else 0, of_key[-1].rank if of_key else 0)
        heapq.heappush(first, (row.rank, row.arrival, row))
        of_key.append(row)

    def _waits(self, row: MemoryRow) -> bool:
        return row.rank > 0 and self._rows.get(row.message.id) is row
