"""Run as a program by test_references_django: a Django application with its settings, dispatching to itself.

    python tests/codec/orm/django_app.py DATABASES    (a JSON object)

Every line it prints is one claim: `name value`.
"""

import asyncio
import json
import sys
import uuid
from typing import Any

import django
from django.conf import settings

settings.configure(
    DATABASES=json.loads(sys.argv[1]),
    INSTALLED_APPS=[],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()

from django.db import connections, models  # noqa: E402 - Django wants its settings first

from asynctasq.codec.arguments import pack_arguments, unpack_arguments  # noqa: E402
from asynctasq.codec.orm.references import resolve_references  # noqa: E402
from asynctasq.errors import ConfigError, ModelNotFoundError, UnserializableValue  # noqa: E402

DEVICE_ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


class Shown(models.Manager):
    """The application's default manager hides rows; a reference must still find them."""

    def get_queryset(self):
        return super().get_queryset().exclude(name="hidden")


class Named(models.Model):
    name = models.CharField(max_length=50)

    class Meta:
        abstract = True
        app_label = "shop"


class Product(Named):
    price = models.DecimalField(max_digits=8, decimal_places=2)
    objects = Shown()

    class Meta:
        app_label = "shop"


class Book(Product):
    """Multi-table inheritance: its key is a link to the parent."""

    pages = models.IntegerField()

    class Meta:
        app_label = "shop"


class Cheap(Product):
    class Meta:
        app_label = "shop"
        proxy = True


class Line(models.Model):
    pk = models.CompositePrimaryKey("shop", "number")
    shop = models.CharField(max_length=5)
    number = models.IntegerField()

    class Meta:
        app_label = "shop"


class Device(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)

    class Meta:
        app_label = "shop"


class Size(models.TextChoices):
    LARGE = "l"


class Box(models.Model):
    size = models.CharField(max_length=1, primary_key=True, choices=Size)

    class Meta:
        app_label = "shop"


def prepare() -> None:
    for alias in ("default", "other"):
        with connections[alias].schema_editor() as editor:
            for model in (Product, Book, Line, Device, Box):
                editor.create_model(model)
    for name in ("tea", "hidden", "salt"):
        Product(name=name, price="1.50").save()
    Book(name="novel", price="9", pages=300).save()
    Line(shop="a", number=2).save()
    Line(shop="a", number=3).save()
    Device(id=DEVICE_ID).save()
    Product(pk=1, name="elsewhere", price="3").save(using="other")


async def round_trip(value: object, annotation: object = None, *, missing: Any = "retry") -> Any:
    data = pack_arguments("app:Task", {"value": value}, {"value": annotation})
    assert b"tea" not in data
    arguments = unpack_arguments(data, {"value": annotation})
    return (await resolve_references(arguments, missing=missing))["value"]


async def what_arrives(tea: Product) -> None:
    await Product.objects.filter(pk=tea.pk).aupdate(price="2.25")
    back = await round_trip(tea, Product)
    print("fresh", type(back) is Product, back.price)
    everything = [product async for product in Product._base_manager.order_by("pk")]
    print("many", [product.name for product in await round_trip(everything, list[Product])])
    lines = [line async for line in Line.objects.order_by("number")]
    print("composite", [line.pk for line in await round_trip(lines)])
    print("uuid", (await round_trip(await Device.objects.aget())).pk == DEVICE_ID)
    nested = await round_trip({"a": [(tea, {tea})]})
    first, second = nested["a"][0]
    print("nested", type(first) is Product, first is next(iter(second)))
    partly = await Product.objects.only("name").aget(pk=tea.pk)
    print("deferred", sorted(partly.get_deferred_fields()), sorted((await round_trip(partly)).get_deferred_fields()))
    book = await round_trip(await Book._base_manager.aget())
    print("inherited", type(book).__name__, book.name, book.pages)
    cheap = await round_trip(await Cheap._base_manager.aget(name="tea"))
    print("proxy", type(cheap).__name__, cheap.name)
    box = Box(size=Size.LARGE)
    await box.asave()
    print("choice", repr((await round_trip(box)).pk))


async def databases() -> None:
    elsewhere = await Product.objects.using("other").aget()
    back = await round_trip([elsewhere, await Product.objects.aget(name="tea")])
    print("database", [(row.name, row._state.db) for row in back])
    elsewhere._state.db = "archive"
    try:
        await round_trip(elsewhere)
    except ConfigError as error:
        print("unknown database", "'archive', which DATABASES does not name here" in str(error))


async def what_is_refused() -> None:
    for unsaved in (Product(name="x"), Product(pk=99, name="x")):
        try:
            await round_trip(unsaved, Product)
        except UnserializableValue as error:
            print("unsaved", "save it before dispatch" in str(error))
    gone = await Product.objects.acreate(name="gone", price=1)
    await gone.adelete()
    try:
        await round_trip(gone)
    except UnserializableValue:
        print("deleted", True)


async def what_is_gone() -> None:
    salt = await Product.objects.aget(name="salt")
    await Product.objects.filter(pk=salt.pk).adelete()
    for missing in ("retry", "fail"):
        try:
            await round_trip(salt, missing=missing)
        except ModelNotFoundError as error:
            print("missing", error.final, error.model, error.key, error)
    print("none", await round_trip(salt, missing="none"))


def without_queries() -> None:
    tea = Product.objects.only("pk").get(name="tea")

    def refuse(*call: Any) -> None:
        raise AssertionError("a query at dispatch")

    with connections["default"].execute_wrapper(refuse):
        pack_arguments("app:Task", {"value": tea}, {})
    print("no query", True)


async def main() -> None:
    await what_arrives(await Product.objects.aget(name="tea"))
    await databases()
    await what_is_refused()
    await what_is_gone()


prepare()
without_queries()
asyncio.run(main())
