"""What a driver author writes to have a driver tested: how to make it, move its clock and disturb it."""

from typing import Protocol

from asynctasq.drivers.base import Driver

__all__ = ["DriverHarness"]


class DriverHarness(Protocol):
    """One empty, isolated store for one test. `--driver=mypkg:make_harness` names a callable that returns one."""

    name: str

    def create(self) -> Driver:
        """Return a new driver on this store, as another process would have; opens nothing."""
        ...

    def advance(self, seconds: float) -> None:
        """Move the clock of every driver made by `create`, past and future ones, forward.

        Only called where `capabilities.clock_offset` is claimed.
        """
        ...

    async def break_connections(self) -> None:
        """Cut every connection to the server from the server's side. Do nothing where there is no server."""
        ...

    async def restart_server(self) -> None:
        """Stop and start the server, keeping what it promises to keep. Do nothing where there is no server."""
        ...

    async def clean_up(self) -> None:
        """Remove the store."""
        ...
