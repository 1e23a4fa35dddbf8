"""Faults by chance and by hand, and the driver they happen to; use from outside only the names below."""

from asynctasq.testing.faults.faulty_driver import FaultyDriver
from asynctasq.testing.faults.kinds import (
    Crash,
    Delay,
    DirectedFault,
    Duplicate,
    ExpireLease,
    FailAfter,
    FailBefore,
    FaultChoice,
    Faults,
    Latency,
    LoseReply,
    PointFault,
    SkewClock,
    Stop,
)
from asynctasq.testing.faults.plan import FaultPlan

__all__ = [
    "Crash",
    "Delay",
    "DirectedFault",
    "Duplicate",
    "ExpireLease",
    "FailAfter",
    "FailBefore",
    "FaultChoice",
    "FaultPlan",
    "Faults",
    "FaultyDriver",
    "Latency",
    "LoseReply",
    "PointFault",
    "SkewClock",
    "Stop",
]
