"""psycopg, asynchronous: one connection of the test, behind a lock, as a small application has it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg

from asynctasq.testing.servers import Servers
from tests.codec.orm.databases import database
from tests.testing.fake_queue.libraries.claims import Notebook, check

BOTH_LOOPS = True


@asynccontextmanager
async def open_notebook(servers: Servers, folder: Path) -> AsyncIterator[Notebook]:
    with database("postgres", servers, folder) as own:
        async with await psycopg.AsyncConnection.connect(own.dsn, autocommit=True) as connection:
            await connection.execute("CREATE TABLE notes (id serial, text text)")
            one_at_a_time = asyncio.Lock()

            async def note(text: str) -> None:
                async with one_at_a_time, connection.transaction():
                    await connection.execute("INSERT INTO notes (text) VALUES (%s)", [text])

            async def notes() -> list[str]:
                rows = await connection.execute("SELECT text FROM notes ORDER BY id")
                return [text for (text,) in await rows.fetchall()]

            yield Notebook(note, notes)


async def test_every_step_of_a_task_works_through_the_tests_connection(notebook: Notebook) -> None:
    await check(notebook)
