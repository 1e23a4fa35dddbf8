"""Where dispatches go in a test that opened no FakeQueue, when these are to be faked: recorded, never run."""

from asynctasq.testing.engine import Engine, EngineOptions
from asynctasq.testing.fake_queue.dispatcher import FakeDispatcher, Filter
from asynctasq.testing.fake_queue.recording import Recording, listed
from asynctasq.testing.tape import Tape

__all__ = ["ImplicitFake"]


class ImplicitFake(Recording):
    """A recording that belongs to no context: code of every thread dispatches to it."""

    def __init__(self) -> None:
        super().__init__()
        self._engine = Engine(EngineOptions(), tape=Tape(0))
        self.dispatcher = FakeDispatcher(self._engine, Filter(None, ()), self._add)

    def _look(self) -> None:
        self._engine.transactions.refresh()

    def text(self) -> str:
        """Return what was dispatched, a line each."""
        return listed(self.dispatched()).strip("\n")

    def close(self) -> None:
        """Leave the connections that dispatches were made on as they were."""
        self._engine.close()
