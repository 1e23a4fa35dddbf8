"""Run as a program by test_django: a Django application on SQLite, with a queue of its own and one in its database.

    python -m tests.integrations.django_app FOLDER

Every line it prints is one claim, `name value`.
"""

import asyncio
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import django
from django.conf import settings

FOLDER = Path(sys.argv[1])

settings.configure(
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(FOLDER / "app.db")},
        "other": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(FOLDER / "other.db")},
    },
    INSTALLED_APPS=[],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()

from django.db import connection, models, transaction  # noqa: E402 - Django wants its settings first

import asynctasq  # noqa: E402
from asynctasq.drivers.sqlite_driver import SQLiteDriver  # noqa: E402
from asynctasq.errors import AsyncTasqError, DriverUnavailable, UnsupportedFeature  # noqa: E402
from asynctasq.integrations.django import on_commit  # noqa: E402
from asynctasq.queue import Queue  # noqa: E402
from asynctasq.tasks.dispatching import scoped_dispatcher  # noqa: E402
from asynctasq.testing import FakeQueue  # noqa: E402
from tests.patience import SOON_S  # noqa: E402


class Order(models.Model):
    name = models.CharField(max_length=50)

    class Meta:
        app_label = "shop"


class Send(asynctasq.AsyncTask[None]):
    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = name

    async def execute(self) -> None:
        pass


class Away(SQLiteDriver):
    async def enqueue(self, messages: Any) -> list[str]:
        raise DriverUnavailable("the queue is away")


class Printed(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print("logged", record.task_id, record.getMessage().startswith("the transaction is committed"))


class Undo(Exception):
    pass


def atomic(names: str, *, fail: bool = False, using: Any = "default") -> list[str]:
    """Dispatch inside a transaction, and let it fail if asked to."""
    ids: list[str] = []
    try:
        with transaction.atomic():
            for name in names:
                Order.objects.create(name=name)
                ids.append(Send(name).dispatch_sync(connection=using))
            if fail:
                raise Undo
    except Undo:
        pass
    return ids


def living(path: Path, ids: list[str]) -> list[bool]:
    async def look() -> list[bool]:
        driver = SQLiteDriver(path)
        try:
            return [await driver.find(one) is not None for one in ids]
        finally:
            await driver.close()

    return asyncio.run(look())


def in_its_own_database() -> None:
    path = FOLDER / "app.db"
    asynctasq.init(driver=f"sqlite:///{path}")
    print("alias", living(path, atomic("ab")))
    print("connection", living(path, atomic("c", using=connection)))
    print("rolled back", living(path, atomic("de", fail=True)))
    print("rows", sorted(Order.objects.values_list("name", flat=True)))
    try:
        Send("x").dispatch_sync(connection="default")
    except UnsupportedFeature as error:
        print("outside", "transaction.atomic" in str(error))
    for wrong in ("other", "nobody"):
        try:
            with transaction.atomic(), transaction.atomic(using="other"):
                Send("x").dispatch_sync(connection=wrong)
        except UnsupportedFeature as error:
            print(wrong, str(error)[:40])


def woken() -> None:
    """A worker that waits hears of the commit."""
    path, found = FOLDER / "app.db", []

    async def wait() -> None:
        driver = SQLiteDriver(path)
        leases = await driver.reserve(["wake"], limit=1, lease_s=9, wait_s=SOON_S)
        found.extend(lease.message_id for lease in leases)
        await driver.close()

    waiting = threading.Thread(target=lambda: asyncio.run(wait()))
    waiting.start()
    with transaction.atomic():
        task_id = Send("w").on_queue("wake").dispatch_sync(connection="default")
    waiting.join(timeout=SOON_S)
    print("woken", found == [task_id])


def after_the_commit() -> None:
    path = FOLDER / "queue.db"
    asynctasq.init(driver=f"sqlite:///{path}")
    with transaction.atomic():
        ids = [on_commit(Send("a")), on_commit(Send("b"))]
        inside = living(path, ids)
        try:
            with transaction.atomic():
                undone = on_commit(Send("undone"))
                raise Undo
        except Undo:
            pass
    print("on_commit", inside, living(path, ids), living(path, [undone]))
    try:
        with transaction.atomic():
            dropped = on_commit(Send("c"))
            raise Undo
    except Undo:
        print("dropped", living(path, [dropped]))
    print("no transaction", living(path, [on_commit(Send("d"))]))
    with transaction.atomic(using="other"):
        elsewhere = on_commit(Send("e"), using="other")
        print("using", living(path, [elsewhere]))
    print("used", living(path, [elsewhere]))


def failing() -> None:
    logging.getLogger("django").disabled = True
    logging.getLogger("asynctasq").addHandler(Printed())
    token = scoped_dispatcher.set(Queue(Away(FOLDER / "away.db")))
    for robust in (False, True):
        try:
            with transaction.atomic():
                Order.objects.create(name=f"robust {robust}")
                task_id = on_commit(Send("f"), robust=robust)
            print("swallowed", robust)
        except AsyncTasqError as error:
            print("raised", robust, error)
        print("of", task_id)
    print("committed", Order.objects.filter(name__startswith="robust").count())
    scoped_dispatcher.reset(token)


def faked() -> None:
    with FakeQueue() as queue:
        with transaction.atomic():
            task_id = on_commit(Send("g"))
            before = len(queue.dispatched())
            direct = Send("h").dispatch_sync(connection="default")
        print("faked", before, [record.task_id for record in queue.dispatched()] == [direct, task_id])


def in_a_loop() -> None:
    async def ask() -> None:
        try:
            on_commit(Send("x"))
        except RuntimeError as error:
            print("loop", "sync_to_async" in str(error))

    asyncio.run(ask())


if __name__ == "__main__":
    with connection.schema_editor() as editor:
        editor.create_model(Order)
    in_its_own_database()
    woken()
    after_the_commit()
    failing()
    faked()
    in_a_loop()
