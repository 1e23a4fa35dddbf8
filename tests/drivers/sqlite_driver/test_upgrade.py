"""A file of the first schema is brought up to date when it is opened."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.drivers.sqlite_driver.schema import APPLICATION_ID, SCHEMA, SCHEMA_VERSION
from asynctasq.kernel.messages import Message, Progress, UniqueKey


@pytest.mark.parametrize("ours_alone", [True, False])
async def test_a_file_of_the_first_schema_keeps_its_messages(tmp_path: Path, ours_alone: bool) -> None:
    path = tmp_path / "queue.db"
    with closing(sqlite3.connect(path)) as first, first:
        for statement in SCHEMA:
            first.execute(statement)
        first.execute("INSERT INTO asynctasq_schema VALUES (1)")
        first.execute(
            "INSERT INTO asynctasq_message (id, queue, visible_us, enqueued_us, body) VALUES ('m','q',1,1,x'00')"
        )
        if ours_alone:
            first.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            first.execute("PRAGMA user_version = 1")
        else:
            first.execute("CREATE TABLE account (id)")
    driver = SQLiteDriver(path)
    driver.holder = "w"

    [lease] = await driver.reserve(["q"], limit=1, lease_s=30)
    await driver.report_progress([(lease, Progress(1, 2))])

    found = await driver.find("m")
    assert found is not None
    assert (found.reserved_by, found.progress) == ("w", Progress(1, 2))
    unique = UniqueKey(key="k")
    assert await driver.enqueue([Message(id=name, queue="q", body=b"", unique=unique) for name in "ab"]) == ["a"]
    await driver.enqueue(
        [Message(id=name, queue="fair", body=b"", fair_key=name[0]) for name in ("x1", "x2", "x3", "y1")]
    )
    assert [one.message_id for one in await driver.reserve(["fair"], limit=9, lease_s=30)] == ["x1", "x2", "y1", "x3"]
    await driver.close()
    await SQLiteDriver(path).open()
    with closing(sqlite3.connect(path)) as after:
        assert after.execute("SELECT max(version) FROM asynctasq_schema").fetchone() == (SCHEMA_VERSION,)
        assert after.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION if ours_alone else 0,)
