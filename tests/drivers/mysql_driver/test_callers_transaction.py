"""Storing and settling in transactions that belong to the caller, on MySQL and MariaDB."""

from contextlib import aclosing
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from asynctasq.drivers.mysql_driver.pool import Connection
from asynctasq.errors import UnsupportedFeature
from asynctasq.kernel.messages import Complete, ErrorRecord, Lease, Message, Release
from asynctasq.testing.conformance.harnesses.mysql import MySQLHarness
from asynctasq.testing.servers import Servers
from tests.drivers.mysql_driver.support import EMPTY, ids, messages


@pytest.fixture
def engine_url(store: MySQLHarness) -> str:
    return store.url.replace("mysql://", "mysql+asyncmy://")


async def test_a_session_of_sqlalchemy_commits_or_takes_back(store: MySQLHarness, engine_url: str) -> None:
    driver = store.create()
    engine = create_async_engine(engine_url)
    hostile = Message(id="%s:x?'", queue="q", body=b"%s\0'")

    async with aclosing(_Disposed(engine)), AsyncSession(engine) as session:
        assert await driver.enqueue_in(session, [hostile, *messages("b"), hostile]) == [hostile.id, "b"]
        assert await driver.depth("q") == EMPTY
        await session.rollback()
        assert await driver.depth("q") == EMPTY
        assert await driver.enqueue_in(session, [hostile]) == [hostile.id]
        assert await driver.enqueue_in(session, [hostile]) == []
        await session.commit()

    assert ids(await driver.reserve(["q"], limit=9, lease_s=9)) == [hostile.id]


async def test_synchronous_code_enqueues_in_its_session(store: MySQLHarness, engine_url: str) -> None:
    driver = store.create()
    engine = create_async_engine(engine_url)

    async with aclosing(_Disposed(engine)), AsyncSession(engine) as session:
        new = await session.run_sync(lambda sync: driver.enqueue_in_sync(sync, messages("a", "b")))
        await session.commit()

    assert new == ["a", "b"]
    assert (await driver.depth("q")).ready == 2


class _Disposed:
    def __init__(self, engine: Any) -> None:
        self._engine = engine

    async def aclose(self) -> None:
        await self._engine.dispose()


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
async def test_settling_follows_the_callers_transaction(store: MySQLHarness, isolation: str) -> None:
    driver = store.create()
    await driver.enqueue(messages("a", "b"))
    a, b = await driver.reserve(["q"], limit=2, lease_s=60)
    work: list[tuple[Lease, Complete | Release]] = [
        (a, Complete(result=b"r", result_ttl_s=60, follow_ups=tuple(messages("next")))),
        (b, Release(counted=True, error=ErrorRecord(type="E", message="m"))),
    ]

    undone, done = await store.begin(isolation), await store.begin(isolation)
    assert await driver.settle_in(undone.connection, work) == set()
    await undone.rollback()
    assert (await driver.depth("q")).reserved == 2
    assert await driver.settle_in(done.connection, work) == set()
    await done.commit()

    assert await driver.fetch_result("a") == b"r"
    assert [(one.message_id, one.attempt) for one in await driver.reserve(["q"], limit=9, lease_s=9)] == [
        ("b", 2),
        ("next", 1),
    ]
    assert await driver.settle(work) == {"a", "b"}


async def test_a_connection_to_another_database_is_refused(store: MySQLHarness, conformance_servers: Servers) -> None:
    driver = store.create()
    other = MySQLHarness(conformance_servers.mysql())
    await other.prepare()
    transaction = await other.begin()

    with pytest.raises(UnsupportedFeature, match="another database"):
        await driver.enqueue_in(transaction.connection, messages("a"))
    with pytest.raises(UnsupportedFeature, match="another database"):
        await driver.settle_in(transaction.connection, [(_no_lease(), Complete())])

    await transaction.rollback()
    await other.clean_up()


async def test_the_same_database_name_on_another_server_is_refused(store: MySQLHarness, connection: Connection) -> None:
    driver = store.create()
    await driver.open()
    # Another server's tables differ in nothing but the id they were given when they were made.
    await connection.run("UPDATE asynctasq_schema SET store = UUID()")
    transaction = await store.begin()

    with pytest.raises(UnsupportedFeature, match="another database"):
        await driver.enqueue_in(transaction.connection, messages("a"))
    await transaction.rollback()


async def test_a_connection_without_a_transaction_is_refused(store: MySQLHarness) -> None:
    driver = store.create()
    transaction = await store.begin()
    await transaction.connection.rollback()
    await transaction.connection.autocommit(True)

    with pytest.raises(UnsupportedFeature, match="no transaction"):
        await driver.enqueue_in(transaction.connection, messages("a"))
    with pytest.raises(UnsupportedFeature, match="not a connection"):
        await driver.enqueue_in(object(), messages("a"))
    await transaction.rollback()


def _no_lease() -> Lease:
    return Lease(
        message_id="a", queue="q", body=b"", token="1.1", attempt=1, crashes=0, enqueued_at=0.0, expires_at=0.0
    )
