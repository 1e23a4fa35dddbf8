"""Event loops in virtual time: a simulation's, and a test's own; use from outside only the names below."""

from asynctasq.testing.loop.limits import Limits
from asynctasq.testing.loop.loop import SimulationLoop
from asynctasq.testing.loop.search import Search
from asynctasq.testing.loop.shared import SharedLoop, asyncio_loop_for

__all__ = ["Limits", "Search", "SharedLoop", "SimulationLoop", "asyncio_loop_for"]
