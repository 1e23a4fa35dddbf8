"""The harness of the memory driver, the first row of the matrix; also the example to start from."""

from dataclasses import replace

from asynctasq.drivers.base import Driver
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.testing.conformance.harness import DriverHarness
from asynctasq.testing.servers import Servers

__all__ = ["MemoryHarness", "make_harness"]

BODY_BYTES_MAX = 4 * 1024 * 1024
"""The memory driver has a limit only if it is given one; this one is given, so that limits are tested."""


class MemoryHarness(DriverHarness):
    """One memory driver: its messages live in the instance, so `create` returns the same one again."""

    name = "memory"

    def __init__(self) -> None:
        self._driver = MemoryDriver(body_bytes_max=BODY_BYTES_MAX)
        self._driver.capabilities = replace(self._driver.capabilities, body_bytes_max=BODY_BYTES_MAX)

    def create(self) -> Driver:
        return self._driver

    def advance(self, seconds: float) -> None:
        self._driver.clock_offset += seconds

    async def break_connections(self) -> None:
        """Do nothing: there is no connection."""

    async def restart_server(self) -> None:
        """Do nothing: there is no server."""

    async def clean_up(self) -> None:
        """Do nothing: the messages end with the driver."""


def make_harness(servers: Servers) -> DriverHarness:  # noqa: ARG001 - needs no server
    """Return an empty memory store."""
    return MemoryHarness()
