"""Which of the ready task steps runs next: first in line, any, or by priorities that change now and then."""

from collections.abc import Sequence
from typing import Final, Literal, Protocol, TypeAlias, get_args

from asynctasq.tasks.options import one_of
from asynctasq.testing.tape import Tape

__all__ = ["SCHEDULING", "Fifo", "PriorityBased", "RandomOrder", "Scheduler", "Search", "make_scheduler"]

Search: TypeAlias = Literal["fifo", "random", "pct", "mix"]

SCHEDULING: Final = frozenset({"search", "schedule", "pct.rate", "pct.rank", "pct.change"})
"""The labels under which schedulers draw; all zero means first come, first served."""

_PRIORITIES: Final = 16
_CHANGE_RATES: Final = (1 / 8, 1 / 32, 1 / 4, 1 / 128)
_CONSECUTIVE_STEPS_MAX: Final = 64


class Scheduler(Protocol):
    """Chooses among task steps that are ready."""

    def choose(self, tasks: Sequence[int]) -> int:
        """Return an index into `tasks`: the numbers of two or more ready tasks, longest ready first."""
        ...


class Fifo:
    """First come, first served, as asyncio does it."""

    def choose(self, tasks: Sequence[int]) -> int:  # noqa: ARG002 - the protocol's signature
        return 0


class RandomOrder:
    """Any ready step, each as likely as the next."""

    def __init__(self, tape: Tape) -> None:
        self._draw = tape.draw

    def choose(self, tasks: Sequence[int]) -> int:
        return self._draw("schedule", len(tasks))


class PriorityBased:
    """Always the most urgent task, which makes others wait long: what a rare race needs, and chance seldom gives.

    Every task draws how little urgent it is; at random points the task about to run becomes the least
    urgent of all. 0 is "urgent" and "no change", so that a zeroed tape is first come, first served.
    Source: Burckhardt et al., A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs, 2010.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._change_rate = _CHANGE_RATES[tape.draw("pct.rate", len(_CHANGE_RATES))]
        self._ranks: dict[int, int] = {}
        self._least_urgent = _PRIORITIES
        self._last = -1
        self._consecutive_steps = 0

    def choose(self, tasks: Sequence[int]) -> int:
        index = self._most_urgent(tasks)
        if self._tape.chance("pct.change", self._change_rate) or self._starves_others(tasks[index]):
            self._least_urgent += 1
            self._ranks[tasks[index]] = self._least_urgent
            index = self._most_urgent(tasks)
        return index

    def _most_urgent(self, tasks: Sequence[int]) -> int:
        ranks = self._ranks
        best, best_rank = 0, -1
        for index, task in enumerate(tasks):
            rank = ranks.get(task)
            if rank is None:
                rank = ranks[task] = self._tape.draw("pct.rank", _PRIORITIES)
            if best_rank < 0 or rank < best_rank:
                best, best_rank = index, rank
        return best

    def _starves_others(self, task: int) -> bool:
        """Tell a task that yields in a loop while it waits for a less urgent one, which would never run."""
        if task != self._last:
            self._last, self._consecutive_steps = task, 0
        self._consecutive_steps += 1
        if self._consecutive_steps <= _CONSECUTIVE_STEPS_MAX:
            return False
        self._consecutive_steps = 0
        return True


def make_scheduler(search: Search, tape: Tape) -> Scheduler | None:
    """Return the scheduler of that name; None is first come, first served, which needs none.

    "mix" draws which: 1 in 5 fifo, 2 in 5 random, 2 in 5 by priority.
    """
    one_of(search, "search", get_args(Search))
    if search == "mix":
        search = ("fifo", "random", "pct", "random", "pct")[tape.draw("search", 5)]
    match search:
        case "random":
            return RandomOrder(tape)
        case "pct":
            return PriorityBased(tape)
        case _:
            return None
