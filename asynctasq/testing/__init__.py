"""Floor 4: what tests of asynctasq and of its users need.

Its names are imported when first used: pytest loads the plugin beside this file in every project, used or not.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynctasq.testing.clock import VirtualClock as VirtualClock
    from asynctasq.testing.fake_queue import AttemptRecord as AttemptRecord
    from asynctasq.testing.fake_queue import Dispatched as Dispatched
    from asynctasq.testing.fake_queue import DrainResult as DrainResult
    from asynctasq.testing.fake_queue import FakeQueue as FakeQueue
    from asynctasq.testing.fake_queue import History as History
    from asynctasq.testing.fake_queue import NestedFakeError as NestedFakeError
    from asynctasq.testing.fake_queue import NotIdle as NotIdle
    from asynctasq.testing.fake_queue import Performed as Performed
    from asynctasq.testing.fake_queue import Recording as Recording

_LAZY = {
    "AttemptRecord": "asynctasq.testing.fake_queue",
    "Dispatched": "asynctasq.testing.fake_queue",
    "DrainResult": "asynctasq.testing.fake_queue",
    "FakeQueue": "asynctasq.testing.fake_queue",
    "History": "asynctasq.testing.fake_queue",
    "NestedFakeError": "asynctasq.testing.fake_queue",
    "NotIdle": "asynctasq.testing.fake_queue",
    "Performed": "asynctasq.testing.fake_queue",
    "Recording": "asynctasq.testing.fake_queue",
    "VirtualClock": "asynctasq.testing.clock",
}

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


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'asynctasq.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
