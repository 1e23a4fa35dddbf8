"""The memory driver and the SQLite driver, asked the same: every reply and all that is stored is compared."""

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, invariant, multiple, precondition

from asynctasq.drivers.base import Driver
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.kernel.messages import (
    Bury,
    Complete,
    DeadReason,
    ErrorRecord,
    Lease,
    Message,
    Release,
    Settlement,
    State,
)
from property_tests.reached import MeasuredMachine, explore, goes_red, step
from tests.mutants.planting import planted
from tests.mutants.table import MUTANTS

QUEUES = ("high", "low")
TICK_S = 0.001
"""The memory driver's clock moves on between steps, as SQLite's does: no two steps are at one instant."""

# Multiples of a minute: the real time that passes for SQLite never decides.
delays_s = st.sampled_from([0.0, 0.0, 0.0, 60.0, 120.0, 86_400.0])
leases_s = st.sampled_from([60.0, 600.0])
queues = st.sampled_from(QUEUES)
orders = st.permutations(QUEUES)
limits = st.integers(1, 4)
few_alive = precondition(lambda self: len(self.memory._rows) < 5)
many_alive = precondition(lambda self: len(self.memory._rows) > 4)
some_dead = precondition(lambda self: any(self.memory._dead.values()))


@dataclass
class HandClock:
    """Moved by hand."""

    time_s: float = 1_700_000_000.0

    def now(self) -> float:
        return self.time_s

    def monotonic(self) -> float:
        return self.time_s


@dataclass(frozen=True)
class Both:
    """The leases that both drivers gave for the same message."""

    memory: Lease
    sqlite: Lease


def seen(leases: list[Lease]) -> list[tuple[object, ...]]:
    return [(one.message_id, one.queue, one.body, one.attempt, one.crashes) for one in leases]


class Drivers(MeasuredMachine):
    """Two stores that must not differ."""

    branches: ClassVar[frozenset[str]] = frozenset(
        {
            "an id that lives was stored once",
            "an id was used again after its end",
            "a stale lease settled nothing",
            "a stale lease was not extended",
            "an expired lease counted a crash",
            "a late settlement counted",
            "a retry came back with its next number",
            "a follow-up was stored",
            "a redriven message was reserved",
            "a queue of lower rank was served",
            "a scheduled message was cancelled",
            "a reserved message was not cancelled",
            "a dead letter was discarded",
            "a result was kept",
        }
    )

    known = Bundle("known")
    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = HandClock()
        self.memory = MemoryDriver(clock=self.clock)
        self.sqlite = SQLiteDriver(self.folder / "queue.db", durability="normal")
        self.names = (f"m{number}" for number in itertools.count())
        self.ended: set[str] = set()
        self.redriven: set[str] = set()
        self.retried: set[str] = set()

    def teardown(self) -> None:
        self.run(self.sqlite.close())
        self.loop.close()
        shutil.rmtree(self.folder)

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(call)

    def both(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Ask both the same; return the answer."""
        self.clock.time_s += TICK_S
        memory, sqlite = (
            self.run(getattr(driver, name)(*arguments, **options)) for driver in (self.memory, self.sqlite)
        )
        assert memory == sqlite, f"{name}{arguments}: the memory driver says {memory!r}, SQLite {sqlite!r}"
        return memory

    def settle(self, pairs: list[tuple[Both, Settlement]]) -> set[str]:
        """Settle on both, the settlements in order; return the ids that were lost."""
        self.clock.time_s += TICK_S
        memory = self.run(self.memory.settle([(one.memory, how) for one, how in pairs]))
        sqlite = self.run(self.sqlite.settle([(one.sqlite, how) for one, how in pairs]))
        assert set(memory) == set(sqlite)
        return set(memory)

    def taken(self, memory: list[Lease], sqlite: list[Lease]) -> Any:
        """Compare what both gave and remember it."""
        assert seen(memory) == seen(sqlite)
        for lease in memory:
            self.reach("an expired lease counted a crash", lease.crashes > 0)
            self.reach("a redriven message was reserved", lease.message_id in self.redriven)
            self.reach("a retry came back with its next number", lease.message_id in self.retried and lease.attempt > 1)
        return multiple(*(Both(mine, theirs) for mine, theirs in zip(memory, sqlite, strict=True)))

    # -- storing ---------------------------------------------------------------------------------

    @step(target=known, queue=queues, delay_s=delays_s, count=st.integers(1, 3))
    @few_alive
    def enqueue(self, queue: str, delay_s: float, count: int) -> Any:
        names = [next(self.names) for _ in range(count)]
        batch = [Message(id=name, queue=queue, body=name.encode(), delay_s=delay_s) for name in names]

        assert self.both("enqueue", batch) == names
        return multiple(*names)

    @step(name=known, queue=queues, delay_s=delays_s)
    def enqueue_an_id_again(self, name: str, queue: str, delay_s: float) -> None:
        again = Message(id=name, queue=queue, body=b"again", delay_s=delay_s)

        new = self.both("enqueue", [again])

        self.reach("an id that lives was stored once", new == [])
        self.reach("an id was used again after its end", new == [name] and name in self.ended)
        self.ended.discard(name)

    # -- reserving -------------------------------------------------------------------------------

    @step(target=held, order=orders, limit=limits, lease_s=leases_s)
    def reserve(self, order: list[str], limit: int, lease_s: float) -> Any:
        return self.reserved(order, limit, lease_s)

    def reserved(self, order: list[str], limit: int, lease_s: float) -> Any:
        self.clock.time_s += TICK_S
        memory, sqlite = (
            self.run(driver.reserve(order, limit=limit, lease_s=lease_s)) for driver in (self.memory, self.sqlite)
        )

        self.reach("a queue of lower rank was served", any(lease.queue == order[1] for lease in memory))
        return self.taken(memory, sqlite)

    @step(target=held, order=orders)
    def let_leases_run_out_and_reserve(self, order: list[str]) -> Any:
        self.let_time_pass_of(11)
        return self.reserved(order, 4, 600.0)

    @step(pair=held, lease_s=leases_s)
    def extend(self, pair: Both, lease_s: float) -> None:
        self.clock.time_s += TICK_S
        memory = self.run(self.memory.extend([pair.memory], lease_s=lease_s))
        sqlite = self.run(self.sqlite.extend([pair.sqlite], lease_s=lease_s))

        assert set(memory) == set(sqlite)
        self.reach("a stale lease was not extended", bool(memory))

    # -- settling --------------------------------------------------------------------------------

    @step(pair=consumes(held), result=st.one_of(st.none(), st.binary(min_size=1, max_size=4)))
    def complete(self, pair: Both, result: bytes | None) -> None:
        late = self.run(self.memory.find(pair.memory.message_id))
        lost = self.settle([(pair, Complete(result=result, result_ttl_s=3600.0))])

        if lost:
            self.reach("a stale lease settled nothing")
            return
        self.ended.add(pair.memory.message_id)
        self.reach("a late settlement counted", late is not None and late.state is State.READY)
        kept = self.both("fetch_result", pair.memory.message_id)
        self.reach("a result was kept", kept is not None and kept == result)

    @step(pair=consumes(held), counted=st.booleans(), crashed=st.booleans(), delay_s=delays_s)
    def release(self, pair: Both, counted: bool, crashed: bool, delay_s: float) -> None:
        error = ErrorRecord(type="E", message="no luck")
        lost = self.settle([(pair, Release(counted=counted, crashed=crashed, delay_s=delay_s, error=error))])

        if not lost and counted:
            self.retried.add(pair.memory.message_id)

    @step(pair=consumes(held), reason=st.sampled_from(list(DeadReason)), counted=st.booleans())
    def bury(self, pair: Both, reason: DeadReason, counted: bool) -> None:
        self.settle([(pair, Bury(reason=reason, counted=counted, error=ErrorRecord(type="E", message="over")))])

    @step(target=known, pair=held, queue=queues, delay_s=delays_s)
    def complete_with_a_follow_up(self, pair: Both, queue: str, delay_s: float) -> Any:
        """Settles with a lease that stays in the bundle: it may come again, and must be refused then."""
        follow_up = Message(id=next(self.names), queue=queue, body=b"next", delay_s=delay_s)
        lost = self.settle([(pair, Complete(follow_ups=(follow_up,)))])

        if not lost:
            self.ended.add(pair.memory.message_id)
        self.reach("a follow-up was stored", not lost)
        return follow_up.id

    @step(target=held, pair=consumes(held), order=orders, limit=limits, lease_s=leases_s, good=st.booleans())
    def turn(self, pair: Both, order: list[str], limit: int, lease_s: float, good: bool) -> Any:
        how = Complete() if good else Release(counted=True, delay_s=60.0)
        self.clock.time_s += TICK_S
        memory_lost, memory = self.run(self.memory.turn([(pair.memory, how)], order, limit=limit, lease_s=lease_s))
        sqlite_lost, sqlite = self.run(self.sqlite.turn([(pair.sqlite, how)], order, limit=limit, lease_s=lease_s))

        assert set(memory_lost) == set(sqlite_lost)
        if good and not memory_lost:
            self.ended.add(pair.memory.message_id)
        return self.taken(memory, sqlite)

    # -- time and operators ----------------------------------------------------------------------

    @step(minutes=st.sampled_from([1, 2, 11, 1441]))
    def let_time_pass(self, minutes: int) -> None:
        self.let_time_pass_of(minutes)

    def let_time_pass_of(self, minutes: int) -> None:
        self.clock.time_s += 60.0 * minutes
        self.sqlite.clock_offset += 60.0 * minutes

    @step(queue=queues, limit=limits)
    @some_dead
    def redrive(self, queue: str, limit: int) -> None:
        dead = self.run(self.memory.list_messages(queue, state=State.DEAD)).messages
        count = self.both("redrive", queue, limit=limit)

        if count == len(dead):
            self.redriven |= {one.id for one in dead}

    @step(name=known)
    def cancel(self, name: str) -> None:
        before = self.run(self.memory.find(name))
        gone = self.both("cancel", [name])

        if gone:
            self.ended.add(name)
        self.reach("a scheduled message was cancelled", bool(gone) and before.state is State.SCHEDULED)
        self.reach("a reserved message was not cancelled", not gone and bool(before) and before.state is State.RESERVED)

    @step(names=st.lists(known, min_size=1, max_size=3, unique=True))
    @some_dead
    def discard(self, names: list[str]) -> None:
        gone = self.both("discard", names)

        self.ended |= gone
        self.reach("a dead letter was discarded", bool(gone))

    @step(queue=queues)
    @many_alive
    def purge(self, queue: str) -> None:
        self.both("purge", queue)

    # -- always ----------------------------------------------------------------------------------

    @invariant()
    def both_hold_the_same(self) -> None:
        for queue in QUEUES:
            memory, sqlite = (self.stored(driver, queue) for driver in (self.memory, self.sqlite))
            assert memory == sqlite

    def stored(self, driver: Driver, queue: str) -> object:
        """Return counts and messages; no instants, since SQLite's clock is the machine's."""
        depth = self.run(driver.depth(queue))
        page = self.run(driver.list_messages(queue))  # type: ignore[attr-defined]  # both are Inspectable
        messages = [
            (one.id, one.body, one.state, one.attempts, one.crashes, one.reason, one.error) for one in page.messages
        ]
        return (depth.ready, depth.scheduled, depth.reserved, depth.dead), messages


EXAMPLES, STEPS = 150, 40


def test_both_drivers_answer_alike_whatever_they_are_asked() -> None:
    reached = explore(Drivers, examples=EXAMPLES, steps=STEPS)
    print(sorted(reached.items(), key=lambda item: item[1]))


@pytest.mark.parametrize("name", ["token not compared", "redrive keeps attempts", "duplicate id stored twice"])
def test_a_planted_defect_turns_the_machine_red(name: str) -> None:
    with planted(MUTANTS[name]):
        error = goes_red(Drivers, examples=EXAMPLES, steps=STEPS)

    assert isinstance(error, AssertionError), MUTANTS[name].breaks
