"""One task in each mode; each notes how many connections the project has open meanwhile."""

import os
import time
from typing import Any

import psycopg
from django.conf import settings

from asynctasq.tasks import AsyncProcessTask, AsyncTask, SyncProcessTask, SyncTask
from shop.models import Product

CLOSED_S = 30.0


def connections_open() -> object:
    """Ask PostgreSQL how many there are but the one that asks; one that was closed just now may need a moment."""
    place = settings.DATABASES["default"]
    if not place["ENGINE"].endswith("postgresql"):
        return "-"
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    until = time.monotonic() + CLOSED_S
    with psycopg.connect(
        host=place["HOST"], port=place["PORT"], user=place["USER"], dbname=place["NAME"], autocommit=True
    ) as asking:
        while True:
            [found] = asking.execute(count).fetchone()
            if found <= 1 or time.monotonic() > until:
                return found


class One:
    product: Product

    def __init__(self, product: Product, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.product = product

    def note(self, *more: object) -> None:
        line = " ".join(map(str, (type(self).__name__, self.product.name, *more)))
        with open(os.environ["APP_NOTES"], "a") as notes:
            notes.write(f"{line} open={connections_open()}\n")


class InLoop(One, AsyncTask[None]):
    async def execute(self) -> None:
        self.note(await Product.objects.acount())


class InThread(One, SyncTask[None]):
    def execute(self) -> None:
        self.note(self.product.shelf.name)


class InLoopOfProcess(One, AsyncProcessTask[None]):
    async def execute(self) -> None:
        self.note(await Product.objects.acount())


class InProcess(One, SyncProcessTask[None]):
    def execute(self) -> None:
        self.note(self.product.shelf.name)


class Fails(One, SyncTask[None]):
    max_attempts = 1

    def execute(self) -> None:
        Product.objects.get(pk=999)

    def failed(self, exception: Exception) -> None:
        self.note(type(exception).__name__, self.product.shelf.name)


KINDS = (InLoop, InThread, InLoopOfProcess, InProcess, Fails)
