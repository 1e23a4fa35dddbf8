"""`@simulate`, its runs and reports; for outside: the names below, and `state_machine` beside Hypothesis."""

from asynctasq.testing.simulation.report import SimulationFailed
from asynctasq.testing.simulation.simulation import Simulation, explore, simulate

__all__ = ["Simulation", "SimulationFailed", "explore", "simulate"]
