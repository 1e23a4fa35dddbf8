"""Workers on real drivers in real time, and the ledger of what they do; a test judges it as a simulation is judged."""

from collections.abc import Collection, Iterable, Sequence

from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Driver
from asynctasq.kernel.ledger import Entry, Kind, Violation, check, timeline

__all__ = ["Entry", "Kind", "Ledger", "Violation", "run_burst_worker"]


class Ledger:
    """What happened to messages, entry by entry, in the order in which it was noted."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries = list(entries)

    def record(self, entry: Entry) -> None:
        """Add an entry."""
        self.entries.append(entry)

    def violations(self, *, alive: Collection[str] = (), tolerance_s: float = 0.0) -> list[Violation]:
        """Return what the invariants find wrong with a finished run; an empty list if nothing is.

        `alive` are the ids that the driver still holds. `tolerance_s` allows for clocks that differ.
        """
        return check(self.entries, alive=alive, tolerance_s=tolerance_s)

    def timeline(self) -> str:
        """Return the entries as text, one a line."""
        return timeline(self.entries)


async def run_burst_worker(
    driver: Driver,
    *,
    ledger: Ledger | None = None,
    queues: Sequence[str] | str = ("default",),
    concurrency: int = 10,
    lease_s: float = 30.0,
) -> None:
    """Run one worker on `driver`, in this event loop and in real time, until nothing is visible and nothing runs.

    Raises: DriverError if the backend can't be used.
    """
    settings = WorkerSettings(lease_s=lease_s, burst=True, handle_signals=False, schedules=())
    runtime = ProductionRuntime(record=None if ledger is None else ledger.record)
    await Worker(driver, queues, concurrency, settings=settings, runtime=runtime).start()
