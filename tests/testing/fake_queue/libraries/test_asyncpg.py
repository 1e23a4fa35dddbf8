"""asyncpg: a pool that the test's fixture has opened."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from asynctasq import AsyncTask
from asynctasq.testing import FakeQueue
from asynctasq.testing.servers import Servers
from tests.codec.orm.databases import database
from tests.testing.fake_queue.libraries.claims import Notebook, check

BOTH_LOOPS = True


@asynccontextmanager
async def open_notebook(servers: Servers, folder: Path) -> AsyncIterator[Notebook]:
    with database("postgres", servers, folder) as own:
        async with asyncpg.create_pool(own.dsn, min_size=1, max_size=2) as pool:
            await pool.execute("CREATE TABLE notes (id serial, text text)")

            async def note(text: str) -> None:
                async with pool.acquire() as connection, connection.transaction():
                    await connection.execute("INSERT INTO notes (text) VALUES ($1)", text)

            async def notes() -> list[str]:
                return [row["text"] for row in await pool.fetch("SELECT text FROM notes ORDER BY id")]

            yield Notebook(note, notes)


async def test_every_step_of_a_task_works_through_the_tests_pool(notebook: Notebook) -> None:
    await check(notebook)


class SlowQuery(AsyncTask[None]):
    max_attempts = 1

    def __init__(self, dsn: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.dsn = dsn

    async def execute(self) -> None:
        connection = await asyncpg.connect(self.dsn)
        try:
            with pytest.raises(TimeoutError):
                await connection.execute("SELECT pg_sleep(30)", timeout=0.2)
            await asyncio.sleep(60)
            assert await connection.fetchval("SELECT 1") == 1
        finally:
            await connection.close()


async def test_the_librarys_own_timeout_is_real_and_the_tasks_sleep_is_virtual(
    conformance_servers: Servers, tmp_path: Path
) -> None:
    with database("postgres", conformance_servers, tmp_path) as own:
        async with FakeQueue() as queue:
            await SlowQuery(own.dsn).dispatch()
            await queue.run_until_idle()

            queue.assert_completed(SlowQuery)
            assert queue.clock.elapsed.total_seconds() == 60
