"""Drivers that are wrong in one way each, and the conformance test that must notice.

Each is the memory driver with one step changed to what somebody once wrote in earnest.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from asynctasq.drivers.base import NO, YES, Settlements
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.memory_driver.row import MemoryRow
from asynctasq.errors import DriverUnavailable
from asynctasq.kernel.messages import Complete, Depth, Lease, Message, Progress, Release, StoredMessage, microseconds
from asynctasq.testing.conformance.harnesses.memory import MemoryHarness
from tests.mutants import wrong_unique as unique
from tests.mutants.wrong_priorities import (
    CountsClaimsOfAllQueues,
    CountsEmptyClaims,
    CountsNormalOnly,
    FollowUpsAreNormal,
    ForgetsLevelsAtRedrive,
    ForgetsLevelsAtRelease,
    LevelsGoBeforeQueues,
    PriorityInverted,
    RefusesLevelsItClaims,
    ShowsLines,
    StarvesLowLevels,
    TakesAnyLevel,
    TakesOverBeforeLevels,
    WaitsForNormalOnly,
)

__all__ = ["WRONG", "UnderClaimsInspection", "UnderClaimsOrder", "WrongHarness"]


class WrongHarness(MemoryHarness):
    """The memory harness around a driver that is wrong."""

    def __init__(self, make: Callable[[], MemoryDriver]) -> None:
        self._driver = make()

    async def break_connections(self) -> None:
        if isinstance(self._driver, LetsLibraryErrorsOut):
            self._driver.broken = True


class LosesOnRetry(MemoryDriver):
    """Deletes the message at a retry; what should store it again never does."""

    def _end(self, row: Any, settlement: Any) -> None:
        super()._end(row, Complete() if isinstance(settlement, Release) else settlement)


class ChecksNoToken(MemoryDriver):
    """Takes the id for the right to settle."""

    def _held(self, lease: Lease) -> Any:
        row = self._rows.get(lease.message_id)
        return row if row is not None and row.leased else None


class SettlesTwice(MemoryDriver):
    """Does not notice that the lease has ended already."""

    def _held(self, lease: Lease) -> Any:
        row = self._rows.get(lease.message_id)
        return row if row is not None and str(row.token) == lease.token else None


class RefusesLateSettlements(MemoryDriver):
    """Takes an expired lease for lost though nobody else has reserved."""

    def _held(self, lease: Lease) -> Any:
        row = super()._held(lease)
        return row if row is not None and row.visible_us > self._now() else None


class DeliversEarly(MemoryDriver):
    """Delays are a tenth too short, like a timer wheel that is read before it is wound."""

    def _store_one(self, message: Message, now: int) -> bool:
        return super()._store_one(replace(message, delay_s=message.delay_s * 0.9), now)


class CutsFractions(MemoryDriver):
    """Rounds delays down to whole seconds."""

    def _store_one(self, message: Message, now: int) -> bool:
        return super()._store_one(replace(message, delay_s=float(int(message.delay_s))), now)


class RedeliversEarly(MemoryDriver):
    """Grants half the lease it was asked for, and says otherwise."""

    def _lease(self, row: Any, until: int) -> Lease:
        lease = super()._lease(row, until)
        self._place(row, until - (until - self._now()) * 3 // 4)
        return lease


class LastInFirstOut(MemoryDriver):
    """A stack."""

    def _place(self, row: Any, visible_us: int) -> None:
        row.arrival = -abs(row.arrival)
        super()._place(row, visible_us)


class IgnoresQueueOrder(MemoryDriver):
    """Takes the queues in the order of the alphabet."""

    def _reserve_now(self, queues: Sequence[str], limit: int, lease_s: float) -> list[Lease]:
        return super()._reserve_now(sorted(queues, reverse=True), limit, lease_s)


class ReservesInTwoSteps(MemoryDriver):
    """Looks first and takes afterwards; in between others look too."""

    async def reserve(self, queues: Sequence[str], *, limit: int, lease_s: float, wait_s: float = 0) -> list[Lease]:
        visible = [row for queue in queues if (row := self._first_visible(queue, self._now()))][:limit]
        await asyncio.sleep(0)
        return [self._lease(row, self._now() + microseconds(lease_s)) for row in visible]


class LosesOnCancel(MemoryDriver):
    """Takes the message out, tells the caller, and only then writes the lease."""

    async def reserve(self, queues: Sequence[str], *, limit: int, lease_s: float, wait_s: float = 0) -> list[Lease]:
        leases = await super().reserve(queues, limit=limit, lease_s=lease_s, wait_s=wait_s)
        rows = {lease.message_id: self._rows.pop(lease.message_id) for lease in leases}
        await asyncio.sleep(0)
        self._rows.update(rows)
        return leases


class LeaksOnCancel(MemoryDriver):
    """Does not give the connection back when the call is cancelled."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._connections = 3

    async def depth(self, queue: str) -> Depth:
        while self._connections == 0:
            await asyncio.sleep(0.001)
        self._connections -= 1
        await asyncio.sleep(0)
        self._connections += 1
        return await super().depth(queue)


class SwallowsCancellation(MemoryDriver):
    """Ends a cancelled wait as if nothing had come."""

    async def reserve(self, queues: Sequence[str], *, limit: int, lease_s: float, wait_s: float = 0) -> list[Lease]:
        try:
            return await super().reserve(queues, limit=limit, lease_s=lease_s, wait_s=wait_s)
        except asyncio.CancelledError:
            return []


class StoresPartOfABatch(MemoryDriver):
    """Checks and stores one message after the other."""

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        return [new for message in messages for new in await super(StoresPartOfABatch, self).enqueue([message])]


class OverwritesIds(MemoryDriver):
    """The last one wins."""

    def _store_one(self, message: Message, now: int) -> bool:
        self._rows.pop(message.id, None)
        return super()._store_one(message, now)


class TakesIdsForAlike(MemoryDriver):
    """Compares ids as a database with a friendly collation does."""

    def _store_one(self, message: Message, now: int) -> bool:
        alike = {known.strip().casefold() for known in self._rows}
        return message.id.strip().casefold() not in alike and super()._store_one(message, now)


class StoresFollowUpsFirst(MemoryDriver):
    """Enqueues the follow-ups, then settles: a lost lease leaves them behind."""

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        for _, settlement in settlements:
            await self.enqueue(settlement.follow_ups)
        return await super().settle([(lease, replace(end, follow_ups=())) for lease, end in settlements])


class StoresFollowUpsLater(MemoryDriver):
    """Settles, then enqueues the follow-ups: who is cancelled in between loses them."""

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        lost = await super().settle([(lease, replace(end, follow_ups=())) for lease, end in settlements])
        await asyncio.sleep(0)
        for lease, settlement in settlements:
            if lease.message_id not in lost:
                await self.enqueue(settlement.follow_ups)
        return lost


class DropsFollowUpsOfSettledIds(MemoryDriver):
    """Looks for known ids before it settles the batch, so that no message can go on under its id."""

    def _settle_now(self, settlements: Settlements) -> set[str]:
        settled = {lease.message_id for lease, _ in settlements} if len(settlements) > 1 else set()
        kept = [
            (lease, replace(end, follow_ups=tuple(one for one in end.follow_ups if one.id not in settled)))
            for lease, end in settlements
        ]
        return super()._settle_now(kept)


class KeepsCompletedAges(MemoryDriver):
    """Updates the row of a message that goes on under its id, which keeps the time it was first enqueued at."""

    def _settle_now(self, settlements: Settlements) -> set[str]:
        before = {lease.message_id: self._rows[lease.message_id] for lease, _ in settlements if self._held(lease)}
        lost = super()._settle_now(settlements)
        for message_id, row in before.items():
            if message_id in self._rows:
                self._rows[message_id].enqueued_us = row.enqueued_us
        return lost


class LeasesReleasedByAnyToken(MemoryDriver):
    """Takes the id alone for the right to lease a released message again."""

    def _was_released(self, row: MemoryRow, lease: Lease) -> bool:
        return super()._was_released(row, replace(lease, token=str(row.token)))


class LeasesDeadLettersAgain(MemoryDriver):
    """Leases a dead letter, which nobody holds any more either."""

    def _was_released(self, row: MemoryRow, lease: Lease) -> bool:
        return not row.leased and str(row.token) == lease.token


class KeepsTheTokenOfTheReleased(MemoryDriver):
    """Gives a released message back under the token that released it."""

    async def reserve_released(self, leases: Sequence[Lease], *, lease_s: float) -> list[Lease]:
        granted = await super().reserve_released(leases, lease_s=lease_s)
        for lease in granted:
            self._rows[lease.message_id].token -= 1
        return [replace(lease, token=str(int(lease.token) - 1)) for lease in granted]


class CountsAReleaseAsACrash(MemoryDriver):
    """Takes a message that is leased before its delay has passed for one whose worker died."""

    async def reserve_released(self, leases: Sequence[Lease], *, lease_s: float) -> list[Lease]:
        for lease in leases:
            row = self._rows.get(lease.message_id)
            if row is not None and self._was_released(row, lease):
                row.crashes += 1
        return await super().reserve_released(leases, lease_s=lease_s)


class CountsNoCrash(MemoryDriver):
    """Gives an expired lease away as if nothing had happened: one poison task kills every worker for ever."""

    def _lease(self, row: Any, until: int) -> Lease:
        row.leased = False
        return super()._lease(row, until)


class CountsHandBacks(MemoryDriver):
    """Counts every release as an attempt."""

    def _end(self, row: Any, settlement: Any) -> None:
        super()._end(row, replace(settlement, counted=True) if isinstance(settlement, Release) else settlement)


class RedriveKeepsAttempts(MemoryDriver):
    """The redriven message dies at its next failure."""

    async def redrive(self, queue: str, *, limit: int) -> int:
        before = {name: (row.attempts, row.crashes) for name, row in self._rows.items()}
        moved = await super().redrive(queue, limit=limit)
        for name, (attempts, crashes) in before.items():
            self._rows[name].attempts, self._rows[name].crashes = attempts, crashes
        return moved


class RedriveByIdKeepsAttempts(MemoryDriver):
    """A message redriven by its id dies at its next failure."""

    async def redrive_ids(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        before = {name: (row.attempts, row.crashes) for name, row in self._rows.items()}
        redriven = await super().redrive_ids(message_ids)
        for name, (attempts, crashes) in before.items():
            self._rows[name].attempts, self._rows[name].crashes = attempts, crashes
        return redriven


class RedriveByIdTakesWhatLives(MemoryDriver):
    """Makes ready what a worker has."""

    async def redrive_ids(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        rows = {name: row for name in message_ids if (row := self._rows.get(name)) is not None}
        taken = {name for name, row in rows.items() if row.leased}
        for name in taken:
            rows[name].leased = False
            self._place(rows[name], self._now())
        return taken | set(await super().redrive_ids(message_ids))


class RedriveKeepsTheAge(MemoryDriver):
    """A redriven message that had expired expires again."""

    async def redrive(self, queue: str, *, limit: int) -> int:
        before = {name: row.enqueued_us for name, row in self._rows.items()}
        moved = await super().redrive(queue, limit=limit)
        for name, enqueued_us in before.items():
            self._rows[name].enqueued_us = enqueued_us
        return moved


class KeepsDeadLetters(MemoryDriver):
    """Removes nothing, whatever age it claims for dead letters."""

    def _prune(self, now: int) -> None:
        del now


class RedriveTakesTheNewest(MemoryDriver):
    """Newest death first."""

    async def redrive(self, queue: str, *, limit: int) -> int:
        self._dead[queue] = dict.fromkeys(reversed(self._dead.get(queue, {})))
        return await super().redrive(queue, limit=limit)


class RedriveForgetsTokens(MemoryDriver):
    """Counts tokens per message and anew after a redrive, so that the lease of before fits again."""

    async def redrive(self, queue: str, *, limit: int) -> int:
        self._tokens = 0
        return await super().redrive(queue, limit=limit)


class CountsTokensPerMessage(MemoryDriver):
    """Starts every message at token 1: the lease of a completed message fits the next one with its id."""

    def _store_one(self, message: Message, now: int) -> bool:
        self._tokens = 0
        return super()._store_one(message, now)


class CountsExpiredAsReserved(MemoryDriver):
    """Counts leases, not time."""

    async def depth(self, queue: str) -> Depth:
        depth = await super().depth(queue)
        expired = sum(
            row.leased and row.visible_us <= self._now() for row in self._rows.values() if row.message.queue == queue
        )
        return replace(depth, ready=depth.ready - expired, reserved=depth.reserved + expired)


class NeverWakes(MemoryDriver):
    """Sleeps to the end of the wait, whatever comes."""

    def _reschedule_waiters(self, row: Any, was_us: int) -> None:
        """Wake nobody."""


class SleepsPastDelays(MemoryDriver):
    """Wakes for what is stored, and not for what becomes due."""

    def _first_due(self, queues: Iterable[str]) -> float:
        due_us = super()._first_due(queues)
        return due_us if due_us <= self._now() else float("inf")


class SleepsPastShorterLeases(MemoryDriver):
    """Wakes for what is stored or released, and not for a lease that now ends sooner."""

    def _reschedule_waiters(self, row: Any, was_us: int) -> None:
        if not row.leased:
            super()._reschedule_waiters(row, was_us)


class WaitsWithTheConnection(MemoryDriver):
    """Has one connection, and a waiting reserve holds it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._connection = asyncio.Lock()

    async def reserve(self, queues: Sequence[str], *, limit: int, lease_s: float, wait_s: float = 0) -> list[Lease]:
        async with self._connection:
            return await super().reserve(queues, limit=limit, lease_s=lease_s, wait_s=wait_s)


class ClosesWithoutWaking(MemoryDriver):
    """Leaves waiting calls waiting."""

    async def close(self) -> None:
        """Wake nobody."""


class LetsLibraryErrorsOut(MemoryDriver):
    """Passes on what the client library raised."""

    broken = False

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        if self.broken:
            self.broken = False
            raise ConnectionResetError("Connection reset by peer")
        return await super().enqueue(messages)


class CutsBodies(MemoryDriver):
    """Treats bytes as C strings."""

    def _store_one(self, message: Message, now: int) -> bool:
        return super()._store_one(replace(message, body=message.body.partition(b"\x00")[0]), now)


class AcceptsAnyName(MemoryDriver):
    """Does not look at the queue's name when counting."""

    async def depth(self, queue: str) -> Depth:
        return Depth(ready=0, scheduled=0, reserved=0, dead=0) if not queue.isalpha() else await super().depth(queue)


class ExtendsExpiredLeasesOnly(MemoryDriver):
    """Says yes to an extend and does nothing."""

    async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
        return {lease.message_id for lease in leases if self._held(lease) is None}


class TurnReservesFirst(MemoryDriver):
    """Reserves before it settles."""

    async def turn(
        self, settlements: Settlements, queues: Sequence[str], *, limit: int, lease_s: float
    ) -> tuple[AbstractSet[str], list[Lease]]:
        leases = await self.reserve(queues, limit=limit, lease_s=lease_s)
        return await self.settle(settlements), leases


class KeepsResultsForEver(MemoryDriver):
    """Forgets to forget."""

    async def fetch_result(self, message_id: str) -> bytes | None:
        return self._results.kept.get(message_id, (0, None))[1]


class TellsNobodyOfResults(MemoryDriver):
    """Lets who waits for a result look for itself, at the end of its time."""

    async def wait_result(self, message_id: str, *, wait_s: float) -> bool:
        row = self._rows.get(message_id)
        if row is not None and row.reason is None:
            await asyncio.sleep(wait_s)
        return await super().wait_result(message_id, wait_s=0)


class TellsOfResultsOnly(MemoryDriver):
    """Wakes who waits for a result when there is one, and not when there will be none."""

    async def wait_result(self, message_id: str, *, wait_s: float) -> bool:
        row = self._rows.get(message_id)
        ended = await super().wait_result(message_id, wait_s=wait_s)
        if ended and row is not None and row.reason is not None:
            await asyncio.sleep(wait_s)
        return ended


class TakesAReleaseForTheEnd(MemoryDriver):
    """Ends waits for a result when any attempt has ended."""

    async def wait_result(self, message_id: str, *, wait_s: float) -> bool:
        row = self._rows.get(message_id)
        return (row is not None and row.attempts > 0) or await super().wait_result(message_id, wait_s=wait_s)


class WaitsForTheUnknown(MemoryDriver):
    """Waits for messages that may come one day."""

    async def wait_result(self, message_id: str, *, wait_s: float) -> bool:
        if message_id not in self._rows and await self.fetch_result(message_id) is None:
            await asyncio.sleep(wait_s)
            return False
        return await super().wait_result(message_id, wait_s=wait_s)


class StoresAnyonesProgress(MemoryDriver):
    """Does not ask for the token of who reports."""

    async def report_progress(self, reports: Sequence[tuple[Lease, Progress]]) -> None:
        for lease, progress in reports:
            self._rows[lease.message_id].progress = progress


class KeepsTheFirstHolder(MemoryDriver):
    """Names for ever who held the message first."""

    def _lease(self, row: MemoryRow, until: int) -> Lease:
        if row.token:
            row.reserved_by = "first"
        return super()._lease(row, until)


class KeepsProgress(MemoryDriver):
    """Shows in an attempt what the one before had reported."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.reported: dict[str, Progress] = {}

    async def report_progress(self, reports: Sequence[tuple[Lease, Progress]]) -> None:
        await super().report_progress(reports)
        self.reported.update({lease.message_id: progress for lease, progress in reports})

    def _lease(self, row: MemoryRow, until: int) -> Lease:
        row.progress = self.reported.get(row.message.id)
        return super()._lease(row, until)


class ClaimsTransactions(MemoryDriver):
    """Claims what it lacks."""

    capabilities = replace(MemoryDriver.capabilities, transactional=YES)


class ClaimsInspection(MemoryDriver):
    """Claims what it only has the names of."""

    async def find(self, message_id: str) -> StoredMessage | None:
        return None


class RefusesInOtherWords(MemoryDriver):
    """Does not claim inspection, and fails in the middle of it instead of refusing."""

    capabilities = replace(MemoryDriver.capabilities, inspects=NO)

    async def find(self, message_id: str) -> StoredMessage | None:
        raise DriverUnavailable("try again")


class UnderClaimsOrder(MemoryDriver):
    """Does not claim the order it keeps."""

    capabilities = replace(MemoryDriver.capabilities, ordered=NO)


class UnderClaimsInspection(MemoryDriver):
    """Does not claim the inspection it has."""

    capabilities = replace(MemoryDriver.capabilities, inspects=NO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """A wrong driver, the test that must fail on it, and whether the random programs must notice it too."""

    driver: Callable[[], MemoryDriver]
    fails: str
    in_programs: bool = False


U = "test_unique.test"
BY_ID = "test_inspection.test_redrive_by_id_makes_those_dead_letters_ready"
WRONG: tuple[Wrong, ...] = (
    Wrong(driver=LosesOnRetry, fails="test_settle.test_a_released_message_is_visible_at_once", in_programs=True),
    Wrong(driver=ChecksNoToken, fails="test_settle.test_a_stolen_lease_settles_nothing", in_programs=True),
    Wrong(driver=SettlesTwice, fails="test_settle.test_settling_twice_changes_nothing", in_programs=True),
    Wrong(driver=RefusesLateSettlements, fails="test_settle.test_a_late_settlement_counts_while_nobody_else_reserved"),
    Wrong(driver=DeliversEarly, fails="test_delay.test_delays_of_years_end_exactly_then"),
    Wrong(driver=CutsFractions, fails="test_delay.test_delays_below_a_second_are_never_early"),
    Wrong(driver=RedeliversEarly, fails="test_leases.test_a_lease_holds_to_its_end"),
    Wrong(driver=LastInFirstOut, fails="test_order.test_a_batch_arrives_in_the_order_given", in_programs=True),
    Wrong(driver=IgnoresQueueOrder, fails="test_order.test_queues_come_in_the_order_given", in_programs=True),
    Wrong(driver=ReservesInTwoSteps, fails="test_concurrency.test_many_reservers_get_each_message_once"),
    Wrong(driver=LosesOnCancel, fails="test_cancellation.test_a_cancelled_reserve_loses_no_message"),
    Wrong(driver=LeaksOnCancel, fails="test_cancellation.test_a_cancelled_depth_does_not_mix_up_replies"),
    Wrong(driver=SwallowsCancellation, fails="test_waiting.test_a_cancelled_wait_takes_nothing_with_it"),
    Wrong(driver=StoresPartOfABatch, fails="test_refusals.test_one_bad_queue_name_refuses_the_whole_batch"),
    Wrong(driver=OverwritesIds, fails="test_enqueue.test_the_same_id_again_changes_nothing", in_programs=True),
    Wrong(driver=TakesIdsForAlike, fails="test_enqueue.test_ids_that_look_alike_are_different"),
    Wrong(driver=StoresFollowUpsFirst, fails="test_settle.test_a_lost_settlement_stores_no_follow_ups"),
    Wrong(driver=StoresFollowUpsLater, fails="test_cancellation.test_a_cancelled_settle_happens_whole_or_not_at_all"),
    Wrong(driver=DropsFollowUpsOfSettledIds, fails="test_turn.test_turn_lets_messages_go_on_under_their_ids"),
    Wrong(driver=KeepsCompletedAges, fails="test_turn.test_turn_lets_messages_go_on_under_their_ids"),
    Wrong(
        driver=LeasesReleasedByAnyToken,
        fails="test_reserve_released.test_only_what_the_lease_itself_released_is_leased",
        in_programs=True,
    ),
    Wrong(
        driver=LeasesDeadLettersAgain,
        fails="test_reserve_released.test_only_what_the_lease_itself_released_is_leased",
        in_programs=True,
    ),
    Wrong(
        driver=KeepsTheTokenOfTheReleased,
        fails="test_reserve_released.test_a_released_message_is_leased_before_its_delay",
    ),
    Wrong(
        driver=CountsAReleaseAsACrash,
        fails="test_reserve_released.test_a_released_message_is_leased_before_its_delay",
        in_programs=True,
    ),
    Wrong(driver=CountsNoCrash, fails="test_leases.test_an_expired_lease_is_taken_over_as_a_crash", in_programs=True),
    Wrong(driver=CountsHandBacks, fails="test_settle.test_release_counts_what_it_says", in_programs=True),
    Wrong(driver=RedriveKeepsAttempts, fails="test_dead_letters.test_redrive_starts_counting_anew", in_programs=True),
    Wrong(driver=RedriveByIdKeepsAttempts, fails=BY_ID),
    Wrong(driver=RedriveByIdTakesWhatLives, fails=BY_ID, in_programs=True),
    Wrong(driver=KeepsDeadLetters, fails="test_dead_letters.test_a_dead_letter_is_removed_at_its_age"),
    Wrong(driver=RedriveKeepsTheAge, fails="test_dead_letters.test_redrive_begins_a_new_life"),
    Wrong(driver=RedriveTakesTheNewest, fails="test_dead_letters.test_redrive_moves_the_oldest_death_first"),
    Wrong(driver=RedriveForgetsTokens, fails="test_dead_letters.test_an_old_lease_does_not_settle_a_redriven_message"),
    Wrong(driver=CountsTokensPerMessage, fails="test_reserve.test_a_lease_of_an_earlier_life_settles_nothing"),
    Wrong(driver=CountsExpiredAsReserved, fails="test_leases.test_an_expired_lease_counts_as_ready", in_programs=True),
    Wrong(driver=NeverWakes, fails="test_waiting.test_an_enqueue_wakes_a_waiting_reserve"),
    Wrong(driver=SleepsPastDelays, fails="test_waiting.test_a_delay_that_ends_ends_the_wait"),
    Wrong(driver=SleepsPastShorterLeases, fails="test_waiting.test_a_lease_made_shorter_ends_the_wait_sooner"),
    Wrong(driver=WaitsWithTheConnection, fails="test_waiting.test_a_waiting_reserve_blocks_no_other_call"),
    Wrong(driver=ClosesWithoutWaking, fails="test_connections.test_close_ends_waiting_calls_with_nothing"),
    Wrong(driver=LetsLibraryErrorsOut, fails="test_connections.test_cut_connections_raise_nothing_but_driver_errors"),
    Wrong(driver=CutsBodies, fails="test_payloads.test_every_byte_comes_back"),
    Wrong(driver=AcceptsAnyName, fails="test_refusals.test_depth_refuses_hostile_queue_names"),
    Wrong(driver=ExtendsExpiredLeasesOnly, fails="test_leases.test_an_extended_lease_holds_to_its_new_end"),
    Wrong(driver=TurnReservesFirst, fails="test_turn.test_turn_may_reserve_what_it_released", in_programs=True),
    Wrong(driver=KeepsResultsForEver, fails="test_results.test_a_result_is_kept_for_its_time_and_no_longer"),
    Wrong(driver=TellsNobodyOfResults, fails="test_results.test_a_result_wakes_who_waits_for_it"),
    Wrong(driver=TellsOfResultsOnly, fails="test_results.test_a_dead_letter_wakes_who_waits_for_its_result"),
    Wrong(driver=TakesAReleaseForTheEnd, fails="test_results.test_a_wait_for_a_living_message_ends_with_nothing"),
    Wrong(driver=WaitsForTheUnknown, fails="test_results.test_who_comes_late_does_not_wait"),
    Wrong(driver=StoresAnyonesProgress, fails="test_progress.test_progress_of_a_stale_lease_is_ignored"),
    Wrong(driver=KeepsTheFirstHolder, fails="test_progress.test_a_takeover_changes_the_holder"),
    Wrong(driver=KeepsProgress, fails="test_progress.test_the_next_attempt_begins_without_progress"),
    Wrong(driver=unique.LooksThenInserts, fails=f"{U}_of_fifty_producers_at_once_one_stores"),
    Wrong(driver=unique.TellsNoHolder, fails=f"{U}_of_two_messages_with_one_key_one_is_stored"),
    Wrong(driver=unique.KeepsKeysOfTheDead, fails=f"{U}_a_key_is_free_after_each_end", in_programs=True),
    Wrong(driver=unique.FreesKeysAtRelease, fails=f"{U}_a_key_is_held_from_scheduled_to_retried", in_programs=True),
    Wrong(driver=unique.FreesKeysWithTheLease, fails=f"{U}_a_key_is_held_from_scheduled_to_retried"),
    Wrong(driver=unique.TimesWindowsByTheClient, fails=f"{U}_a_window_holds_a_key_though_its_message_is_done"),
    Wrong(driver=unique.TakesWindowsForStates, fails=f"{U}_a_window_and_a_state_do_not_meet", in_programs=True),
    Wrong(driver=unique.ReplacesWhatRuns, fails=f"{U}_what_runs_is_not_replaced", in_programs=True),
    Wrong(driver=unique.RedriveTakesKeysBack, fails=f"{U}_a_redriven_message_holds_no_key"),
    Wrong(driver=unique.HoldsStartedUntilDone, fails=f"{U}_the_first_reserve_frees_a_key_held_until_started"),
    Wrong(driver=unique.StoresPartOfARefusedBatch, fails=f"{U}_a_conflict_that_raises_leaves_nothing_of_its_batch"),
    Wrong(driver=unique.StoresFollowUpsWithoutKeys, fails=f"{U}_follow_ups_respect_keys", in_programs=True),
    Wrong(driver=unique.AsksForKeysFirst, fails=f"{U}_the_same_id_again_changes_nothing_whatever_its_key"),
    Wrong(driver=PriorityInverted, fails="test_priority.test_higher_levels_come_first", in_programs=True),
    Wrong(driver=LevelsGoBeforeQueues, fails="test_priority.test_a_low_message_of_an_earlier_queue_comes_first"),
    Wrong(
        driver=ForgetsLevelsAtRelease, fails="test_priority.test_a_released_message_keeps_its_level", in_programs=True
    ),
    Wrong(driver=ForgetsLevelsAtRedrive, fails="test_priority.test_a_redriven_message_comes_at_its_level"),
    Wrong(driver=StarvesLowLevels, fails="test_priority.test_no_level_waits_for_ever"),
    Wrong(driver=CountsEmptyClaims, fails="test_priority.test_only_what_took_something_of_the_queue_counts"),
    Wrong(driver=CountsClaimsOfAllQueues, fails="test_priority.test_only_what_took_something_of_the_queue_counts"),
    Wrong(driver=TakesOverBeforeLevels, fails="test_priority.test_a_takeover_goes_by_level", in_programs=True),
    Wrong(driver=FollowUpsAreNormal, fails="test_priority.test_follow_ups_have_their_own_levels"),
    Wrong(driver=WaitsForNormalOnly, fails="test_priority.test_every_level_is_visible_to_who_waits"),
    Wrong(driver=CountsNormalOnly, fails="test_priority.test_depth_counts_all_levels", in_programs=True),
    Wrong(driver=ShowsLines, fails="test_priority.test_an_operator_sees_the_level", in_programs=True),
    Wrong(driver=TakesAnyLevel, fails="test_priority.test_an_unknown_level_is_refused"),
    Wrong(driver=RefusesLevelsItClaims, fails="test_priority.test_priorities_are_claimed_or_refused"),
    Wrong(driver=ClaimsTransactions, fails="test_capabilities.test_transactions_are_claimed_or_refused"),
    Wrong(driver=ClaimsInspection, fails="test_inspection.test_find_shows_every_state"),
    Wrong(driver=RefusesInOtherWords, fails="test_capabilities.test_inspection_is_claimed_or_refused"),
)
