"""What a RealQueue is given: an empty store of a driver; and what dispatches to it alone."""

from typing import Protocol

from asynctasq.drivers.base import Driver
from asynctasq.queue import Queue
from asynctasq.tasks.definition import TaskDefinition

__all__ = ["OneDriverQueue", "Store"]


class Store(Protocol):
    """An empty, private store of a driver, as a `DriverHarness` is one. `prepare` and `address` are optional."""

    def create(self) -> Driver:
        """Return a driver on the store; opens nothing."""
        ...

    def advance(self, seconds: float) -> None:
        """Move the clock of its drivers forward."""
        ...

    async def clean_up(self) -> None:
        """Remove the store."""
        ...


class OneDriverQueue(Queue):
    """Dispatches every task to one driver, whatever its class names."""

    def _driver(self, definition: TaskDefinition) -> Driver:
        del definition
        return self.driver
