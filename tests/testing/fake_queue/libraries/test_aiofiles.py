"""aiofiles: files that are written and read in threads."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiofiles

from asynctasq.testing.servers import Servers
from tests.testing.fake_queue.libraries.claims import Notebook, check

BOTH_LOOPS = True


@asynccontextmanager
async def open_notebook(servers: Servers, folder: Path) -> AsyncIterator[Notebook]:
    async with aiofiles.open(folder / "notes.txt", "a") as file:

        async def note(text: str) -> None:
            await file.write(f"{text}\n")
            await file.flush()

        async def notes() -> list[str]:
            async with aiofiles.open(folder / "notes.txt") as written:
                return [line.removesuffix("\n") async for line in written]

        yield Notebook(note, notes)


async def test_every_step_of_a_task_works_through_the_tests_file(notebook: Notebook) -> None:
    await check(notebook)
