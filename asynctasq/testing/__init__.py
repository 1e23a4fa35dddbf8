"""Test tools for asynctasq and its users: the names in `__all__`, each imported when it is first used."""
# ruff: noqa: F403, F405 - most of what is exported here is all that its folder exports

import importlib
from typing import TYPE_CHECKING, Any

# pytest loads the plugin beside this file in every project, used or not: importing this package must cost little.
_NAMES_IN = {
    "clock": "VirtualClock",
    "engine.surroundings": "resources",
    "errors": "Deadlock LimitExceeded Livelock OtherLoopResource RealWorldAccess SimulationError",
    "fake_queue": "AttemptRecord Dispatched DrainResult FakeQueue History NestedFakeError NotIdle Performed Recording perform",  # noqa: E501
    "faults": "Crash Delay Duplicate ExpireLease FailAfter FailBefore Faults FaultyDriver Latency LoseReply SkewClock Stop",  # noqa: E501
    "real_runs": "Entry Kind Ledger Violation run_burst_worker",
    "real_queue": "RealQueue",
    "simulation": "Simulation SimulationFailed simulate",
    "simulation.state_machine": "QueueStateMachine",
}
if TYPE_CHECKING:
    from asynctasq.testing.clock import VirtualClock
    from asynctasq.testing.engine.surroundings import resources
    from asynctasq.testing.errors import *
    from asynctasq.testing.fake_queue import *
    from asynctasq.testing.faults import *
    from asynctasq.testing.real_queue import RealQueue
    from asynctasq.testing.real_runs import *
    from asynctasq.testing.simulation import Simulation, SimulationFailed, simulate
    from asynctasq.testing.simulation.state_machine import QueueStateMachine
else:

    def __getattr__(name: str) -> Any:
        module = next((module for module, names in _NAMES_IN.items() if name in names.split()), None)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        return value


# fmt: off
__all__ = ["AttemptRecord", "Crash", "Deadlock", "Delay", "Dispatched", "DrainResult", "Duplicate", "Entry", "ExpireLease", "FailAfter", "FailBefore", "FakeQueue", "Faults", "FaultyDriver", "History", "Kind", "Latency", "Ledger", "LimitExceeded", "Livelock", "LoseReply", "NestedFakeError", "NotIdle", "OtherLoopResource", "Performed", "QueueStateMachine", "RealQueue", "RealWorldAccess", "Recording", "Simulation", "SimulationError", "SimulationFailed", "SkewClock", "Stop", "Violation", "VirtualClock", "perform", "resources", "run_burst_worker", "simulate"]  # noqa: E501
# fmt: on
