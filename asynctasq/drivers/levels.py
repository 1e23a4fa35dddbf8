"""Where a driver keeps a queue's levels of priority: each is a line of its own, reserved as a queue is; no I/O.

The line of `normal` has the name of the queue. The names of the others end in what no name of a queue can hold, so a
store without such messages is as it always was, and a message keeps its level for as long as it is stored.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from asynctasq.kernel.messages import Lease, Message
from asynctasq.kernel.priority import NORMAL, PRIORITIES, Priority, claim_order

__all__ = ["LINE_NAME_BYTES_MAX", "LevelTurns", "line_of", "lines_of", "other_lines_between", "priority_in", "queue_in"]

MARK: Final = "!"
SUFFIXES: Final[dict[Priority, str]] = {"high": f"{MARK}h", "normal": "", "low": f"{MARK}l"}
LINE_NAME_BYTES_MAX: Final = 82


def line_of(message: Message) -> str:
    """Return the line in which a message is stored."""
    return message.queue if message.priority == NORMAL else message.queue + SUFFIXES[message.priority]


def lines_of(queue: str) -> tuple[str, ...]:
    """Return all lines of a queue, in the order in which most claims take them."""
    return tuple(queue + suffix for suffix in SUFFIXES.values())


def other_lines_between(queue: str) -> tuple[str, str]:
    """Return two texts between which the names of the other levels' lines lie, byte by byte, and no other names."""
    return queue + MARK, queue + chr(ord(MARK) + 1)


def queue_in(line: str) -> str:
    """Return the queue to which a line belongs."""
    return line if MARK not in line else line.partition(MARK)[0]


def priority_in(line: str) -> Priority:
    """Return the level of a line; what no driver has written is normal."""
    if MARK not in line:
        return NORMAL
    for level in PRIORITIES:
        if level != NORMAL and line.endswith(SUFFIXES[level]):
            return level
    return NORMAL


class LevelTurns:
    """Counts the claims that took something, queue by queue, for one instance of a driver."""

    __slots__ = ("_claims",)

    def __init__(self) -> None:
        self._claims: dict[str, int] = {}

    def lines(self, queues: Iterable[str]) -> list[str]:
        """Return the lines of the next claim in their order; a queue named twice has them once."""
        count = self._claims.get
        return [queue + SUFFIXES[level] for queue in dict.fromkeys(queues) for level in claim_order(count(queue, 0))]

    def note(self, leases: Sequence[Lease]) -> None:
        """Note what a claim took."""
        for queue in {lease.queue for lease in leases}:
            self._claims[queue] = self._claims.get(queue, 0) + 1
