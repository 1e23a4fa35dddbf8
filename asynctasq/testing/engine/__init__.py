"""Runs the real worker on a store in memory, in virtual time; use from outside only the names below."""

from asynctasq.testing.engine.engine import Engine
from asynctasq.testing.engine.options import EngineOptions, OnRefusal
from asynctasq.testing.engine.surroundings import Surroundings

__all__ = ["Engine", "EngineOptions", "OnRefusal", "Surroundings"]
