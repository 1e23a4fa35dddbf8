"""Defects in what is told of results, of who holds a lease, and of progress."""

import asyncio
from typing import Any

from asynctasq import results as results_module
from asynctasq.core.progress import ProgressReports
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.memory_driver.results import EndWaits
from asynctasq.drivers.memory_driver.row import MemoryRow
from asynctasq.kernel.messages import Bury, Complete, State
from asynctasq.queue import Queue
from tests.mutants.planting import Change, Mutant, planter

__all__ = ["RESULTS"]

RESULTS: list[Mutant] = []
_plant = planter(RESULTS)


# -- the driver ------------------------------------------------------------------------------------


@_plant(EndWaits, "wake", "end of a message told to nobody", "who waits for a result waits to the end of its time")
def _told_to_nobody(original: Any) -> Any:
    return lambda self, message_ids: None


@_plant(MemoryDriver, "wait_result", "wait for a result ends at a retry", "a failure that is retried counts as the end")
def _ends_at_retry(original: Any) -> Any:
    async def wait_result(self: Any, message_id: str, *, wait_s: float) -> bool:
        row = self._rows.get(message_id)
        return (row is not None and row.attempts > 0) or bool(await original(self, message_id, wait_s=wait_s))

    return wait_result


@_plant(MemoryDriver, "wait_result", "wait for a result ignores dead letters", "who waits never hears of the failure")
def _ignores_the_dead(original: Any) -> Any:
    async def wait_result(self: Any, message_id: str, *, wait_s: float) -> bool:
        row = self._rows.get(message_id)
        if row is None or row.reason is None:
            return bool(await original(self, message_id, wait_s=wait_s))
        await asyncio.sleep(wait_s)
        return False

    return wait_result


@_plant(
    MemoryDriver, "report_progress", "progress without a token", "a worker that lost its lease overwrites the next one"
)
def _anyones(original: Any) -> Any:
    async def report_progress(self: Any, reports: Any) -> None:
        for lease, progress in reports:
            row = self._rows.get(lease.message_id)
            if row is not None:
                row.progress = progress

    return report_progress


@_plant(MemoryDriver, "_lease", "first holder stays", "status names a worker that lost the lease long ago")
def _first_holder(original: Any) -> Any:
    def lease(self: Any, row: Any, until: int) -> Any:
        first = self.__dict__.setdefault("first_holders", {}).setdefault(row.message.id, row.reserved_by)
        row.reserved_by = first
        return original(self, row, until)

    return lease


@_plant(MemoryRow, "stored", "ended lease is shown", "status says that a task runs which waits for its retry")
def _shown_for_ever(original: Any) -> Any:
    def stored(self: Any, now: int) -> Any:
        found = original(self, now)
        if found.state is not State.RESERVED and self.reserved_by:
            object.__setattr__(found, "reserved_by", self.reserved_by)
        return found

    return stored


def _remembers(original: Any) -> Any:
    async def report_progress(self: Any, reports: Any) -> None:
        await original(self, reports)
        self.__dict__.setdefault("reported", {}).update({lease.message_id: progress for lease, progress in reports})

    return report_progress


def _begins_with_it(original: Any) -> Any:
    def lease(self: Any, row: Any, until: int) -> Any:
        row.progress = self.__dict__.get("reported", {}).get(row.message.id)
        return original(self, row, until)

    return lease


RESULTS.append(
    Mutant(
        name="progress outlives its attempt",
        breaks="the next attempt begins with the progress of the last one",
        changes=(
            Change(owner=MemoryDriver, name="report_progress", make=_remembers),
            Change(owner=MemoryDriver, name="_lease", make=_begins_with_it),
        ),
    )
)


# -- the users' side -----------------------------------------------------------------------------


@_plant(
    results_module, "_check_kept", "wait for what is never kept", "result() of a task that keeps none waits in vain"
)
def _waits_in_vain(original: Any) -> Any:
    return lambda stored, limits: None


@_plant(Queue, "driver_for", "results asked of the default driver", "a task with its own driver has no result")
def _of_the_default(original: Any) -> Any:
    return lambda self, task: self.driver


@_plant(ProgressReports, "due_in_s", "progress not throttled", "a task that reports in a loop writes in a loop")
def _not_throttled(original: Any) -> Any:
    return lambda self: 0.0


@_plant(ProgressReports, "add", "first report counts", "progress stays at what was reported first in a second")
def _first_counts(original: Any) -> Any:
    def add(self: Any, attempt: Any, progress: Any) -> None:
        if attempt.lease.message_id not in self.latest:
            original(self, attempt, progress)

    return add


@_plant(MemoryDriver, "_settle_now", "dead letter wakes nobody", "who waits for a result does not hear of the failure")
def _silent_burial(original: Any) -> Any:
    def settle_now(self: Any, settlements: Any) -> Any:
        waits, buried = self._end_waits.by_id, {}
        for lease, settlement in settlements:
            if isinstance(settlement, Bury) and not isinstance(settlement, Complete) and lease.message_id in waits:
                buried[lease.message_id] = waits.pop(lease.message_id)
        lost = original(self, settlements)
        waits.update(buried)
        return lost

    return settle_now
