"""Where a driver keeps what waits in a queue: lines, each reserved as a queue is; names only, no I/O.

Each level of priority has a line by time, in the order of `visible_at`, and a line by rank, in which messages with fair
keys wait until they are first reserved: then they move to the line by time. The line by time of `normal` has the name
of the queue. The names of the others end in what no name of a queue can hold, so a store without such messages is as it
always was, and a message keeps its level for as long as it is stored.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from asynctasq.kernel.messages import Lease, Message
from asynctasq.kernel.priority import NORMAL, PRIORITIES, Priority, claim_order

__all__ = [
    "LINE_NAME_BYTES_MAX",
    "LevelTurns",
    "all_lines_of",
    "is_by_rank",
    "line_by_time",
    "line_of",
    "lines_of",
    "other_lines_between",
    "priority_in",
    "queue_in",
    "ranked_lines_of",
]

MARK: Final = "!"
BY_RANK: Final = ":"
"""What the name of a line by rank ends in, behind the mark and the first letter of the level."""
SUFFIXES: Final[dict[Priority, str]] = {"high": f"{MARK}h", "normal": "", "low": f"{MARK}l"}
RANKED_SUFFIXES: Final[dict[Priority, str]] = {level: f"{MARK}{level[0]}{BY_RANK}" for level in SUFFIXES}
LINE_NAME_BYTES_MAX: Final = 82
"""Of the lines by time; the drivers that keep lines by rank have room for any name."""


def line_of(message: Message) -> str:
    """Return the line in which a new message waits."""
    if message.fair_key and message.delay_s <= 0:
        return message.queue + RANKED_SUFFIXES[message.priority]
    return message.queue if message.priority == NORMAL else message.queue + SUFFIXES[message.priority]


def lines_of(queue: str) -> tuple[str, ...]:
    """Return the lines of a queue by time, in the order in which most claims take them; dead letters are only there."""
    return tuple(queue + suffix for suffix in SUFFIXES.values())


def ranked_lines_of(queue: str) -> tuple[str, ...]:
    """Return the lines of a queue by rank."""
    return tuple(queue + suffix for suffix in RANKED_SUFFIXES.values())


def all_lines_of(queue: str) -> tuple[str, ...]:
    """Return all lines of a queue."""
    return lines_of(queue) + ranked_lines_of(queue)


def is_by_rank(line: str) -> bool:
    """Say whether messages wait in this line by rank."""
    return line.endswith(BY_RANK) and MARK in line


def line_by_time(line: str) -> str:
    """Return the line to which messages of this one move when they are reserved: that of the level by time."""
    if not is_by_rank(line):
        return line
    return queue_in(line) + SUFFIXES[priority_in(line)]


def other_lines_between(queue: str) -> tuple[str, str]:
    """Return two texts between which, byte by byte, the names of the other lines of a queue lie, and no other names."""
    return queue + MARK, queue + chr(ord(MARK) + 1)


def queue_in(line: str) -> str:
    """Return the queue to which a line belongs."""
    return line if MARK not in line else line.partition(MARK)[0]


def priority_in(line: str) -> Priority:
    """Return the level of a line; what no driver has written is normal."""
    if MARK not in line:
        return NORMAL
    letter = line.partition(MARK)[2][:1]
    for level in PRIORITIES:
        if level[0] == letter:
            return level
    return NORMAL


@lru_cache(maxsize=4096)
def _lines_in(queue: str, order: tuple[Priority, ...], *, ranked_first: bool) -> tuple[str, ...]:
    """Return all lines of a queue, level by level in this order."""
    both = (RANKED_SUFFIXES, SUFFIXES) if ranked_first else (SUFFIXES, RANKED_SUFFIXES)
    return tuple(queue + suffixes[level] for level in order for suffixes in both)


class LevelTurns:
    """Counts the claims that took something, queue by queue, for one instance of a driver."""

    __slots__ = ("_claims",)

    def __init__(self) -> None:
        self._claims: dict[str, int] = {}

    def lines(self, queues: Iterable[str]) -> list[str]:
        """Return the lines by time of the next claim in their order; a queue named twice has them once."""
        count = self._claims.get
        return [queue + SUFFIXES[level] for queue in dict.fromkeys(queues) for level in claim_order(count(queue, 0))]

    def all_lines(self, queues: Iterable[str]) -> list[str]:
        """Return all lines of the next claim in their order: of each level both, by turns this or that one first."""
        found: list[str] = []
        for queue in dict.fromkeys(queues):
            claims = self._claims.get(queue, 0)
            found += _lines_in(queue, claim_order(claims), ranked_first=bool(claims % 2))
        return found

    def note(self, leases: Sequence[Lease]) -> None:
        """Note what a claim took."""
        for queue in {lease.queue for lease in leases}:
            self._claims[queue] = self._claims.get(queue, 0) + 1
