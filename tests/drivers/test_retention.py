"""What a store keeps: results leave as fast as they expire, dead letters by age and number, each by an index."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import pytest

from asynctasq.config import load_settings
from asynctasq.core.setup import driver_from
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.mysql_driver import MySQLDriver
from asynctasq.drivers.mysql_driver.pool import connect
from asynctasq.drivers.mysql_driver.statements import Statements as MySQLStatements
from asynctasq.drivers.postgres_driver import PostgresDriver
from asynctasq.drivers.postgres_driver.statements import Names, Statements
from asynctasq.drivers.redis_driver import RedisDriver
from asynctasq.drivers.retention import DEAD_MAX, DEAD_TTL_S, PRUNED_AT_ONCE
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.errors import ConfigError
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Message, State
from asynctasq.testing.conformance.harnesses.mysql import MySQLHarness
from asynctasq.testing.conformance.harnesses.postgres import PostgresHarness
from asynctasq.testing.conformance.harnesses.redis import RedisHarness
from asynctasq.testing.conformance.harnesses.sqlite import SQLiteHarness
from asynctasq.testing.servers import Servers

Q = "q"
KEPT = 50
TTL_S = 100.0
AT_ONCE = 500


class Store:
    """A store of a harness, a driver with short retention on it, and how many results it holds."""

    def __init__(self, kind: str, servers: Servers) -> None:
        options: dict[str, Any] = {"dead_ttl": TTL_S, "dead_max": KEPT}
        self.kind = kind
        self.driver: Any
        match kind:
            case "memory":
                self.harness, self.driver = None, MemoryDriver(**options)
            case "sqlite":
                self.harness = SQLiteHarness()
                self.driver = SQLiteDriver(self.harness._path, durability="normal", **options)
            case "postgres":
                self.harness = PostgresHarness(servers.postgres())
                self.driver = PostgresDriver(self.harness.url, **options)
            case "mysql":
                self.harness = MySQLHarness(servers.mysql())
                self.driver = MySQLDriver(self.harness.url, **options)
            case _:
                self.harness = RedisHarness(servers.redis())
                self.driver = RedisDriver(self.harness._server.url, namespace=self.harness._namespace, **options)

    async def run(self, statement: str) -> list[Any]:
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self.harness._path)) as connection:
                return connection.execute(statement).fetchall()
        if self.kind == "postgres":
            transaction = await self.harness.begin()
            rows = await transaction.connection.fetch(statement)
            await transaction.commit()
            return list(rows)
        connection = await connect(self.driver._address)
        try:
            return list((await connection.run(statement))[0].rows)
        finally:
            await connection.close()

    async def results(self) -> int:
        if self.kind == "memory":
            return len(self.driver._results.kept)
        table = "asynctasq_result" if self.kind == "sqlite" else "asynctasq_results"
        [(count,)] = await self.run(f"SELECT count(*) FROM {table}")
        return int(count)

    async def round(self, first: int, count: int, settlement: Any) -> None:
        """Store, reserve and settle so many messages, as a busy worker does."""
        await self.driver.enqueue(
            [Message(id=f"m{number}", queue=Q, body=b"x") for number in range(first, first + count)]
        )
        settled: list[Any] = []
        left = count
        while left or settled:
            lost, leases = await self.driver.turn(settled, [Q], limit=AT_ONCE, lease_s=600)
            assert not lost
            settled = [(lease, settlement) for lease in leases]
            left -= len(leases)


@pytest.fixture(params=["memory", "sqlite", "postgres", "mysql", "redis"])
async def store(request: pytest.FixtureRequest, conformance_servers: Servers) -> AsyncIterator[Store]:
    made = Store(request.param, conformance_servers)
    if made.harness is not None:
        await made.harness.prepare()
    yield made
    await made.driver.close()
    if made.harness is not None:
        await made.harness.clean_up()


async def test_results_leave_as_fast_as_they_expire(store: Store) -> None:
    if store.kind == "redis":  # where each result is a key with an expiry of its own
        return
    for number in range(4):
        await store.round(number * 3_000, 3_000, Complete(result=b"r" * 100, result_ttl_s=0.5))
        store.driver.clock_offset += 60

    await store.round(100_000, 4 * AT_ONCE, Complete())

    assert await store.results() == 0


async def test_an_idle_worker_removes_what_expired(store: Store) -> None:
    if store.kind == "redis":
        return
    await store.round(0, 3 * PRUNED_AT_ONCE, Complete(result=b"r", result_ttl_s=30))
    store.driver.clock_offset += 60

    while await store.driver.wait_visible([Q], wait_s=0):
        assert await store.driver.reserve([Q], limit=1, lease_s=1) == []

    assert await store.results() == 0


async def test_the_newest_dead_letters_are_kept(store: Store) -> None:
    for number in range(3):
        await store.round(number * 1_000, 1_000, Bury(reason=DeadReason.FAILED))
        store.driver.clock_offset += 10
    await store.round(100_000, 4 * AT_ONCE, Complete())

    assert (await store.driver.depth(Q)).dead == KEPT
    page = await store.driver.list_messages(Q, state=State.DEAD, limit=2 * KEPT)
    assert {message.id for message in page.messages} <= {f"m{number}" for number in range(2_000, 3_000)}
    await store.driver.enqueue([Message(id="m5", queue=Q, body=b"again")])
    assert (await store.driver.depth(Q)).ready == 1


async def test_old_dead_letters_go_those_of_other_queues_stay_for_their_workers(store: Store) -> None:
    await store.round(0, KEPT, Bury(reason=DeadReason.FAILED))
    await store.driver.enqueue([Message(id="other", queue="other", body=b"x")])
    [lease] = await store.driver.reserve(["other"], limit=1, lease_s=60)
    await store.driver.settle([(lease, Bury(reason=DeadReason.FAILED))])
    store.driver.clock_offset += TTL_S - 10
    await store.round(1_000, 1, Complete())
    assert (await store.driver.depth(Q)).dead == KEPT

    store.driver.clock_offset += 20
    await store.round(2_000, 1, Complete())

    assert (await store.driver.depth(Q)).dead == 0
    await store.driver.reserve(["other"], limit=1, lease_s=60)
    store.driver.clock_offset += 20
    await store.driver.reserve(["other"], limit=1, lease_s=60)
    assert (await store.driver.depth("other")).dead == 0
    assert await store.driver.queues() == []


async def test_what_is_to_go_is_found_by_an_index(store: Store) -> None:
    """SQLite's plans are tested with those of its other statements; memory and Redis keep them in order."""
    if store.kind == "postgres":
        sql = Statements(Names("public", "asynctasq"))
        await store.run(
            "INSERT INTO asynctasq_messages (id, queue, visible_us, enqueued_us, body, reason) "
            "SELECT 'd' || i, 'q' || i % 50, i, 0, '', 'failed' FROM generate_series(1, 50000) i"
        )
        await store.run(
            "INSERT INTO asynctasq_results SELECT 'r' || i, '', 9e18::bigint - i FROM generate_series(1, 50000) i"
        )
        for statement, values in (
            (sql.prune_results, "0, 1000"),
            (sql.prune_dead, "0, ARRAY['q1'], 9000000000000000, 100000, 1000"),
        ):
            transaction = await store.harness.begin()
            await transaction.connection.execute("ANALYZE asynctasq_messages, asynctasq_results")
            await transaction.connection.execute(f"PREPARE pruned AS {statement}")
            rows = await transaction.connection.fetch(f"EXPLAIN EXECUTE pruned ({values})")
            await transaction.rollback()
            plan = "\n".join(row[0] for row in rows)
            assert "Seq Scan" not in plan, plan
            assert "Join Filter" not in plan, plan
            assert "asynctasq_results_expiry" in plan or plan.count("asynctasq_messages_dead") == 2, plan
    if store.kind == "mysql":
        made = MySQLStatements("asynctasq")
        wanted = {
            made.prune_results(now="1", limit=10): "expiry",
            made.dead_too_old("q", ttl_us=1, limit=10, now="1"): "due",
            made.dead_too_many("q", keep=10, limit=10): "due",
        }
        for statement, key in wanted.items():
            plan = [tuple(map(str, row)) for row in await store.run(f"EXPLAIN {statement}")]
            assert any(f"b'{key}'" in row or key in row for row in plan), plan
            assert not any("filesort" in part for row in plan for part in row), plan


def test_settings_reach_every_driver_that_keeps_dead_letters() -> None:
    for name in ("memory", "sqlite", "redis", "postgres", "mysql", "mariadb://h/d", "redis://h"):
        plain = driver_from(load_settings({}), name).capabilities
        chosen = driver_from(load_settings({"dead_ttl": 5, "dead_max": 7}), name).capabilities
        assert (plain.dead_ttl, plain.dead_max) == (DEAD_TTL_S, DEAD_MAX)
        assert (chosen.dead_ttl, chosen.dead_max) == (5, 7)
    in_url = driver_from(load_settings({"dead_ttl": 5, "dead_max": 7}), "sqlite:///q.db?dead_ttl=9").capabilities
    assert (in_url.dead_ttl, in_url.dead_max) == (9, 7)


def test_the_environment_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCTASQ_DEAD_TTL", "60")
    monkeypatch.setenv("ASYNCTASQ_DEAD_MAX", "10")

    settings = load_settings({})

    assert (settings.dead_ttl, settings.dead_max) == (60, 10)


@pytest.mark.parametrize("option", [{"dead_ttl": 0}, {"dead_ttl": -1}, {"dead_max": 0}, {"dead_ttl": float("inf")}])
def test_what_would_keep_nothing_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="dead_"):
        MemoryDriver(**option)
