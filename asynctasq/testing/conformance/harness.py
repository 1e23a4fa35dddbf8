"""What a driver author writes to have a driver tested: how to make it, move its clock and disturb it."""

from typing import Any, Protocol

from asynctasq.drivers.base import Driver
from asynctasq.testing.servers import NotPossible

__all__ = ["CallersTransaction", "DriverHarness", "NotPossible"]


class CallersTransaction(Protocol):
    """A transaction that belongs to the caller, for drivers that claim `transactional`."""

    connection: Any
    """What the test passes to `enqueue_in` and `settle_in`."""

    async def commit(self) -> None:
        """Commit and close the connection."""
        ...

    async def rollback(self) -> None:
        """Roll back and close the connection."""
        ...


class DriverHarness(Protocol):
    """One empty, isolated store for one test; `--asynctasq-driver=mypkg:make_harness` names what returns one.

    The callable is synchronous and quick: it opens no connection, `create` and the driver's first call may.
    Any method may raise `NotPossible(reason)`; what needs it is then reported as unsupported, with the reason.
    """

    name: str
    pace: float = 1.0
    """Fraction of the usual number of messages that load tests use, for a slow backend: 0.05 for a twentieth."""

    async def prepare(self) -> None:
        """Make the store ready, once, before the first `create`: its database, its schema. Optional."""
        return

    def create(self) -> Driver:
        """Return a new driver on this store, as another process would have; opens nothing.

        Where `cross_process` is not claimed, return the same one again.
        """
        ...

    def advance(self, seconds: float) -> None:
        """Move the clock of every driver made by `create`, past and future ones, forward.

        Only called where `capabilities.clock_offset` is claimed.
        """
        ...

    def address(self) -> str:
        """Return the URL by which another process reaches the store, with its clock as it is now; "" if there is none.

        Optional; child processes of `real_queue` dispatch to it.
        """
        return ""

    async def break_connections(self) -> None:
        """Cut every connection to the server from the server's side. Do nothing where there is no server."""
        ...

    async def restart_server(self) -> None:
        """Stop and start the server, keeping what it promises to keep. Do nothing where there is no server."""
        ...

    async def begin(self) -> CallersTransaction:
        """Begin a transaction on a new connection that is not the driver's.

        Only called where `capabilities.transactional` is claimed.
        """
        raise NotPossible("this harness has no begin(), so `transactional` was not tested")

    async def clean_up(self) -> None:
        """Remove the store. The drivers were closed before."""
        ...
