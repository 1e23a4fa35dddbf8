"""The SQLite driver inside a transaction of the caller: sqlite3, aiosqlite, and a plain `execute`."""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from asynctasq.drivers.sqlite_driver import SQLiteDriver, statements
from asynctasq.drivers.sqlite_driver.callers_transaction import in_transaction
from asynctasq.errors import BodyTooLarge, DriverError, DriverUnavailable, InvalidQueueName, UnsupportedFeature
from asynctasq.kernel.messages import Complete, Release
from tests.drivers.sqlite_driver.support import message, run_plain
from tests.patience import SOON_S


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
async def driver(path: Path) -> AsyncIterator[SQLiteDriver]:
    driver = SQLiteDriver(path, busy_timeout_s=0.1)
    yield driver
    await driver.close()


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=0.1)) as connection:
        yield connection


async def ready(driver: SQLiteDriver) -> int:
    return (await driver.depth("mail")).ready


async def test_commit_makes_it_visible_together_with_the_callers_rows(
    driver: SQLiteDriver, connection: sqlite3.Connection
) -> None:
    await driver.open()
    connection.execute("CREATE TABLE account (id)")
    connection.execute("INSERT INTO account VALUES (1)")

    assert await driver.enqueue_in(connection, [message(1), message(1), message(2)]) == ["m1", "m2"]
    before = await ready(driver)
    connection.commit()

    assert (before, await ready(driver)) == (0, 2)
    assert connection.execute("SELECT count(*) FROM account").fetchone() == (1,)


async def test_rollback_makes_it_never_have_been(driver: SQLiteDriver, connection: sqlite3.Connection) -> None:
    await driver.open()

    await driver.enqueue_in(connection, [message(1)])
    connection.rollback()

    assert await ready(driver) == 0
    assert await driver.enqueue([message(1)]) == ["m1"]


async def test_outside_a_transaction_the_callers_commit_ends_ours(
    driver: SQLiteDriver, connection: sqlite3.Connection
) -> None:
    await driver.open()

    driver.enqueue_in_sync(connection, [message(1)])
    begun = connection.in_transaction
    with pytest.raises(DriverUnavailable):
        await driver.enqueue([message(2)])
    connection.commit()

    assert begun
    assert await driver.enqueue([message(2)]) == ["m2"]


async def test_a_waiting_reserve_wakes_at_the_callers_commit(
    driver: SQLiteDriver, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynctasq.drivers.sqlite_driver.driver.RECHECK_S", 3600.0)
    task = asyncio.create_task(driver.reserve(["mail"], limit=1, lease_s=30, wait_s=3600))
    await driver.open()
    driver.enqueue_in_sync(connection, [message(1)])
    connection.commit()

    async with asyncio.timeout(SOON_S):
        assert [lease.message_id for lease in await task] == ["m1"]


async def test_settling_with_the_callers_rows_is_both_or_neither(
    driver: SQLiteDriver, connection: sqlite3.Connection
) -> None:
    await driver.enqueue([message(1), message(2)])
    leases = await driver.reserve(["mail"], limit=2, lease_s=30)
    entries = [(leases[0], Complete(result=b"r", result_ttl_s=60, follow_ups=(message(3),)))]

    assert await driver.settle_in(connection, entries) == set()
    connection.rollback()
    assert await driver.find("m3") is None
    assert await driver.settle_in(connection, entries) == set()
    connection.commit()

    assert await driver.settle_in(connection, [*entries, (leases[1], Release(counted=True))]) == {"m1"}
    connection.commit()
    assert (await driver.fetch_result("m1"), await ready(driver)) == (b"r", 2)


async def test_rows_and_texts_may_come_in_the_callers_own_shape(
    driver: SQLiteDriver, connection: sqlite3.Connection
) -> None:
    await driver.open()
    connection.row_factory = sqlite3.Row
    connection.text_factory = bytes

    assert driver.enqueue_in_sync(connection, [message(1), message(1)]) == ["m1"]

    assert connection.text_factory is bytes
    connection.commit()


async def test_the_tables_are_made_in_the_callers_transaction(
    driver: SQLiteDriver, connection: sqlite3.Connection
) -> None:
    driver.enqueue_in_sync(connection, [message(1)])
    connection.rollback()
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)

    driver.enqueue_in_sync(connection, [message(1)])
    connection.commit()

    assert await ready(driver) == 1


async def test_another_file_is_refused(driver: SQLiteDriver, tmp_path: Path) -> None:
    for place in (":memory:", tmp_path / "other.db"):
        with closing(sqlite3.connect(place)) as other:
            with pytest.raises(UnsupportedFeature, match="one file"):
                await driver.enqueue_in(other, [message(1)])
            assert not other.in_transaction


async def test_the_same_file_by_another_name_is_accepted(driver: SQLiteDriver, path: Path, tmp_path: Path) -> None:
    await driver.open()
    (tmp_path / "link.db").symlink_to(path)

    with closing(sqlite3.connect(tmp_path / "link.db")) as other:
        assert await driver.enqueue_in(other, [message(1)]) == ["m1"]


@pytest.mark.parametrize("connection_like", [None, object(), "sqlite:///app.db"])
async def test_other_kinds_of_connection_are_refused(driver: SQLiteDriver, connection_like: Any) -> None:
    for call in (driver.enqueue_in(connection_like, [message(1)]), driver.settle_in(connection_like, [])):
        with pytest.raises(UnsupportedFeature, match="is not a connection we can use"):
            await call
    with pytest.raises(UnsupportedFeature, match="is not a connection we can use"):
        driver.enqueue_in_sync(connection_like, [message(1)])


async def test_what_can_not_be_stored_is_refused_before_anything_is(path: Path, connection: sqlite3.Connection) -> None:
    driver = SQLiteDriver(path, body_bytes_max=10)

    with pytest.raises(BodyTooLarge):
        await driver.enqueue_in(connection, [message(1), message(2, body=b"x" * 11)])
    with pytest.raises(InvalidQueueName):
        driver.enqueue_in_sync(connection, [message(1), message(2, queue="no good")])

    assert not connection.in_transaction


async def test_a_transaction_that_read_first_is_told_to_begin_immediate(
    driver: SQLiteDriver, connection: sqlite3.Connection
) -> None:
    await driver.enqueue([message(1)])
    connection.execute("BEGIN")
    connection.execute("SELECT * FROM asynctasq_message").fetchall()
    await driver.enqueue([message(2)])

    with pytest.raises(DriverUnavailable, match="BEGIN IMMEDIATE"):
        driver.enqueue_in_sync(connection, [message(3)])


async def test_a_closed_connection_is_a_driver_error(driver: SQLiteDriver, connection: sqlite3.Connection) -> None:
    connection.close()

    with pytest.raises(DriverError, match="closed"):
        driver.enqueue_in_sync(connection, [message(1)])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3 has autocommit since Python 3.12")
async def test_a_commit_that_would_do_nothing_is_refused(driver: SQLiteDriver, path: Path) -> None:
    await driver.open()
    with closing(sqlite3.connect(path, autocommit=True)) as connection:  # type: ignore[call-arg]  # Python 3.12
        with pytest.raises(UnsupportedFeature, match="autocommit"):
            driver.enqueue_in_sync(connection, [message(1)])

        connection.execute("BEGIN IMMEDIATE")
        assert driver.enqueue_in_sync(connection, [message(1)]) == ["m1"]


# -- aiosqlite -----------------------------------------------------------------------------------


@pytest.fixture
async def aio_connection(path: Path) -> AsyncIterator[aiosqlite.Connection]:
    async with aiosqlite.connect(path) as connection:
        yield connection


@pytest.mark.parametrize("begun", [False, True])
async def test_aiosqlite_commits_and_rolls_back(
    driver: SQLiteDriver, aio_connection: aiosqlite.Connection, begun: bool
) -> None:
    await driver.open()
    aio_connection.row_factory = sqlite3.Row
    if begun:
        await aio_connection.execute("BEGIN IMMEDIATE")

    assert await driver.enqueue_in(aio_connection, [message(1), message(1), message(2)]) == ["m1", "m2"]
    await aio_connection.rollback()
    after_rollback = await ready(driver)
    assert await driver.enqueue_in(aio_connection, [message(1)]) == ["m1"]
    await aio_connection.commit()

    assert (after_rollback, await ready(driver)) == (0, 1)


async def test_aiosqlite_settles(driver: SQLiteDriver, aio_connection: aiosqlite.Connection) -> None:
    await driver.enqueue([message(1)])
    leases = await driver.reserve(["mail"], limit=2, lease_s=30)

    assert await driver.settle_in(aio_connection, [(leases[0], Complete())]) == set()
    await aio_connection.commit()

    assert await driver.find("m1") is None


async def test_aiosqlite_to_another_file_is_refused(driver: SQLiteDriver) -> None:
    async with aiosqlite.connect(":memory:") as other:
        with pytest.raises(UnsupportedFeature, match="one file"):
            await driver.enqueue_in(other, [message(1)])


async def test_a_closed_aiosqlite_connection_is_a_driver_error(driver: SQLiteDriver, path: Path) -> None:
    async with aiosqlite.connect(path) as other:
        pass

    with pytest.raises(DriverError, match="is closed"):
        await driver.enqueue_in(other, [message(1)])


# -- a plain execute -----------------------------------------------------------------------------


async def test_operations_run_through_a_plain_execute(driver: SQLiteDriver, connection: sqlite3.Connection) -> None:
    now_us = driver._now_us()

    ids = run_plain(
        in_transaction(statements.store([message(1), message(2)], now_us), driver._file, begun=False),
        connection.execute,
    )
    connection.commit()

    assert (ids, await ready(driver)) == (["m1", "m2"], 2)
