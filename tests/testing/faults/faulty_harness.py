"""The memory driver behind a FaultyDriver that does nothing wrong: it must pass what the memory driver passes."""

from asynctasq.drivers.base import Driver
from asynctasq.testing import FaultyDriver
from asynctasq.testing.conformance.harnesses.memory import MemoryHarness


class FaultyHarness(MemoryHarness):
    name = "faulty memory"

    def create(self) -> Driver:
        return FaultyDriver(super().create(), ())


def make_harness() -> FaultyHarness:
    return FaultyHarness()
