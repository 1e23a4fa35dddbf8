"""Drivers that cancel wrongly in one way each, and the conformance test that must notice."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from asynctasq.drivers.base import Settlements
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.memory_driver.results import cancels_of
from asynctasq.kernel.messages import CANCELLED_TTL_S, State, cancelled_mark, microseconds
from tests.mutants.wrong_drivers import Wrong

__all__ = ["WRONG_CANCELLING"]


class LeavesTheTokenValid(MemoryDriver):
    """Removes the row, and still lets its holder settle: there is nothing to change, so it only stores follow-ups."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tokens: set[str] = set()

    def _cancel_running(self, message_ids: Sequence[str]) -> dict[str, str]:
        cancelled = super()._cancel_running(message_ids)
        self.tokens.update(cancelled.values())
        return cancelled

    def _settle_now(self, settlements: Settlements) -> set[str]:
        for lease, settlement in settlements:
            if lease.token in self.tokens:
                self._store(settlement.follow_ups)
        return {name for name in super()._settle_now(settlements) if not self.tokens}


class LooksThenDeletes(MemoryDriver):
    """Looks at the message, and deletes by its id whatever has become of it meanwhile."""

    async def cancel_running(self, message_ids: Sequence[str]) -> Mapping[str, str]:
        found = {name: self._rows[name] for name in message_ids if name in self._rows}
        living = {name: str(row.token) if row.leased else "" for name, row in found.items() if row.reason is None}
        await asyncio.sleep(0)
        for name, token in living.items():
            self._rows.pop(name, None)
            expiry = self._now() + microseconds(CANCELLED_TTL_S)
            self._results.keep(name, cancelled_mark(token), expiry=expiry)
        return living


class TellsNobodyOfTheEnd(MemoryDriver):
    """Lets who waits for the result wait on."""

    def _cancel_running(self, message_ids: Sequence[str]) -> dict[str, str]:
        waits, self._end_waits.by_id = self._end_waits.by_id, {}
        cancelled = super()._cancel_running(message_ids)
        self._end_waits.by_id = waits
        return cancelled


class TellsNoHolder(MemoryDriver):
    """Leaves it to the next renewal that a worker learns what was cancelled."""

    async def _wait_cancelled(self, holder: str, wait_s: float) -> bool:
        return await super()._wait_cancelled("nobody", wait_s)


class TellsEveryHolder(MemoryDriver):
    """Wakes all workers for one message."""

    def _cancel_running(self, message_ids: Sequence[str]) -> dict[str, str]:
        cancelled = super()._cancel_running(message_ids)
        self._end_waits.wake([name for name in self._end_waits.by_id if name.startswith(cancels_of(""))])
        return cancelled


class KeepsNoMark(MemoryDriver):
    """Forgets a cancelled message at once, so that nobody can tell it from one that was taken over."""

    def _cancel_running(self, message_ids: Sequence[str]) -> dict[str, str]:
        cancelled = super()._cancel_running(message_ids)
        for name in cancelled:
            self._results.kept.pop(name, None)
        return cancelled


class MarksTheIdAlone(MemoryDriver):
    """Says that a message was cancelled, and not which of its leases that ended."""

    def _cancel_running(self, message_ids: Sequence[str]) -> dict[str, str]:
        cancelled = super()._cancel_running(message_ids)
        for name in cancelled:
            self._results.keep(name, cancelled_mark(""), expiry=self._now() + microseconds(CANCELLED_TTL_S))
        return cancelled


class KeepsTheEarlierResult(MemoryDriver):
    """Keeps a mark only where there is no result."""

    def _cancel_running(self, message_ids: Sequence[str]) -> dict[str, str]:
        before = dict(self._results.kept)
        cancelled = super()._cancel_running(message_ids)
        self._results.kept.update(before)
        return cancelled


class CancelsTheDead(MemoryDriver):
    """Removes dead letters, too."""

    def _cancel_running(self, message_ids: Sequence[str]) -> dict[str, str]:
        dead = self._remove(message_ids, {State.DEAD})
        return super()._cancel_running(message_ids) | dict.fromkeys(dead, "")


class LeavesWhatIsHeld(MemoryDriver):
    """Cancels what `cancel` does."""

    def _cancel_running(self, message_ids: Sequence[str]) -> dict[str, str]:
        return super()._cancel_running([name for name in message_ids if self._state(name) is not State.RESERVED])

    def _state(self, name: str) -> State | None:
        row = self._rows.get(name)
        return None if row is None else row.state(self._now())


WRONG_CANCELLING: tuple[Wrong, ...] = tuple(
    Wrong(driver=driver, fails=f"test_cancel_running.{test}", in_programs=in_programs)
    for driver, test, in_programs in (
        (LeavesTheTokenValid, "test_a_cancelled_lease_settles_nothing", True),
        (LooksThenDeletes, "test_a_race_of_cancelling_and_settling_has_one_winner", False),
        (TellsNobodyOfTheEnd, "test_cancelling_wakes_who_waits_for_the_end", False),
        (TellsNoHolder, "test_the_holder_of_a_cancelled_message_is_woken", False),
        (TellsEveryHolder, "test_the_holder_of_a_cancelled_message_is_woken", False),
        (KeepsNoMark, "test_a_race_of_cancelling_and_reserving_leaves_nothing", False),
        (MarksTheIdAlone, "test_a_cancelled_lease_settles_nothing", False),
        (KeepsTheEarlierResult, "test_a_mark_is_kept_for_its_time_and_no_longer", False),
        (CancelsTheDead, "test_cancelling_removes_all_but_dead_letters", True),
        (LeavesWhatIsHeld, "test_cancelling_removes_all_but_dead_letters", True),
    )
)
