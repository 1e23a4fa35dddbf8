"""What a simulation raises about itself, as opposed to what the code under test raises."""

from collections.abc import Sequence
from typing import Any

from asynctasq.errors import AsyncTasqError

__all__ = [
    "Deadlock",
    "LimitExceeded",
    "Livelock",
    "OtherLoopResource",
    "RealWorldAccess",
    "SimulationError",
    "TapeMismatch",
    "UnhandledErrors",
]


class SimulationError(AsyncTasqError):
    """A simulated run could not go on."""


class Deadlock(SimulationError):
    """Nothing is ready, no timer is set, and nothing outside is under way that could change it.

    The text says who awaits what.
    """


class Livelock(SimulationError):
    """Steps run and run while virtual time stands still; the text shows the part that repeats."""


class LimitExceeded(SimulationError):
    """The run took more virtual time or more steps than allowed."""


class RealWorldAccess(SimulationError):
    """The code under simulation asked the loop for sockets, signals, pipes or child processes."""


class OtherLoopResource(SimulationError):
    """A task used a pool, client or lock that belongs to another event loop than the one it runs on."""


class TapeMismatch(SimulationError):
    """A tape does not fit the run that reads it, or is not a tape."""


class UnhandledErrors(SimulationError):
    """The run ended well, yet errors went to the loop's exception handler; `contexts` holds them."""

    def __init__(self, message: str, contexts: Sequence[dict[str, Any]]) -> None:
        super().__init__(message)
        self.contexts = list(contexts)
