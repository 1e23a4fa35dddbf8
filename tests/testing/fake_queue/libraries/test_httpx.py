"""httpx: a client of the test, and a server that lives in the test's own loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from asynctasq import AsyncTask
from asynctasq.testing import FakeQueue
from asynctasq.testing.servers import Servers
from tests.testing.fake_queue.libraries.claims import Notebook, check
from tests.testing.fake_queue.libraries.server import note_server, notes_address

BOTH_LOOPS = True


@asynccontextmanager
async def open_notebook(servers: Servers, folder: Path) -> AsyncIterator[Notebook]:
    limits = httpx.Limits(max_connections=2)
    async with notes_address() as url, httpx.AsyncClient(base_url=url, limits=limits) as client:

        async def note(text: str) -> None:
            (await client.post("/notes", content=text)).raise_for_status()

        async def notes() -> list[str]:
            return (await client.get("/notes")).json()

        yield Notebook(note, notes)


async def test_every_step_of_a_task_works_through_the_tests_client(notebook: Notebook) -> None:
    await check(notebook)


class Ask(AsyncTask[None]):
    max_attempts = 2
    retry_delay = 3600

    def __init__(self, url: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.url = url

    async def execute(self) -> None:
        async with httpx.AsyncClient(timeout=0.1) as client:
            await asyncio.sleep(60)
            await client.get(f"{self.url}/never")


async def test_the_librarys_own_timeout_is_real_and_the_tasks_sleep_is_virtual() -> None:
    async with note_server() as url, FakeQueue() as queue:
        await Ask(url).dispatch()
        await queue.run_until_idle()

        queue.assert_failed(Ask, with_=httpx.ReadTimeout, attempts=2)
        queue.assert_retried_at([3660])
        assert queue.clock.elapsed.total_seconds() == 60 + 3600 + 60
