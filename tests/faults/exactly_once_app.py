"""A task whose effects are rows of the queue's own database, and a worker process that dies where it is told to.

`EFFECTS_URL` says where the rows go. `FAILPOINT` names the point, or `delay:SECONDS` after the begin of an attempt, at
which the process kills itself in its second attempt. A call is "sent" when it has begun and nobody waits for it yet,
and "unread" when the other side has had time to do it and its answer was not looked at.
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiosqlite
import asyncmy
import asyncpg

from asynctasq import AsyncTask

FAILPOINT = os.environ.get("FAILPOINT", "")
RUNS: list[int] = []


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def point(name: str) -> None:
    if name == FAILPOINT and len(RUNS) == 2:
        die()


async def calling(name: str, call: Awaitable[Any]) -> Any:
    """Await a call, or die in the midst of it."""
    if len(RUNS) == 2 and FAILPOINT in {f"{name} sent", f"{name} unread"}:
        under_way = asyncio.ensure_future(call)
        await asyncio.sleep(0)
        if FAILPOINT.endswith("unread"):
            time.sleep(0.05)  # the loop stands still, the other side does not
        assert not under_way.done() or FAILPOINT.endswith("unread")
        die()
    return await call


def begun(number: int) -> None:
    RUNS.append(number)
    if FAILPOINT.startswith("delay:") and len(RUNS) == 2:
        timer = threading.Timer(float(FAILPOINT.removeprefix("delay:")), die)
        timer.daemon = True
        timer.start()


@dataclass
class Database:
    connection: Any
    begin: Callable[[], Awaitable[Any]]
    run: Callable[[str], Awaitable[Any]]
    commit: Callable[[], Awaitable[Any]]
    close: Callable[[], Awaitable[Any]]


async def open_database(url: str) -> Database:
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        file = await aiosqlite.connect(parts.path[1:], isolation_level=None, timeout=20)

        async def begin() -> None:
            await file.execute("BEGIN IMMEDIATE")

        return Database(file, begin, file.execute, file.commit, file.close)
    if parts.scheme == "postgresql":
        postgres = await asyncpg.connect(url)
        transaction = postgres.transaction()
        return Database(postgres, transaction.start, postgres.execute, transaction.commit, postgres.close)
    mysql = await asyncmy.connect(
        host=parts.hostname, port=parts.port, user=parts.username, password="", db=parts.path.strip("/")
    )

    async def run(statement: str) -> None:
        async with mysql.cursor() as cursor:
            await cursor.execute(statement)

    return Database(mysql, mysql.begin, run, mysql.commit, mysql.ensure_closed)


class Effect(AsyncTask[None]):
    """Adds one row, and one to a counter."""

    max_crashes = 1000
    number: int

    async def execute(self) -> None:
        begun(self.number)
        point("start")
        database = await open_database(os.environ["EFFECTS_URL"])
        point("before begin")
        await calling("begin", database.begin())
        point("after begin")
        await calling("write", database.run(f"INSERT INTO effect VALUES ({self.number})"))
        point("after a write")
        await self.settle(database)
        point("settled")
        await calling("late write", database.run("UPDATE counter SET late = late + 1"))
        point("before commit")
        await calling("commit", database.commit())
        point("after commit")
        await database.close()
        point("before return")

    async def settle(self, database: Database) -> None:
        block = self.complete_in(database.connection)  # by hand what `async with` does, to strike in its end
        await block.__aenter__()
        point("in the block")
        await calling("write in the block", database.run("UPDATE counter SET n = n + 1"))
        point("end of the block")
        await calling("settle", block.__aexit__(None, None, None))


class MayRepeat(Effect):
    """The same without `complete_in`: the worker settles it, after the commit."""

    async def settle(self, database: Database) -> None:
        pass
