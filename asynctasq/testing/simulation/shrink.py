"""Makes a failing run simple: fewer decisions that differ from the simplest choice, by zeroing and deleting entries."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from asynctasq.testing.loop.search import SCHEDULING
from asynctasq.testing.tape import Entry

__all__ = ["Shrunk", "shrink"]

REAL_NUMBER = 1 << 53
"""A draw of so many choices is one of a number from 0 to 1."""

EXTRA_PLACES = 8
"""So many more places of each kind are tried than the failing run had: another schedule may reach them."""

RELOCATIONS_MAX = 200
"""So many of them are tried at a time."""

WORKER = re.compile(r"^w\d+ ")

StillFails: TypeAlias = Callable[[Sequence[Entry]], Sequence[Entry] | None]
"""Runs with `Tape.replay(entries, strict=False)`; returns what that tape drew if the same failure came, else None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """The simplest failing tape that was found, after `runs` runs; `complete` unless the runs ran out."""

    entries: tuple[Entry, ...]
    runs: int
    complete: bool

    @property
    def decisions(self) -> list[Entry]:
        """The entries that are not the simplest choice."""
        return [entry for entry in self.entries if entry[2]]


def shrink(entries: Sequence[Entry], still_fails: StillFails, *, runs_max: int = 2_000) -> Shrunk:
    """Simplify a failing tape until no zeroing, deleting or lowering of an entry keeps the failure.

    Simpler is: fewer decisions, then smaller ones, then a shorter tape. The result has been seen failing.
    """
    shrinker = _Shrinker(tuple(entries), still_fails, runs_max)
    complete = False
    try:
        while not complete:
            before = shrinker.cost
            for attempt in (
                shrinker.zero,
                shrinker.zero_labels,
                shrinker.delete,
                shrinker.lower,
                shrinker.try_without_schedule,
            ):
                attempt()
            complete = shrinker.cost == before
    except _RunsUsedUp:
        pass
    return Shrunk(entries=shrinker.best, runs=shrinker.runs, complete=complete)


class _RunsUsedUp(Exception):
    """The budget is spent; the best tape so far is the result."""


def _trimmed(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Drop zeros from the end: a loose replay fills them in."""
    end = len(entries)
    while end and not entries[end - 1][2]:
        end -= 1
    return tuple(entries[:end])


def _cost_of(entries: Sequence[Entry]) -> tuple[int, int, int]:
    values = [value for _, _, value in entries if value]
    return len(values), sum(values), len(entries)


def _point(label: str) -> str:
    """Return a label without the name of the worker that drew under it."""
    return WORKER.sub("", label)


def _with_one_relocated(entries: tuple[Entry, ...], index: int) -> Iterator[tuple[Entry, ...]]:
    """Yield the entries with one decision moved to every other place of its kind, and to some later ones."""
    label, n, value = entries[index]
    same_kind = {entry[0]: None for entry in entries if entry[1] == n and _point(entry[0]) == _point(label)}
    places = [*entries, *((name, n, 0) for name in same_kind for _ in range(EXTRA_PLACES))]
    places[index] = (label, n, 0)
    for place, (name, of, taken) in enumerate(places):
        if place != index and name in same_kind and of == n and not taken:
            yield (*places[:place], (name, n, value), *places[place + 1 :])


class _Shrinker:
    def __init__(self, entries: tuple[Entry, ...], still_fails: StillFails, runs_max: int) -> None:
        self.best = _trimmed(entries)
        self._drawn = entries  # the best one's, with the zeros at its end
        self.cost = _cost_of(self.best)
        self.runs = 0
        self._still_fails = still_fails
        self._runs_max = runs_max
        self._tried: set[tuple[Entry, ...]] = set()

    def zero_labels(self) -> None:
        """Zero all decisions of one label: where each of them needs the others, zeroing one at a time gets nowhere."""
        for label in sorted({label for label, _, value in self.best if value}):
            self._try(self._zeroed({index for index, entry in enumerate(self.best) if entry[0] == label}))

    def zero(self) -> None:
        """Zero blocks of decisions, large ones first."""
        self._by_blocks(self._zeroed)

    def try_without_schedule(self) -> None:
        """Run first come, first served, with one other decision at another moment, or in another worker.

        The failure often needs no particular schedule: it was only found under one.
        """
        scheduled = {index for index, (label, _, value) in enumerate(self.best) if value and label in SCHEDULING}
        if scheduled:
            straight = (*self._zeroed(scheduled), *self._drawn[len(self.best) :])
            decisions = [index for index, entry in enumerate(straight) if entry[2]]
            relocated = (candidate for index in decisions for candidate in _with_one_relocated(straight, index))
            any(self._try(candidate) for candidate in islice(relocated, RELOCATIONS_MAX))

    def delete(self) -> None:
        """Delete blocks of decisions: what comes later under the same label moves up."""
        self._by_blocks(self._without)

    def lower(self) -> None:
        """Replace single values by 1, by half, by one less; of numbers from 0 to 1 none is simpler than another."""
        index = 0
        while index < len(self.best):
            label, n, value = self.best[index]
            for lower in sorted({1, value // 2, value - 1} - {0}) if n < REAL_NUMBER else ():
                if lower < value and self._try((*self.best[:index], (label, n, lower), *self.best[index + 1 :])):
                    break
            else:
                index += 1

    def _by_blocks(self, change: Callable[[set[int]], tuple[Entry, ...]]) -> None:
        """Change blocks of decisions, all at once, by halves, by quarters ... down to single ones."""
        size = len(self._decided())
        while size:
            start = 0
            while block := self._decided()[start : start + size]:
                if not self._try(change(set(block))):
                    start += size
            size //= 2

    def _decided(self) -> list[int]:
        return [index for index, entry in enumerate(self.best) if entry[2]]

    def _zeroed(self, places: set[int]) -> tuple[Entry, ...]:
        return tuple((*entry[:2], 0) if index in places else entry for index, entry in enumerate(self.best))

    def _without(self, places: set[int]) -> tuple[Entry, ...]:
        return tuple(entry for index, entry in enumerate(self.best) if index not in places)

    def _try(self, candidate: tuple[Entry, ...]) -> bool:
        """Keep the candidate if it fails too and what it really drew is simpler."""
        candidate = _trimmed(candidate)
        if candidate in self._tried or _cost_of(candidate) >= self.cost:
            return False
        self._tried.add(candidate)
        if self.runs >= self._runs_max:
            raise _RunsUsedUp
        self.runs += 1
        recorded = self._still_fails(candidate)
        if recorded is None:
            return False
        best = _trimmed(recorded)
        cost = _cost_of(best)
        if cost >= self.cost:
            return False
        self.best, self.cost, self._drawn = best, cost, tuple(recorded)
        return True
