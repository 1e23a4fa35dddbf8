"""Tortoise: connections that the test's fixture has initialised, and models as arguments of tasks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tortoise import Tortoise, fields
from tortoise.models import Model

from asynctasq import AsyncTask
from asynctasq.testing import FakeQueue
from asynctasq.testing.servers import Servers
from tests.codec.orm.databases import database
from tests.testing.fake_queue.libraries.claims import DELAYS, Notebook, Unavailable, check

BOTH_LOOPS = True


class Note(Model):
    id = fields.IntField(primary_key=True)
    text = fields.TextField()


@asynccontextmanager
async def open_notebook(servers: Servers, folder: Path) -> AsyncIterator[Notebook]:
    with database("postgres", servers, folder) as own:

        async def note(text: str) -> None:
            await Note.create(text=text)

        async def notes() -> list[str]:
            return [note.text for note in await Note.all().order_by("id")]

        await Tortoise.init(db_url=own.tortoise, modules={"models": [__name__]}, _enable_global_fallback=True)
        try:
            await Tortoise.generate_schemas()
            yield Notebook(note, notes)
        finally:
            await Tortoise.close_connections()


async def test_every_step_of_a_task_works_through_the_tests_connections(notebook: Notebook) -> None:
    await check(notebook)


class Grow(AsyncTask[None]):
    max_attempts = 3
    retry_delay = DELAYS

    def __init__(self, about: Note, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.about = about

    async def execute(self) -> None:
        self.about.text += "+"
        await self.about.save()
        raise Unavailable


async def test_models_load_fresh_at_each_attempt(notebook: Notebook) -> None:
    about = await Note.create(text="n")

    async with FakeQueue() as queue:
        await Grow(about).dispatch()
        await queue.run_until_idle()
        queue.assert_failed(Grow, with_=Unavailable, attempts=3)

    assert await notebook.notes() == ["n+++"]
