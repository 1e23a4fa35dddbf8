"""What an engine is told about its workers, and what it asks of those who inject faults into them."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from asynctasq.clock import Clock
from asynctasq.core.schedule_messages import ScheduledTask
from asynctasq.drivers.base import Driver, Settlements
from asynctasq.kernel.ledger import Entry
from asynctasq.testing.clock import EPOCH
from asynctasq.testing.engine.surroundings import Surroundings
from asynctasq.testing.loop import Search

__all__ = ["EngineOptions", "FaultHooks", "OnRefusal"]

OnRefusal = Literal["fail_test", "raise_in_task"]
"""What becomes of what a test tool refuses to a task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How many workers, and what they are like. `queues` None means all, in order of their first message."""

    workers: int = 1
    concurrency: int = 10
    queues: str | None = None
    search: Search = "fifo"
    real_executors: bool = False
    lease_s: float = 30.0
    shutdown_timeout_s: float = 30.0
    real_s_max: float = 60.0
    on_refusal: OnRefusal = "fail_test"
    start: datetime = EPOCH
    schedules: tuple[ScheduledTask, ...] = ()
    """Which schedules the workers keep going."""
    schedule_check_s: float = 86_400.0
    """How often they look after them: seldom, since nobody deploys in a test, and each look is a step of it."""
    surroundings: Surroundings = field(default_factory=Surroundings)
    chooses: str = ""
    """What was asked for that needs a simulation's loop, which chooses what runs next."""

    def check_needs_no_simulation(self) -> None:
        """Raise ValueError for what only the loop of a simulation can do: choose schedules, and faults by chance."""
        if self.chooses:
            raise ValueError(
                f"FakeQueue({self.chooses}) needs the loop of a simulation, which chooses what runs next; on a test's "
                "own loop asyncio does. Use @simulate, or `with FakeQueue(...)` in a test that is not async; faults by "
                "hand, such as Crash(at='before_settle'), work here"
            )


class FaultHooks(Protocol):
    """What injects faults into workers and their calls."""

    def driver(self, worker: str) -> Driver:
        """Return the store as this worker is to see it."""
        ...

    def clock(self, worker: str) -> Clock:
        """Return the clock as this worker is to see it."""
        ...

    def record_entry(self, worker: str, entry: Entry) -> None:
        """Record what a worker reports; may kill the worker, also by raising WorkerKilled."""
        ...

    def record_settled(self, worker: str, settlements: Settlements, lost: AbstractSet[str]) -> None:
        """Record what was settled without the worker's faulty driver."""
        ...

    def restart_delay_s(self) -> float:
        """Return how long it takes to replace a worker that has ended."""
        ...

    def stop(self) -> None:
        """Let no fault happen any more."""
        ...
