"""The named points of a worker and its driver at which a fault can happen."""

from typing import Final

__all__ = [
    "AFTER_POINTS",
    "BEFORE_POINTS",
    "CALLS",
    "CALL_POINTS",
    "CHANCES",
    "CRASH_POINTS",
    "SIMULATED_POINTS",
    "STEP_POINTS",
]

CALLS: Final = ("enqueue", "reserve", "extend", "settle", "turn", "wait", "cancel")
"""The calls of a worker, and of its tasks.

`turn` is also a `settle` if it settles anything, and a `reserve` if it may take anything.
"""

CALL_POINTS: Final = frozenset(CALLS)
BEFORE_POINTS: Final = frozenset(f"{call}:before" for call in CALLS)
AFTER_POINTS: Final = frozenset(f"{call}:after" for call in CALLS)

STEP_POINTS: Final = frozenset({"before_start", "mid_attempt", "before_settle"})
"""In an attempt: before user code runs, while it awaits, when it has ended and nothing is settled yet."""

CRASH_POINTS: Final = (
    BEFORE_POINTS
    | AFTER_POINTS
    | STEP_POINTS
    | {
        "after_reserve",  # the store has given a lease, the worker has not begun with it
        "after_settle",  # the settlement took effect, the worker does not know yet
        "in_hand_back",  # about to hand a message back unfinished
        "in_failed_hook",  # about to call `failed`
        "during_shutdown",  # any call of a worker that was asked to stop
    }
)

SIMULATED_POINTS: Final = STEP_POINTS | {"in_failed_hook", "during_shutdown"}
"""No driver call reveals these: only a simulation knows when a worker reaches them."""

CHANCES: Final[dict[str, tuple[str, ...]]] = {
    "before": ("crash", "fail_before"),
    "after": ("crash", "fail_after", "lost_reply"),
    "before_start": ("crash", "lease_expiry"),
    "mid_attempt": ("crash", "duplicate", "lease_expiry", "stop"),
    "before_settle": ("crash", "lease_expiry", "stop"),
    "in_failed_hook": ("crash",),
}
"""Which kinds can happen where by chance; after them comes latency, at the calls."""
