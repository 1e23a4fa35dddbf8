"""Defects in the driver: leases, tokens, due times, order, counters, results."""

from dataclasses import replace
from math import inf
from typing import Any

from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.memory_driver import driver as module
from asynctasq.kernel.messages import MICROSECONDS, Bury, Complete, Release
from tests.mutants.planting import Change, Mutant, attribute

__all__ = ["MEMORY"]


def _method(name: str, make: Any) -> tuple[Change, ...]:
    return attribute(MemoryDriver, name, make)


def _holding(test: Any) -> tuple[Change, ...]:
    """Change which row a lease still holds; `test(driver, row, lease)`."""

    def make(_: Any) -> Any:
        def held(self: Any, lease: Any) -> Any:
            row = self._rows.get(lease.message_id)
            return row if row is not None and test(self, row, lease) else None

        return held

    return _method("_held", make)


def _ending(change: Any) -> tuple[Change, ...]:
    """Change a settlement before it takes effect."""
    return _method("_end", lambda end: lambda self, row, settlement: end(self, row, change(row, settlement)))


def _after_end(change: Any) -> tuple[Change, ...]:
    """Change the row after a settlement took effect."""

    def make(end: Any) -> Any:
        def wrong(self: Any, row: Any, settlement: Any) -> None:
            end(self, row, settlement)
            change(self, row, settlement)

        return wrong

    return _method("_end", make)


def _leasing(change: Any) -> tuple[Change, ...]:
    def make(original: Any) -> Any:
        def lease(self: Any, row: Any, until: int) -> Any:
            return change(self, row, until, original)

        return lease

    return _method("_lease", make)


def _first_settled_only(self: Any, settlements: Any, original: Any) -> Any:
    return original(self, settlements[:1] if len(settlements) > 1 else settlements)


def _last_forgotten(self: Any, settlements: Any, original: Any) -> Any:
    return original(self, settlements[:-1] if len(settlements) > 2 else settlements)


def _due_early(self: Any, queue: str, now: int, original: Any) -> Any:
    return original(self, queue, now + 1)


def _keeping_attempts(original: Any) -> Any:
    async def redrive(self: Any, queue: str, *, limit: int) -> int:
        kept = {message_id: self._rows[message_id].attempts for message_id in self._dead.get(queue, {})}
        count = await original(self, queue, limit=limit)
        for message_id, attempts in kept.items():
            self._rows[message_id].attempts = attempts
        return int(count)

    return redrive


def _redriving_all(original: Any) -> Any:
    async def redrive(self: Any, queue: str, *, limit: int) -> int:
        return int(await original(self, queue, limit=10**9))

    return redrive


def _two_steps(original: Any) -> Any:
    """Delete at the retry; what stores it again comes half a second later, if the process lives."""

    def end(self: Any, row: Any, settlement: Any) -> None:
        original(self, row, settlement)
        if isinstance(settlement, Release) and settlement.counted:
            del self._rows[row.message.id]

    return end


def _storing_twice(original: Any) -> Any:
    def store_one(self: Any, message: Any, now: int) -> bool:
        self._rows.pop(message.id, None)
        return bool(original(self, message, now))

    return store_one


def _extending_anyway(original: Any) -> Any:
    async def extend(self: Any, leases: Any, *, lease_s: float) -> Any:
        await original(self, leases, lease_s=lease_s)
        return set()

    return extend


def _extending_nothing(original: Any) -> Any:
    async def extend(self: Any, leases: Any, *, lease_s: float) -> Any:
        return {lease.message_id for lease in leases if self._held(lease) is None}

    return extend


def _without_placing(original: Any) -> Any:
    async def extend(self: Any, leases: Any, *, lease_s: float) -> Any:
        return await original(self, leases, lease_s=lease_s / 1000)

    return extend


def _deaf(self: Any, row: Any, was_us: int) -> None:
    """Wake nobody."""


def _visible_or_never(original: Any) -> Any:
    def first_due(self: Any, queues: Any) -> float:
        due_us = float(original(self, queues))
        return due_us if due_us <= self._now() else inf

    return first_due


def _last_first(original: Any) -> Any:
    def place(self: Any, row: Any, visible_us: int) -> None:
        row.arrival = -abs(row.arrival)
        original(self, row, visible_us)

    return place


def _follow_ups_dropped(original: Any) -> Any:
    def settle_now(self: Any, settlements: Any) -> Any:
        return original(self, [(lease, replace(end, follow_ups=())) for lease, end in settlements])

    return settle_now


def _one_expiry(original: Any) -> Any:
    def reserve_now(self: Any, queues: Any, limit: int, lease_s: float) -> Any:
        return original(self, queues, limit + 1 if limit == 1 else limit, lease_s)

    return reserve_now


def _reversed_queues(original: Any) -> Any:
    return lambda self, queues, limit, lease_s: original(self, list(reversed(queues)), limit, lease_s)


def _client_clock(original: Any) -> Any:
    return lambda self: round(self._clock.now() * MICROSECONDS) if self.clock_offset else original(self)


def _lost_counts_nothing(self: Any, row: Any, until: int, original: Any) -> Any:
    row.leased = False
    return original(self, row, until)


def _same_token(self: Any, row: Any, until: int, original: Any) -> Any:
    self._tokens = row.crashes  # the next reserve of another life gets it again
    return original(self, row, until)


def _attempt_from_0(self: Any, row: Any, until: int, original: Any) -> Any:
    lease = original(self, row, until)
    return replace(lease, attempt=lease.attempt + (row.attempts > 0))


def _kept_for_ever(self: Any, row: Any, settlement: Any) -> None:
    if isinstance(settlement, Complete) and settlement.result is not None:
        self._results.kept[row.message.id] = (2**62, settlement.result)


def _kept_too_short(self: Any, row: Any, settlement: Any) -> None:
    self._results.kept.pop(row.message.id, None)


def _unordered_dead(self: Any, row: Any, settlement: Any) -> None:
    if isinstance(settlement, Bury):
        self._rows.pop(row.message.id)
        self._dead[row.message.queue].pop(row.message.id)


def _still_leased(self: Any, row: Any, settlement: Any) -> None:
    row.leased = isinstance(settlement, Release)


def _uncrashed(row: Any, settlement: Any) -> Any:
    return replace(settlement, crashed=False) if isinstance(settlement, Release | Bury) else settlement


def _error_forgotten(row: Any, settlement: Any) -> Any:
    return replace(settlement, error=None) if isinstance(settlement, Bury) else settlement


def _retry_inherits(row: Any, settlement: Any) -> Any:
    if isinstance(settlement, Release) and row.message.delay_s:
        return replace(settlement, delay_s=row.message.delay_s)
    return settlement


MEMORY: tuple[Mutant, ...] = (
    Mutant(
        name="token not compared",
        breaks="whoever had the message once may settle it",
        changes=_holding(lambda self, row, lease: row.leased),
    ),
    Mutant(
        name="settled twice",
        breaks="a settled lease settles again",
        changes=_holding(lambda self, row, lease: str(row.token) == lease.token),
    ),
    Mutant(
        name="late settle refused",
        breaks="an attempt that outlived its lease is run again though nobody took it",
        changes=_holding(
            lambda self, row, lease: row.leased and str(row.token) == lease.token and row.visible_us > self._now()
        ),
    ),
    Mutant(
        name="settle always refused",
        breaks="no attempt ever counts",
        changes=_holding(lambda self, row, lease: False),
    ),
    Mutant(
        name="token comes again",
        breaks="an id that comes again after it completed has an old token",
        changes=_leasing(_same_token),
    ),
    Mutant(
        name="retry as two steps",
        breaks="ack, then enqueue: a retry loses the message",
        changes=_method("_end", _two_steps),
    ),
    Mutant(
        name="lease in milliseconds",
        breaks="the unit: a lease is gone at once",
        changes=_leasing(
            lambda self, row, until, original: original(self, row, self._now() + (until - self._now()) // 1000)
        ),
    ),
    Mutant(
        name="lease a thousand times too long",
        breaks="the unit: what a dead worker held stays lost for hours",
        changes=_leasing(
            lambda self, row, until, original: original(self, row, self._now() + (until - self._now()) * 1000)
        ),
    ),
    Mutant(
        name="early by a microsecond",
        breaks="< for <= at the due time and the lease's end",
        changes=_method(
            "_first_visible", lambda original: lambda self, queue, now: _due_early(self, queue, now, original)
        ),
    ),
    Mutant(
        name="early delivery by rounding down",
        breaks="a delay is cut to whole microseconds",
        changes=attribute(module, "microseconds", lambda _: lambda seconds: int(seconds * 1_000_000)),
    ),
    Mutant(
        name="delays in whole seconds",
        breaks="fractions are cut",
        changes=attribute(module, "microseconds", lambda _: lambda seconds: int(seconds) * 1_000_000),
    ),
    Mutant(
        name="due compared with the client's clock",
        breaks="a wrong wall clock decides who is due",
        changes=_method("_now", _client_clock),
    ),
    Mutant(
        name="renewal does nothing",
        breaks="a long task runs twice",
        changes=_method("extend", _extending_nothing),
    ),
    Mutant(
        name="renewal for too short",
        breaks="the unit of the renewed lease",
        changes=_method("extend", _without_placing),
    ),
    Mutant(
        name="lost lease not told",
        breaks="a worker goes on with what another one has",
        changes=_method("extend", _extending_anyway),
    ),
    Mutant(
        name="expired lease not counted as a crash",
        breaks="a message that kills its worker kills every worker",
        changes=_leasing(_lost_counts_nothing),
    ),
    Mutant(
        name="retry taken for a crash",
        breaks="the next reserve finds the row leased",
        changes=_after_end(_still_leased),
    ),
    Mutant(
        name="attempt number off by one after a retry",
        breaks="counted where it is stored and where it is read",
        changes=_leasing(_attempt_from_0),
    ),
    Mutant(
        name="crash of a child not stored",
        breaks="the counter in the settlement is ignored",
        changes=_ending(_uncrashed),
    ),
    Mutant(
        name="store loses the error of a dead letter",
        breaks="nobody knows why",
        changes=_ending(_error_forgotten),
    ),
    Mutant(
        name="dead letter deleted",
        breaks="what failed for good is gone",
        changes=_after_end(_unordered_dead),
    ),
    Mutant(
        name="redrive keeps attempts",
        breaks="a dead letter driven again dies at once",
        changes=_method("redrive", _keeping_attempts),
    ),
    Mutant(
        name="redrive ignores its limit",
        breaks="all dead letters come at once",
        changes=_method("redrive", _redriving_all),
    ),
    Mutant(
        name="batch settle does the first only",
        breaks="the rest of a batch is forgotten",
        changes=_method("_settle_now", lambda original: lambda self, ends: _first_settled_only(self, ends, original)),
    ),
    Mutant(
        name="batch settle loses one entry",
        breaks="the last of a batch is forgotten",
        changes=_method("_settle_now", lambda original: lambda self, ends: _last_forgotten(self, ends, original)),
    ),
    Mutant(
        name="follow-ups dropped",
        breaks="what a settlement stores with it is lost",
        changes=_method("_settle_now", _follow_ups_dropped),
    ),
    Mutant(
        name="duplicate id stored twice",
        breaks="an idempotency key that is none",
        changes=_method("_store_one", _storing_twice),
    ),
    Mutant(
        name="wait_visible misses a wake-up",
        breaks="a waiting worker is not told of what arrives",
        changes=_method("_reschedule_waiters", lambda original: _deaf),
    ),
    Mutant(
        name="waiter sleeps through a due time",
        breaks="only arrivals wake, not the clock",
        changes=_method("_first_due", _visible_or_never),
    ),
    Mutant(
        name="queue order ignored",
        breaks="the last queue comes first",
        changes=_method("_reserve_now", _reversed_queues),
    ),
    Mutant(
        name="FIFO broken on equal times",
        breaks="the latest of one instant comes first",
        changes=_method("_place", _last_first),
    ),
    Mutant(
        name="reserve one too many",
        breaks="the limit is not kept",
        changes=_method("_reserve_now", _one_expiry),
    ),
    Mutant(
        name="result kept for ever",
        breaks="its time to live is ignored",
        changes=_after_end(_kept_for_ever),
    ),
    Mutant(
        name="result lost",
        breaks="nobody can fetch it",
        changes=_after_end(_kept_too_short),
    ),
    Mutant(
        name="retry inherits the dispatch's delay",
        breaks="a delayed task waits as long before each retry",
        changes=_ending(_retry_inherits),
        recorded="taskbroker 317",
    ),
)
