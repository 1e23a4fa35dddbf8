"""The levels of priority inside a queue, and which of them a reserve begins with; pure."""

from typing import Final, Literal

from asynctasq.errors import DispatchError

__all__ = ["NORMAL", "PRIORITIES", "Priority", "check_priority", "claim_order"]

Priority = Literal["low", "normal", "high"]
NORMAL: Final[Priority] = "normal"
PRIORITIES: Final[tuple[Priority, ...]] = ("high", "normal", "low")
"""In the order in which they are reserved."""

CYCLE: Final = 20
ORDERS: Final[dict[int, tuple[Priority, ...]]] = {
    CYCLE // 2 - 1: ("normal", "high", "low"),
    CYCLE - 1: ("low", "high", "normal"),
}


def claim_order(claims: int) -> tuple[Priority, ...]:
    """Return the order of the levels in the next claim of a queue, after so many claims that took something from it.

    Of twenty claims the tenth begins with `normal` and the twentieth with `low`, so that no level waits for ever.
    """
    return ORDERS.get(claims % CYCLE, PRIORITIES)


def check_priority(value: object) -> Priority:
    """Return a message's priority; raise DispatchError if it is none."""
    for level in PRIORITIES:
        if value == level:
            return level
    raise DispatchError(f"priority must be one of {', '.join(reversed(PRIORITIES))}, not {value!r:.200}")
