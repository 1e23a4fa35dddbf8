"""aiohttp: a session of the test, and a server that lives in the test's own loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from asynctasq import AsyncTask
from asynctasq.testing import FakeQueue
from asynctasq.testing.servers import Servers
from tests.testing.fake_queue.libraries.claims import Notebook, check
from tests.testing.fake_queue.libraries.server import note_server, notes_address

BOTH_LOOPS = True


@asynccontextmanager
async def open_notebook(servers: Servers, folder: Path) -> AsyncIterator[Notebook]:
    connector = aiohttp.TCPConnector(limit=2)
    async with notes_address() as url, aiohttp.ClientSession(url, connector=connector) as session:

        async def note(text: str) -> None:
            async with session.post("/notes", data=text) as answer:
                answer.raise_for_status()

        async def notes() -> list[str]:
            async with session.get("/notes") as answer:
                return await answer.json()

        yield Notebook(note, notes)


async def test_every_step_of_a_task_works_through_the_tests_session(notebook: Notebook) -> None:
    await check(notebook)


class Ask(AsyncTask[None]):
    max_attempts = 1

    def __init__(self, url: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.url = url

    async def execute(self) -> None:
        timeout = aiohttp.ClientTimeout(total=0.1)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await asyncio.sleep(60)
            await session.get(f"{self.url}/never")


async def test_the_librarys_own_timeout_is_real_and_the_tasks_sleep_is_virtual() -> None:
    async with note_server() as url, FakeQueue() as queue:
        await Ask(url).dispatch()
        await queue.run_until_idle()

        queue.assert_failed(Ask, with_=TimeoutError, attempts=1)
        assert queue.clock.elapsed.total_seconds() == 60
