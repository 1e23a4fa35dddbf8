"""Run as a program by test_models_django: Django models in a FakeQueue, in transactions that are rolled back.

python -m tests.testing.fake_queue.django_fake DATABASE    (a JSON object)
"""

import asyncio
import json
import sys
from typing import Any

import django
from django.conf import settings

settings.configure(
    DATABASES={"default": json.loads(sys.argv[1])},
    INSTALLED_APPS=[],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.db import connection, models, transaction  # noqa: E402 - Django wants its settings first

from asynctasq.tasks import AsyncProcessTask, AsyncTask, SyncProcessTask, SyncTask  # noqa: E402
from asynctasq.testing import FakeQueue  # noqa: E402

seen: list[object] = []


class Product(models.Model):
    name = models.CharField(max_length=50)

    class Meta:
        app_label = "shop"


class One:
    product: Product

    def __init__(self, product: Product, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.product = product

    def failed(self, exception: Exception) -> None:
        seen.append((type(exception).__name__, self.product))


class InLoop(One, AsyncTask[None]):
    async def execute(self) -> None:
        seen.append((self.product.name, await Product.objects.acount()))


class InThread(One, SyncTask[None]):
    def execute(self) -> None:
        seen.append((self.product.name, Product.objects.count()))


class InLoopOfProcess(One, AsyncProcessTask[None]):
    async def execute(self) -> None:
        seen.append((self.product.name, await Product.objects.acount()))


class InProcess(One, SyncProcessTask[None]):
    def execute(self) -> None:
        seen.append((self.product.name, Product.objects.count()))


KINDS = (InLoop, InThread, InLoopOfProcess, InProcess)


def in_a_transaction() -> None:
    """As in django.test.TestCase: nothing is ever committed, and everything is seen."""
    with transaction.atomic():
        tea = Product.objects.create(name="old")
        with FakeQueue() as queue:
            for kind in KINDS:
                kind(tea).dispatch_sync()
            queue.assert_dispatched(InLoop, product=tea)
            Product.objects.update(name="tea")
            queue.run_until_idle_sync()
        print("transaction", seen, connection.in_atomic_block, Product.objects.count())
        seen.clear()
        with FakeQueue() as queue:
            InLoop(tea).with_options(missing="fail").dispatch_sync()
            Product.objects.all().delete()
            queue.run_until_idle_sync()
        print("gone", seen)
        seen.clear()
        transaction.set_rollback(True)
    print("left", Product.objects.count())


async def in_an_async_test() -> None:
    tea = await Product.objects.acreate(name="tea")
    async with FakeQueue() as queue:
        for kind in KINDS:
            await kind(tea).dispatch()
        await queue.run_until_idle()
    print("async", seen)


with connection.schema_editor() as editor:
    editor.create_model(Product)
in_a_transaction()
asyncio.run(in_an_async_test())
