"""`@simulate`, its runs and reports; use from outside the names below, and `state_machine`, which needs Hypothesis."""

from asynctasq.testing.simulation.report import SimulationFailed
from asynctasq.testing.simulation.simulation import Simulation, explore, simulate

__all__ = ["Simulation", "SimulationFailed", "explore", "simulate"]
