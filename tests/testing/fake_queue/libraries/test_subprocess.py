"""asyncio.create_subprocess_exec: programs that run for a while, write, and end."""

import asyncio
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from asynctasq.testing.servers import Servers
from tests.testing.fake_queue.libraries.claims import Notebook, check

BOTH_LOOPS = True


@asynccontextmanager
async def open_notebook(servers: Servers, folder: Path) -> AsyncIterator[Notebook]:
    path = folder / "notes.txt"

    async def run(*command: str, text: str = "") -> str:
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE if text else DEVNULL, stdout=PIPE)
        output, _ = await process.communicate(text.encode() or None)
        assert process.returncode == 0
        return output.decode()

    async def note(text: str) -> None:
        await run("tee", "-a", str(path), text=f"{text}\n")

    async def notes() -> list[str]:
        return (await run("cat", str(path))).splitlines()

    yield Notebook(note, notes)


async def test_every_step_of_a_task_works_by_programs(notebook: Notebook) -> None:
    await check(notebook)
