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
    from asynctasq.testing.faults import Crash as Crash
    from asynctasq.testing.faults import Delay as Delay
    from asynctasq.testing.faults import Duplicate as Duplicate
    from asynctasq.testing.faults import ExpireLease as ExpireLease
    from asynctasq.testing.faults import FailAfter as FailAfter
    from asynctasq.testing.faults import FailBefore as FailBefore
    from asynctasq.testing.faults import Faults as Faults
    from asynctasq.testing.faults import FaultyDriver as FaultyDriver
    from asynctasq.testing.faults import Latency as Latency
    from asynctasq.testing.faults import LoseReply as LoseReply
    from asynctasq.testing.faults import SkewClock as SkewClock
    from asynctasq.testing.faults import Stop as Stop
    from asynctasq.testing.simulation import Simulation as Simulation
    from asynctasq.testing.simulation import SimulationFailed as SimulationFailed
    from asynctasq.testing.simulation import simulate as simulate
    from asynctasq.testing.simulation.state_machine import QueueStateMachine as QueueStateMachine

_LAZY = {
    "AttemptRecord": "asynctasq.testing.fake_queue",
    "Crash": "asynctasq.testing.faults",
    "Delay": "asynctasq.testing.faults",
    "Dispatched": "asynctasq.testing.fake_queue",
    "DrainResult": "asynctasq.testing.fake_queue",
    "Duplicate": "asynctasq.testing.faults",
    "ExpireLease": "asynctasq.testing.faults",
    "FailAfter": "asynctasq.testing.faults",
    "FailBefore": "asynctasq.testing.faults",
    "FakeQueue": "asynctasq.testing.fake_queue",
    "Faults": "asynctasq.testing.faults",
    "FaultyDriver": "asynctasq.testing.faults.faulty_driver",
    "History": "asynctasq.testing.fake_queue",
    "Latency": "asynctasq.testing.faults",
    "LoseReply": "asynctasq.testing.faults",
    "NestedFakeError": "asynctasq.testing.fake_queue",
    "NotIdle": "asynctasq.testing.fake_queue",
    "Performed": "asynctasq.testing.fake_queue",
    "QueueStateMachine": "asynctasq.testing.simulation.state_machine",
    "Recording": "asynctasq.testing.fake_queue",
    "Simulation": "asynctasq.testing.simulation",
    "SimulationFailed": "asynctasq.testing.simulation",
    "SkewClock": "asynctasq.testing.faults",
    "Stop": "asynctasq.testing.faults",
    "VirtualClock": "asynctasq.testing.clock",
    "simulate": "asynctasq.testing.simulation",
}

__all__ = [
    "AttemptRecord",
    "Crash",
    "Delay",
    "Dispatched",
    "DrainResult",
    "Duplicate",
    "ExpireLease",
    "FailAfter",
    "FailBefore",
    "FakeQueue",
    "Faults",
    "FaultyDriver",
    "History",
    "Latency",
    "LoseReply",
    "NestedFakeError",
    "NotIdle",
    "Performed",
    "QueueStateMachine",
    "Recording",
    "Simulation",
    "SimulationFailed",
    "SkewClock",
    "Stop",
    "VirtualClock",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'asynctasq.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
