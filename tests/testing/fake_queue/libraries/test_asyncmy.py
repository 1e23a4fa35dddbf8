"""asyncmy: a pool that the test's fixture has opened."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncmy

from asynctasq.testing.servers import Servers
from tests.testing.fake_queue.libraries.claims import Notebook, check

BOTH_LOOPS = True


@asynccontextmanager
async def open_notebook(servers: Servers, folder: Path) -> AsyncIterator[Notebook]:
    parts, name = urlsplit(servers.mysql().url), f"notes_{uuid.uuid4().hex[:12]}"
    pool = await asyncmy.create_pool(
        host=parts.hostname, port=parts.port, user=parts.username, autocommit=True, minsize=1, maxsize=2
    )
    try:
        async with pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(f"CREATE DATABASE {name}")
            await cursor.execute(f"CREATE TABLE {name}.notes (id int AUTO_INCREMENT PRIMARY KEY, text text)")

        async def note(text: str) -> None:
            async with pool.acquire() as connection, connection.cursor() as cursor:
                await cursor.execute(f"INSERT INTO {name}.notes (text) VALUES (%s)", (text,))

        async def notes() -> list[str]:
            async with pool.acquire() as connection, connection.cursor() as cursor:
                await cursor.execute(f"SELECT text FROM {name}.notes ORDER BY id")
                return [text for (text,) in await cursor.fetchall()]

        yield Notebook(note, notes)

        async with pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(f"DROP DATABASE {name}")
    finally:
        pool.close()
        await pool.wait_closed()


async def test_every_step_of_a_task_works_through_the_tests_pool(notebook: Notebook) -> None:
    await check(notebook)
