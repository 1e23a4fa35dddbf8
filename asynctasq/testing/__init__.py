"""Floor 4: what tests of asynctasq and of its users need. Importing it imports neither pytest nor hypothesis."""

from asynctasq.testing.clock import VirtualClock
from asynctasq.testing.fake_queue import (
    AttemptRecord,
    Dispatched,
    DrainResult,
    FakeQueue,
    History,
    NestedFakeError,
    NotIdle,
    Performed,
    Recording,
)

__all__ = [
    "AttemptRecord",
    "Dispatched",
    "DrainResult",
    "FakeQueue",
    "History",
    "NestedFakeError",
    "NotIdle",
    "Performed",
    "Recording",
    "VirtualClock",
]
