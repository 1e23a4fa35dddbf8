"""Event loops in virtual time: a simulation's, and a test's own; use from outside only the names below."""

from asynctasq.testing.loop.limits import Limits
from asynctasq.testing.loop.loop import SimulationLoop
from asynctasq.testing.loop.running import asyncio_loop_for, running_simulation
from asynctasq.testing.loop.search import Search
from asynctasq.testing.loop.shared import SharedLoop

__all__ = ["Limits", "Search", "SharedLoop", "SimulationLoop", "asyncio_loop_for", "running_simulation"]
