"""redis.asyncio: a client with a pool of connections that wait for one another."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import redis.asyncio

from asynctasq import AsyncTask
from asynctasq.testing import FakeQueue
from asynctasq.testing.servers import Servers
from tests.testing.fake_queue.libraries.claims import Notebook, check

BOTH_LOOPS = True


@asynccontextmanager
async def open_notebook(servers: Servers, folder: Path) -> AsyncIterator[Notebook]:
    key = f"notes-{uuid.uuid4().hex}"
    pool = redis.asyncio.BlockingConnectionPool.from_url(servers.redis().url, max_connections=2, decode_responses=True)
    async with redis.asyncio.Redis.from_pool(pool) as client:

        async def note(text: str) -> None:
            await client.rpush(key, text)

        async def notes() -> list[str]:
            return await client.lrange(key, 0, -1)

        yield Notebook(note, notes)
        await client.delete(key)


async def test_every_step_of_a_task_works_through_the_tests_client(notebook: Notebook) -> None:
    await check(notebook)


class Pop(AsyncTask[bytes]):
    def __init__(self, url: str, key: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.url, self.key = url, key

    async def execute(self) -> bytes:
        async with redis.asyncio.Redis.from_url(self.url) as client:
            _, value = await client.blpop([self.key], timeout=5)
            return value


async def test_a_task_that_waits_at_the_server_holds_virtual_time_until_the_test_answers(
    conformance_servers: Servers,
) -> None:
    url, key = conformance_servers.redis().url, f"list-{uuid.uuid4().hex}"
    async with redis.asyncio.Redis.from_url(url) as client, FakeQueue() as queue:
        await Pop(url, key).dispatch()

        running = asyncio.create_task(queue.run_until_idle())
        while not any("blpop" in each["cmd"] for each in await client.client_list()):
            await asyncio.sleep(0.01)
        await client.rpush(key, "here")
        await running

        queue.assert_completed(Pop)
        assert queue.clock.elapsed.total_seconds() == 0
