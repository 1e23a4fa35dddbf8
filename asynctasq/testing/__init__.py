"""Test tools for asynctasq and its users: the names in `__all__`, each imported when it is first used."""
# ruff: noqa: F403, F405 - the folder `fake_queue` exports exactly what is exported here

import importlib
from typing import TYPE_CHECKING, Any

# pytest loads the plugin beside this file in every project, used or not: importing this package must cost little.
_NAMES_IN = {
    "clock": "VirtualClock",
    "errors": "Deadlock LimitExceeded Livelock OtherLoopResource RealWorldAccess SimulationError",
    "fake_queue": "AttemptRecord Dispatched DrainResult FakeQueue History NestedFakeError NotIdle Performed Recording "
    "perform",
    "faults": "Crash Delay Duplicate ExpireLease FailAfter FailBefore FaultyDriver",
    "faults.kinds": "Faults Latency LoseReply SkewClock Stop",
    "real_queue": "RealQueue",
    "simulation": "Simulation SimulationFailed simulate",
    "simulation.state_machine": "QueueStateMachine",
}

if TYPE_CHECKING:
    from asynctasq.testing.clock import VirtualClock
    from asynctasq.testing.errors import (
        Deadlock,
        LimitExceeded,
        Livelock,
        OtherLoopResource,
        RealWorldAccess,
        SimulationError,
    )
    from asynctasq.testing.fake_queue import *
    from asynctasq.testing.faults import Crash, Delay, Duplicate, ExpireLease, FailAfter, FailBefore, FaultyDriver
    from asynctasq.testing.faults.kinds import Faults, Latency, LoseReply, SkewClock, Stop
    from asynctasq.testing.real_queue import RealQueue
    from asynctasq.testing.simulation import Simulation, SimulationFailed, simulate
    from asynctasq.testing.simulation.state_machine import QueueStateMachine
else:

    def __getattr__(name: str) -> Any:
        module = next((module for module, names in _NAMES_IN.items() if name in names.split()), None)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        return value


__all__ = [
    "AttemptRecord", "Crash", "Deadlock", "Delay", "Dispatched", "DrainResult", "Duplicate", "ExpireLease",
    "FailAfter", "FailBefore", "FakeQueue", "Faults", "FaultyDriver", "History", "Latency", "LimitExceeded",
    "Livelock", "LoseReply", "NestedFakeError", "NotIdle", "OtherLoopResource", "Performed",
    "QueueStateMachine", "RealQueue", "RealWorldAccess", "Recording", "Simulation", "SimulationError",
    "SimulationFailed", "SkewClock", "Stop", "VirtualClock", "perform", "simulate",
]  # fmt: skip
