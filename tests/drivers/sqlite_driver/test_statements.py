"""The SQLite driver's statements: compared with the memory driver step by step, and their query plans."""

import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asynctasq.drivers.base import Driver
from asynctasq.drivers.levels import lines_of
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.retention import Retention
from asynctasq.drivers.sqlite_driver import SQLiteDriver, endings, inspection, retention, statements
from asynctasq.drivers.sqlite_driver.schema import Steps
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
from tests.drivers.sqlite_driver.support import run_plain
from tests.patience import SOON_S

QUEUES = ("a", "b", "c")
NOW = 1_800_000_000.0


class ManualClock:
    """A clock that moves by hand."""

    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class Program:
    """Random operations, each done on both drivers; any difference is an error."""

    def __init__(self, seed: int, ours: Driver, reference: Driver, clock: ManualClock) -> None:
        self.rng = random.Random(seed)
        self.drivers: tuple[Any, Any] = (ours, reference)
        self.clock = clock
        self.ids: list[str] = []
        self.leases: list[tuple[Lease, Lease]] = []

    async def step(self) -> None:
        name = self.rng.choice(
            [
                "enqueue",
                "enqueue",
                "reserve",
                "reserve",
                "settle",
                "settle",
                "turn",
                "extend",
                "wait",
                "redrive",
                "remove",
            ]
        )
        await getattr(self, name)()
        for queue in QUEUES:
            await self.both("depth", queue)

    async def both(self, name: str, *args: Any, **kwargs: Any) -> Any:
        ours, reference = [await getattr(driver, name)(*args, **kwargs) for driver in self.drivers]
        assert ours == reference, (name, args, kwargs)
        return ours

    def new_messages(self, most: int) -> list[Message]:
        return [self.new_message() for _ in range(self.rng.randint(0, most))]

    def new_message(self) -> Message:
        # An id may come again while its message lives; an id of the dead is a case of its own.
        if not self.ids or self.rng.random() < 0.8:
            self.ids.append(f"m{len(self.ids)}")
        return Message(
            id=self.ids[-1],
            queue=self.rng.choice(QUEUES),
            body=self.rng.randbytes(self.rng.choice([0, 5, 5000])),
            delay_s=self.rng.choice([0, 0, 0, 0.25, 1e-7, 90]),
        )

    async def enqueue(self) -> None:
        await self.both("enqueue", self.new_messages(6))

    async def reserve(self) -> None:
        queues = self.rng.choices(QUEUES, k=self.rng.randint(1, 4))
        limit = self.rng.randint(0, 7)
        found = [await each.reserve(queues, limit=limit, lease_s=10) for each in self.drivers]
        self.take(*found)

    def take(self, ours: Sequence[Lease], reference: Sequence[Lease]) -> None:
        assert [replace(lease, token="") for lease in ours] == [replace(lease, token="") for lease in reference]
        self.leases += zip(ours, reference, strict=True)

    def entries(self) -> list[list[tuple[Lease, Settlement]]]:
        chosen = self.rng.choices(self.leases, k=min(5, len(self.leases)))  # stale ones and duplicates too
        settlements = [self.settlement() for _ in chosen]
        return [[(pair[side], each) for pair, each in zip(chosen, settlements, strict=True)] for side in (0, 1)]

    def settlement(self) -> Settlement:
        rng = self.rng
        error = rng.choice([None, ErrorRecord(type="E", message=f"{rng.random()} \ud800", traceback="t")])
        follow_ups = tuple(self.new_messages(2)) if rng.random() < 0.3 else ()
        counted, crashed = rng.random() < 0.5, rng.random() < 0.3
        match rng.randrange(3):
            case 0:
                result = rng.choice([None, b"", b"result"])
                return Complete(result=result, result_ttl_s=rng.choice([0, 30]), follow_ups=follow_ups)
            case 1:
                delay_s = rng.choice([0, 5, 0.000_000_1])
                return Release(delay_s=delay_s, counted=counted, crashed=crashed, error=error, follow_ups=follow_ups)
            case _:
                reason = rng.choice(list(DeadReason))
                return Bury(reason=reason, counted=counted, crashed=crashed, error=error, follow_ups=follow_ups)

    async def settle(self) -> None:
        ours, reference = self.entries()
        assert await self.drivers[0].settle(ours) == await self.drivers[1].settle(reference)

    async def turn(self) -> None:
        entries = self.entries()
        limit = self.rng.randint(0, 5)
        (lost, ours), (expected, reference) = [
            await driver.turn(entries[side], ["b", "a"], limit=limit, lease_s=10)
            for side, driver in enumerate(self.drivers)
        ]
        assert lost == expected
        self.take(ours, reference)

    async def extend(self) -> None:
        chosen = self.rng.choices(self.leases, k=min(4, len(self.leases)))
        lost = [
            await each.extend([pair[side] for pair in chosen], lease_s=20) for side, each in enumerate(self.drivers)
        ]
        assert lost[0] == lost[1]

    async def wait(self) -> None:
        self.clock.at += self.rng.choice([0.000_001, 0.25, 4, 11, 40])

    async def redrive(self) -> None:
        await self.both("redrive", self.rng.choice(QUEUES), limit=self.rng.randint(0, 3))

    async def remove(self) -> None:
        rng = self.rng
        some = rng.choices([*self.ids, "nobody", "\ud800"], k=3)
        name, *args = rng.choice([("cancel", some), ("discard", some), ("purge", rng.choice(QUEUES))])
        if rng.random() < 0.3:
            await self.both(name, *args)

    async def compare_all(self) -> None:
        await self.both("queues")
        for message_id in [*self.ids, "nobody", "\ud800"]:
            await self.both("find", message_id)
            await self.both("fetch_result", message_id)
        for queue in QUEUES:
            for state in [None, *State]:
                ours, reference = [await pages(driver, queue, state) for driver in self.drivers]
                assert ours == reference


async def pages(driver: Any, queue: str, state: State | None) -> list[list[StoredMessage]]:
    """Return all pages of a listing; what a cursor looks like is each driver's own affair."""
    page = await driver.list_messages(queue, state=state, limit=3)
    found = [page.messages]
    while page.cursor is not None:
        page = await driver.list_messages(queue, state=state, limit=3, cursor=page.cursor)
        found.append(page.messages)
    return found


@pytest.mark.parametrize("seed", range(25))
async def test_random_programs_do_the_same_as_the_reference(tmp_path: Path, seed: int) -> None:
    clock = ManualClock()
    ours, reference = SQLiteDriver(tmp_path / "queue.db", durability="normal"), MemoryDriver(clock=clock)
    ours._clock = clock  # type: ignore[assignment]  # the file's own clock is the machine's
    program = Program(seed, ours, reference, clock)

    for _ in range(60):
        await program.step()
    await program.compare_all()

    await ours.close()


# -- waking --------------------------------------------------------------------------------------


async def test_a_lease_made_shorter_wakes_its_queue_and_a_renewal_nobody(tmp_path: Path) -> None:
    driver = SQLiteDriver(tmp_path / "queue.db")
    await driver.enqueue([Message(id=queue, queue=queue, body=b"") for queue in ("a", "b")])
    leases = await driver.reserve(["a", "b"], limit=2, lease_s=60)

    with driver._wakeups.waiting(["a"]) as waiter, driver._wakeups.waiting(["b"]) as other:
        await driver.extend(leases, lease_s=120)
        renewed = await waiter.wait(0.1)
        await driver.extend(leases[:1], lease_s=1)
        shortened = await waiter.wait(SOON_S), await other.wait(0.1)

    assert (renewed, shortened) == (False, (True, False))
    await driver.close()


# -- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "0", "-1", "1.0", "²", "x", "9" * 28, "9" * 5000, "\ud800"])
async def test_a_token_that_nobody_gave_is_lost(tmp_path: Path, token: str) -> None:
    driver = SQLiteDriver(tmp_path / "queue.db")
    await driver.enqueue([Message(id="m1", queue="a", body=b"")])
    (lease,) = await driver.reserve(["a"], limit=1, lease_s=30)
    forged = replace(lease, token=token)

    assert await driver.settle([(forged, Complete())]) == {"m1"}
    assert await driver.extend([forged], lease_s=30) == {"m1"}
    assert await driver.settle([(replace(lease, message_id="m2"), Complete())]) == {"m2"}

    assert await driver.settle([(lease, Complete())]) == set()
    await driver.close()


async def test_a_lease_from_an_earlier_life_of_an_id_is_stale(tmp_path: Path) -> None:
    driver = SQLiteDriver(tmp_path / "queue.db")
    await driver.enqueue([Message(id="m1", queue="a", body=b"")])
    (first,) = await driver.reserve(["a"], limit=1, lease_s=30)
    await driver.settle([(first, Complete(follow_ups=(Message(id="m1", queue="a", body=b""),)))])
    await driver.reserve(["a"], limit=1, lease_s=30)

    assert await driver.settle([(first, Complete())]) == {"m1"}
    await driver.close()


# -- large batches and far times -----------------------------------------------------------------


@pytest.mark.slow
async def test_a_hundred_thousand_messages_are_one_batch(tmp_path: Path) -> None:
    driver = SQLiteDriver(tmp_path / "queue.db", durability="normal")
    messages = [Message(id=f"m{n}", queue="a", body=b"") for n in range(100_000)]

    assert len(await driver.enqueue(messages)) == 100_000
    leases = await driver.reserve(["a"], limit=100_000, lease_s=30)
    assert [lease.message_id for lease in leases] == [message.id for message in messages]
    assert await driver.settle([(lease, Complete()) for lease in leases]) == set()

    assert await driver.queues() == []
    await driver.close()


async def test_a_delay_beyond_all_ages_is_kept(tmp_path: Path) -> None:
    driver = SQLiteDriver(tmp_path / "queue.db")

    await driver.enqueue([Message(id="m1", queue="a", body=b"", delay_s=1e300)])

    assert (await driver.depth("a")).scheduled == 1
    await driver.close()


# -- query plans ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A file with many scheduled and dead rows, whose statistics the planner has or has not."""
    import asyncio

    path = tmp_path_factory.mktemp("plans") / "queue.db"

    async def make() -> None:
        driver = SQLiteDriver(path)
        await driver.open()
        await driver.close()

    asyncio.run(make())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT"
        connection.execute("BEGIN")
        connection.execute(
            "INSERT INTO asynctasq_message (id, queue, visible_us, enqueued_us, body) "
            f"{rows} 's' || i, 'a', ? + i, 0, x'' FROM n",
            (30_000, int(NOW * 1e6)),
        )
        connection.execute(
            "INSERT INTO asynctasq_message (id, queue, visible_us, enqueued_us, body, death, reason) "
            f"{rows} 'd' || i, 'a', 0, 0, x'', i, 'failed' FROM n",
            (3_000,),
        )
        connection.execute("COMMIT")
        yield connection


def plans(connection: sqlite3.Connection, steps: Steps[Any]) -> list[str]:
    """Return the plan of every statement that the operation consists of."""
    found: list[str] = []

    def execute(sql: str, params: Any) -> list[tuple[Any, ...]]:
        if not sql.startswith("INSERT"):
            explained = connection.execute(f"EXPLAIN QUERY PLAN {sql}", params).fetchall()
            found.append(" / ".join(row[3] for row in explained))
        return connection.execute(sql, params).fetchall()

    connection.execute("BEGIN")
    try:
        run_plain(steps, execute)
    finally:
        connection.execute("ROLLBACK")
    return found


LEASE = Lease(
    message_id="s1", queue="a", body=b"", token=str(1 << 32 | 3), attempt=1, crashes=0, enqueued_at=0, expires_at=0
)
ERROR = ErrorRecord(type="E", message="m")
LATER_US = int(NOW * 1e6) + 20_000
SCANNED = {"json_each", "wanted", "name", "CONSTANT"}
"""What may be read from end to end: lists that we give, and what a walk of an index has found."""


@pytest.mark.parametrize("analyzed", [False, True])
@pytest.mark.parametrize(
    "operation",
    [
        lambda: statements.reserve([*lines_of("a"), *lines_of("b")], 100, 30, LATER_US),
        lambda: statements.next_due_unless_visible(["a"], 0),
        lambda: statements.extend([LEASE], 30, 0),
        lambda: statements.settle([(LEASE, Complete(result=b"", result_ttl_s=1))], 0),
        lambda: statements.settle([(LEASE, Release(counted=True))], 0),
        lambda: statements.settle([(LEASE, Bury(reason=DeadReason.FAILED, error=ERROR))], 0),
        lambda: statements.store([Message(id="x", queue="a", body=b"")], 0),
        lambda: inspection.redrive("a", 10, 0),
        lambda: inspection.depth("a", LATER_US),
        inspection.queues,
        lambda: inspection.find("s1", 0),
        lambda: inspection.remove('["s1"]', dead=False, now_us=0),
        lambda: endings.fetch_result("s1"),
        lambda: retention.prune(["a"], Retention(1, 1), LATER_US),
        lambda: retention.nothing_to_prune(["a"], Retention(1, 1), LATER_US),
    ],
)
def test_every_operation_walks_an_index(big: sqlite3.Connection, operation: Any, analyzed: bool) -> None:
    big.execute("BEGIN")
    big.execute("UPDATE asynctasq_message SET leased = 1, token = 3 WHERE arrival = 1")
    big.execute("COMMIT")
    big.execute("ANALYZE")
    if not analyzed:
        big.execute("DELETE FROM sqlite_stat1")
        big.execute("ANALYZE sqlite_schema")  # makes the planner read them again: there are none

    found = plans(big, operation())

    assert found
    for plan in found:
        assert "TEMP B-TREE" not in plan, plan
        scans = [part for part in plan.split(" / ") if part.startswith("SCAN")]
        assert all(part.split()[1] in SCANNED or "(subquery" in part for part in scans), plan


def test_reserve_costs_the_same_beside_a_million_others(big: sqlite3.Connection) -> None:
    """Count the instructions of SQLite's own machine: they do not grow with what is not due."""

    def instructions(*, without_others: bool) -> int:
        count = 0

        def tick() -> None:
            nonlocal count
            count += 1

        steps = statements.reserve(lines_of("a"), 10, 30, int(NOW * 1e6) + 10)
        big.execute("BEGIN")
        if without_others:
            ours = ", ".join(f"'s{number}'" for number in range(1, 11))
            big.execute(f"DELETE FROM asynctasq_message WHERE id NOT IN ({ours})")
        big.set_progress_handler(tick, 1)
        try:
            run_plain(steps, lambda sql, params: big.execute(sql, params).fetchall())
        finally:
            big.set_progress_handler(None, 1)
            big.execute("ROLLBACK")
        return count

    beside_many = instructions(without_others=False)
    alone = instructions(without_others=True)

    assert beside_many <= alone * 1.1
