"""The memory driver and the SQLite driver, asked the same at the same instants: all they say and hold is equal."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize, invariant, multiple, precondition

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
    StoredMessage,
)
from asynctasq.testing.clock import VirtualClock
from property_tests.reached import MeasuredMachine, explore, goes_red, step
from tests.mutants.planting import planted
from tests.mutants.table import MUTANTS

QUEUES = ("high", "low")
ANY_STATE = (None, State.SCHEDULED, State.READY, State.RESERVED, State.DEAD)

delays_s = st.sampled_from([0.0, 0.0, 0.0, 1.0, 60.0, 12.3456781, 86_400.0])
leases_s = st.sampled_from([1.0, 30.0, 600.0])
queues = st.sampled_from(QUEUES)
orders = st.permutations(QUEUES)
limits = st.integers(1, 3)
errors = st.none() | st.builds(ErrorRecord, type=st.just("E"), message=st.text(max_size=3))
releases = st.builds(Release, delay_s=delays_s, counted=st.booleans(), crashed=st.booleans(), error=errors)
retries = st.builds(Release, counted=st.just(True), error=errors)
burials = st.builds(
    Bury, reason=st.sampled_from(DeadReason), counted=st.booleans(), crashed=st.booleans(), error=errors
)
completions = st.builds(Complete, result=st.binary(max_size=3) | st.none(), result_ttl_s=st.sampled_from([1.0, 60.0]))
settlements: st.SearchStrategy[Settlement] = st.one_of(completions, releases, retries, burials)
batches = st.one_of(st.lists(settlements, min_size=3, max_size=3), burials.map(lambda end: [end] * 3))
few_alive = precondition(lambda self: len(self.messages) < 5)
some_alive = precondition(lambda self: self.alive(*ANY_STATE[1:]))
some_to_run = precondition(lambda self: self.alive(State.SCHEDULED, State.READY, State.RESERVED))
some_dead = precondition(lambda self: self.alive(State.DEAD))


@dataclass(frozen=True)
class Both:
    """The two leases that the drivers gave for the same message."""

    memory: Lease
    sqlite: Lease


@dataclass(frozen=True)
class Store:
    """One SQLite file for all examples, each of which has names of its own: what others left must not matter."""

    driver: SQLiteDriver
    loop: asyncio.AbstractEventLoop


def _side(what: Any, side: str) -> Any:
    """Return arguments as one of the drivers is to see them."""
    if isinstance(what, Both):
        return getattr(what, side)
    if isinstance(what, list | tuple) and not hasattr(what, "_fields"):
        return type(what)(_side(each, side) for each in what)
    return what


def _told(reply: Any) -> Any:
    """Return what a reply says, without what each driver may choose: tokens, and the order of sets."""
    if isinstance(reply, Lease):
        return replace(reply, token="")
    if isinstance(reply, set | frozenset):
        return sorted(reply)
    if isinstance(reply, list | tuple):
        return [_told(each) for each in reply]
    return reply


class Drivers(MeasuredMachine):
    """Two stores that must not differ, by a microsecond neither."""

    branches: ClassVar[frozenset[str]] = frozenset(
        {
            *("id still taken", "id used again", "same id twice in a batch", "followed up", "second queue"),
            *("taken over", "limit reached", "due at this very microsecond", "one microsecond early"),
            *(
                "stale lease settled nothing",
                "settled late",
                "settled a batch",
                "partly lost batch",
                "turned over at once",
            ),
            *("extended", "extended late", "extended in vain", "a later attempt", "crashed on purpose"),
            *(
                "redriven",
                "redriven in part",
                "delayed message released",
                "ran again after its redrive",
                "result kept",
                "result expired",
            ),
            *("cancelled", "not cancelled", "dead letter discarded", "not discarded", "purged", "listed page by page"),
        }
    )
    store: ClassVar[Store]
    examples: ClassVar[int] = 0
    ids: ClassVar[Bundle[str]] = Bundle("ids")
    leases: ClassVar[Bundle[Both]] = Bundle("leases")
    spent: ClassVar[Bundle[Both]] = Bundle("spent")

    def __init__(self) -> None:
        super().__init__()
        type(self).examples += 1
        self.prefix = f"e{self.examples}"
        clock = VirtualClock()
        self.memory = MemoryDriver(clock=clock)
        self.sqlite = self.store.driver
        self.sqlite._clock = clock  # type: ignore[assignment]  # the file's own clock is the machine's
        self.sqlite.clock_offset = 0.0
        self.messages: dict[str, StoredMessage] = {}
        self.made = 0
        self.kept: set[str] = set()
        self.delayed: set[str] = set()
        self.redriven: set[str] = set()

    # -- asking both -----------------------------------------------------------------------------

    def ask(self, name: str, *arguments: Any, **options: Any) -> tuple[Any, Any]:
        """Ask both the same, and let them say the same."""
        return self.store.loop.run_until_complete(self.ask_both(name, *arguments, **options))

    async def ask_both(self, name: str, *arguments: Any, **options: Any) -> tuple[Any, Any]:
        replies = (
            await getattr(self.memory, name)(*_side(arguments, "memory"), **options),
            await getattr(self.sqlite, name)(*_side(arguments, "sqlite"), **options),
        )
        memory, sqlite = _told(replies[0]), _told(replies[1])
        assert sqlite == memory, f"{name}{arguments} {options}: SQLite says {sqlite}, the memory driver {memory}"
        return replies

    def queue(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def message(self, name: str, queue: str, delay_s: float = 0.0) -> Message:
        return Message(id=name, queue=self.queue(queue), body=f"{name} in {queue}".encode(), delay_s=delay_s)

    def new_name(self) -> str:
        self.made += 1
        return f"{self.prefix}-{self.made}"

    @property
    def now(self) -> float:
        return self.memory._now() / 1_000_000

    def alive(self, *states: State | None) -> bool:
        return any(message.state in states for message in self.messages.values())

    def granted(self, memory: Sequence[Lease], sqlite: Sequence[Lease], *, limit: int, order: Sequence[str]) -> Any:
        """Return new leases of the bundle; `messages` is as it was before the call."""
        for lease in memory:
            before = self.messages.get(lease.message_id)
            self.reach("taken over", before is not None and lease.crashes > before.crashes)
            self.reach("second queue", len(order) > 1 and lease.queue == self.queue(order[1]))
            self.reach("a later attempt", lease.attempt > 1)
            self.reach("ran again after its redrive", lease.message_id in self.redriven)
            if before is not None and before.visible_at == self.now > before.enqueued_at:
                self.reach("due at this very microsecond")
        early = [one for one in self.messages.values() if 0 < one.visible_at - self.now < 2e-6]
        self.reach("one microsecond early", any(one.reason is None for one in early))
        self.reach("limit reached", len(memory) == limit)
        return multiple(*map(Both, memory, sqlite))

    # -- storing ---------------------------------------------------------------------------------

    @initialize(target=ids, each=st.lists(queues, min_size=1, max_size=3))
    def begin(self, each: list[str]) -> Any:
        names = [self.new_name() for _ in each]
        self.ask("enqueue", [self.message(name, queue) for name, queue in zip(names, each, strict=True)])
        return multiple(*names)

    @step(target=ids, each=st.lists(st.tuples(queues, delays_s), min_size=1, max_size=3), twice=st.booleans())
    @few_alive
    def enqueue(self, each: list[tuple[str, float]], twice: bool) -> Any:
        batch = [self.message(self.new_name(), queue, delay_s) for queue, delay_s in each]
        names = [message.id for message in batch]
        again = [self.message(names[0], "low", 1.0)] if twice else []
        self.reach("same id twice in a batch", twice)
        self.delayed |= {message.id for message in batch if message.delay_s}
        new, _ = self.ask("enqueue", batch + again)
        assert new == names
        return multiple(*names)

    @step(name=ids, queue=queues, delay_s=delays_s)
    def enqueue_again(self, name: str, queue: str, delay_s: float) -> None:
        self.ask("find", name)
        new, _ = self.ask("enqueue", [self.message(name, queue, delay_s)])
        self.reach("id used again" if new else "id still taken")

    # -- reserving -------------------------------------------------------------------------------

    @step(target=leases, order=orders, limit=limits, lease_s=leases_s)
    @some_to_run
    def reserve(self, order: list[str], limit: int, lease_s: float) -> Any:
        memory, sqlite = self.ask("reserve", [self.queue(name) for name in order], limit=limit, lease_s=lease_s)
        return self.granted(memory, sqlite, limit=limit, order=order)

    @step(pair=leases, lease_s=leases_s, late=st.booleans())
    def extend(self, pair: Both, lease_s: float, late: bool) -> None:
        self.wait_for_the_end_of(pair, late)
        lost, _ = self.ask("extend", [pair], lease_s=lease_s)
        self.reach("extended in vain" if lost else "extended late" if late else "extended")

    def wait_for_the_end_of(self, pair: Both, late: bool) -> None:
        if late:
            self.move_to(pair.memory.expires_at)

    # -- settling --------------------------------------------------------------------------------

    @step(
        target=spent,
        pair=consumes(leases),
        end=settlements,
        late=st.booleans(),
        follow_ups=st.lists(st.tuples(st.booleans(), queues, delays_s), max_size=1),
    )
    def settle(self, pair: Both, end: Settlement, late: bool, follow_ups: list[tuple[bool, str, float]]) -> Both:
        self.wait_for_the_end_of(pair, late)
        following = [
            self.message(pair.memory.message_id if again else self.new_name(), queue, delay_s)
            for again, queue, delay_s in follow_ups
        ]
        done = self.settle_one(pair, replace(end, follow_ups=tuple(following)))
        self.reach("settled late", done and late)
        self.reach("followed up", done and bool(following))
        return pair

    def settle_one(self, pair: Both, end: Settlement) -> bool:
        name = pair.memory.message_id
        before = self.messages.get(name)
        lost, _ = self.ask("settle", [(pair, end)])
        self.reach("stale lease settled nothing", bool(lost) and before is not None)
        self.reach("crashed on purpose", not lost and not isinstance(end, Complete) and end.crashed)
        self.reach("delayed message released", not lost and isinstance(end, Release) and name in self.delayed)
        if not lost and isinstance(end, Complete) and end.result is not None:
            self.kept.add(name)
        return not lost

    @step(pair=spent, end=settlements, lease_s=leases_s)
    def settle_again(self, pair: Both, end: Settlement, lease_s: float) -> None:
        assert not self.settle_one(pair, end)
        lost, _ = self.ask("extend", [pair], lease_s=lease_s)
        assert lost

    @step(pairs=st.lists(consumes(leases), min_size=1, max_size=2), old=spent, ends=batches)
    def settle_a_batch(self, pairs: list[Both], old: Both, ends: list[Settlement]) -> None:
        lost, _ = self.ask("settle", list(zip([*pairs, old], ends, strict=False)))
        self.reach("partly lost batch", bool(lost) and any(pair.memory.message_id not in lost for pair in pairs))

    @step(order=orders, ends=batches)
    @some_to_run
    def run_a_batch(self, order: list[str], ends: list[Settlement]) -> None:
        """Reserve several and end them in one call."""
        memory, sqlite = self.ask("reserve", [self.queue(name) for name in order], limit=3, lease_s=30.0)
        self.granted(memory, sqlite, limit=3, order=order)
        lost, _ = self.ask("settle", list(zip(map(Both, memory, sqlite), ends, strict=False)))
        assert not lost
        self.reach("settled a batch", len(memory) > 1)

    @step(
        target=leases, pair=consumes(leases), end=retries | settlements, order=orders, limit=st.sampled_from([0, 2, 4])
    )
    def turn(self, pair: Both, end: Settlement, order: list[str], limit: int) -> Any:
        (_, memory), (_, sqlite) = self.ask(
            "turn", [(pair, end)], [self.queue(name) for name in order], limit=limit, lease_s=30.0
        )
        self.reach("turned over at once", any(lease.message_id == pair.memory.message_id for lease in memory))
        return self.granted(memory, sqlite, limit=limit, order=order)

    # -- time ------------------------------------------------------------------------------------

    @step(seconds=st.sampled_from([0.000_001, 1.0, 30.0, 3600.0, 86_400.0]))
    @some_alive
    def advance(self, seconds: float) -> None:
        self.move_to(self.now + seconds)

    @step(target=leases, name=ids, beside_s=st.sampled_from([-0.000_001, 0.0]), order=orders)
    @some_to_run
    def reserve_at_the_edge(self, name: str, beside_s: float, order: list[str]) -> Any:
        """Reserve when a message comes due or its lease ends, or one microsecond before."""
        message = self.messages.get(name)
        if message is not None:
            self.move_to(message.visible_at + beside_s)
        memory, sqlite = self.ask("reserve", [self.queue(name) for name in order], limit=2, lease_s=30.0)
        return self.granted(memory, sqlite, limit=2, order=order)

    def move_to(self, instant: float) -> None:
        """Let time pass, by what both add to their clock."""
        step_s = round(max(0.0, instant - self.now), 6)
        self.memory.clock_offset = self.sqlite.clock_offset = round(self.memory.clock_offset + step_s, 6)

    # -- the operator ----------------------------------------------------------------------------

    @step(queue=queues, limit=st.sampled_from([1, 1, 2, 5]))
    @some_dead
    def redrive(self, queue: str, limit: int) -> None:
        dead = {name for name, one in self.messages.items() if one.reason and one.queue == self.queue(queue)}
        count, _ = self.ask("redrive", self.queue(queue), limit=limit)
        self.redriven |= dead if count == len(dead) else set()
        self.reach("redriven", count > 0)
        self.reach("redriven in part", 0 < count < len(dead))

    @step(names=st.lists(ids, min_size=1, max_size=2), dead=st.booleans())
    @some_alive
    def cancel_or_discard(self, names: list[str], dead: bool) -> None:
        gone, _ = self.ask("discard" if dead else "cancel", [*names, "nobody"])
        self.reach("dead letter discarded" if dead else "cancelled", bool(gone))
        left = any(name in self.messages and name not in gone for name in names)
        self.reach("not discarded" if dead else "not cancelled", left)

    @step(queue=queues, state=st.sampled_from(ANY_STATE), limit=limits, purge=st.integers(0, 4))
    @some_alive
    def list_or_purge(self, queue: str, state: State | None, limit: int, purge: int) -> None:
        self.store.loop.run_until_complete(self.read(queue, state, limit))
        named = [name for name in self.store.loop.run_until_complete(self.sqlite.queues()) if self.named(name)]
        assert named == self.store.loop.run_until_complete(self.memory.queues())
        if purge == 4:
            count, _ = self.ask("purge", self.queue(queue))
            self.reach("purged", count > 0)

    async def read(self, queue: str, state: State | None, limit: int) -> None:
        """What a cursor looks like is each driver's own affair."""
        cursors: tuple[Any, ...] = (None, None)
        while True:
            memory, sqlite = [
                await driver.list_messages(self.queue(queue), state=state, limit=limit, cursor=cursor)
                for driver, cursor in zip((self.memory, self.sqlite), cursors, strict=True)
            ]
            assert sqlite.messages == memory.messages
            cursors = memory.cursor, sqlite.cursor
            assert (cursors[0] is None) == (cursors[1] is None)
            if cursors[0] is None:
                return
            self.reach("listed page by page")

    def named(self, queue: str) -> bool:
        return queue.startswith(f"{self.prefix}-")

    # -- always ----------------------------------------------------------------------------------

    @invariant()
    def both_hold_the_same(self) -> None:
        self.store.loop.run_until_complete(self.look())

    async def look(self) -> None:
        names, kept = [self.queue(queue) for queue in QUEUES], sorted(self.kept)
        pages, *rest = await asyncio.gather(  # at once: SQLite's thread is woken less often
            asyncio.gather(*(self.ask_both("list_messages", name, limit=1000) for name in names)),
            *(self.ask_both("depth", name) for name in names),
            *(self.ask_both("fetch_result", name) for name in kept),
        )
        self.messages = {message.id: message for page, _ in pages for message in page.messages}
        for result, _ in rest[len(names) :]:
            self.reach("result expired" if result is None else "result kept")


EXAMPLES, STEPS = 150, 50


@pytest.fixture(scope="module", autouse=True)
def _store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    path: Path = tmp_path_factory.mktemp("store") / "queue.db"
    with asyncio.Runner() as runner:
        Drivers.store = Store(SQLiteDriver(path, durability="normal"), runner.get_loop())
        yield
        runner.run(Drivers.store.driver.close())


def test_both_drivers_say_the_same_whatever_they_are_asked() -> None:
    explore(Drivers, examples=EXAMPLES, steps=STEPS)


@pytest.mark.parametrize("name", ["token not compared", "early by a microsecond", "FIFO broken on equal times"])
def test_a_planted_defect_turns_the_machine_red(name: str) -> None:
    with planted(MUTANTS[name]):
        error = goes_red(Drivers, examples=EXAMPLES, steps=STEPS)

    assert isinstance(error, AssertionError), MUTANTS[name].breaks
