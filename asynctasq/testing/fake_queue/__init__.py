"""FakeQueue and its records; use from outside only the names below."""

from asynctasq.testing.fake_queue.draining import DrainResult, NotIdle
from asynctasq.testing.fake_queue.expectation import Dispatched
from asynctasq.testing.fake_queue.fake_queue import FakeQueue, NestedFakeError
from asynctasq.testing.fake_queue.history import AttemptRecord, History
from asynctasq.testing.fake_queue.perform_alone import perform
from asynctasq.testing.fake_queue.performed import Performed
from asynctasq.testing.fake_queue.recording import Recording

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
    "perform",
]
