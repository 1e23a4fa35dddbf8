"""Run as a program by test_django: the claims for Django's ORM, awaited and in threads, on each loop.

python -m tests.testing.fake_queue.libraries.django_notes DATABASE    (a JSON object)
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import django
import uvloop
from django.conf import settings

from asynctasq.testing.servers import Servers

if __name__ == "__main__":
    settings.configure(
        DATABASES={"default": json.loads(sys.argv[1])},
        INSTALLED_APPS=[],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    django.setup()

from asgiref.sync import sync_to_async
from django.db import connection, connections, models, transaction

from asynctasq import SyncTask
from asynctasq.testing import FakeQueue
from tests.testing.fake_queue.libraries.claims import DELAYS, STEPS, Notebook, Unavailable, check


class Note(models.Model):
    text = models.TextField()

    class Meta:
        app_label = "notes"


@asynccontextmanager
async def open_notebook(servers: Servers | None = None, folder: Path | None = None) -> AsyncIterator[Notebook]:
    async def note(text: str) -> None:
        await Note.objects.acreate(text=text)

    async def notes() -> list[str]:
        return [note.text async for note in Note.objects.order_by("id")]

    await Note.objects.all().adelete()
    yield Notebook(note, notes)


class Blocking(SyncTask[None]):
    max_attempts = 3
    retry_delay = DELAYS

    def execute(self) -> None:
        with transaction.atomic():
            Note.objects.create(text=f"execute {self.attempt}")
        raise Unavailable

    def should_retry(self, exception: Exception) -> bool:
        Note.objects.create(text=f"asked {self.attempt}")
        return True

    def failed(self, exception: Exception) -> None:
        Note.objects.create(text="failed")


async def main() -> None:
    async with open_notebook() as notebook:
        await check(notebook)
    async with open_notebook() as notebook:
        async with FakeQueue() as queue:
            await Blocking().dispatch()
            await queue.run_until_idle()
            queue.assert_retried_at([DELAYS[0], sum(DELAYS)])
            queue.assert_failed(Blocking, with_=Unavailable, attempts=3)
        assert await notebook.notes() == STEPS
        await sync_to_async(connections.close_all)()


if __name__ == "__main__":
    with connection.schema_editor() as editor:
        editor.create_model(Note)
    connection.close()
    for run in (asyncio.run, uvloop.run):
        run(main())
        print("held on", run.__module__)
