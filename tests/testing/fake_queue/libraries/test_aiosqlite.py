"""aiosqlite: a connection that a fixture has opened; its thread is older than the FakeQueue."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite

from asynctasq.testing.servers import Servers
from tests.testing.fake_queue.libraries.claims import Notebook, check

BOTH_LOOPS = True


@asynccontextmanager
async def open_notebook(servers: Servers, folder: Path) -> AsyncIterator[Notebook]:
    async with aiosqlite.connect(folder / "notes.db") as connection:
        await connection.execute("CREATE TABLE notes (id integer PRIMARY KEY, text text)")

        async def note(text: str) -> None:
            await connection.execute("INSERT INTO notes (text) VALUES (?)", [text])
            await connection.commit()

        async def notes() -> list[str]:
            return [text for (text,) in await connection.execute_fetchall("SELECT text FROM notes ORDER BY id")]

        yield Notebook(note, notes)


async def test_every_step_of_a_task_works_through_the_tests_connection(notebook: Notebook) -> None:
    await check(notebook)
