"""Run as a program by test_references_django: a Django application with its settings, dispatching to itself."""

import asyncio
import sys

import django
from django.conf import settings

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
    INSTALLED_APPS=[],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()

from django.db import connection, models  # noqa: E402 - Django wants its settings first

from asynctasq.codec.arguments import pack_arguments, unpack_arguments  # noqa: E402
from asynctasq.codec.references import resolve_references  # noqa: E402
from asynctasq.errors import ModelNotFoundError, UnserializableValue  # noqa: E402


class Shown(models.Manager):
    """The application's default manager hides rows; a reference must still find them."""

    def get_queryset(self):
        return super().get_queryset().exclude(name="hidden")


class Product(models.Model):
    name = models.CharField(max_length=50)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    objects = Shown()

    class Meta:
        app_label = "shop"


class Line(models.Model):
    pk = models.CompositePrimaryKey("shop", "number")
    shop = models.CharField(max_length=5)
    number = models.IntegerField()

    class Meta:
        app_label = "shop"


def prepare() -> None:
    with connection.schema_editor() as editor:
        editor.create_model(Product)
        editor.create_model(Line)
    for name in ("tea", "hidden", "salt"):
        Product(name=name, price="1.50").save()
    Line(shop="a", number=2).save()


async def round_trip(value: object, annotation: object) -> object:
    data = pack_arguments("app:Task", {"value": value}, {"value": annotation})
    assert b"tea" not in data
    return (await resolve_references(unpack_arguments(data, {"value": annotation})))["value"]


async def main() -> None:
    tea = await Product.objects.aget(name="tea")
    await Product.objects.filter(pk=tea.pk).aupdate(price="2.25")
    back = await round_trip(tea, Product)
    print("fresh", type(back) is Product, back.price)

    everything = [product async for product in Product._base_manager.order_by("pk")]
    print("many", [product.name for product in await round_trip(everything, list[Product])])

    line = await Line.objects.aget(number=2)
    print("composite", (await round_trip(line, Line)).pk)

    for unsaved in (Product(name="x"), Product(pk=99, name="x")):
        try:
            await round_trip(unsaved, Product)
        except UnserializableValue as error:
            print("unsaved", "save it before dispatch" in str(error))

    salt = await Product.objects.aget(name="salt")
    data = pack_arguments("app:Task", {"value": salt}, {})
    await Product.objects.filter(pk=salt.pk).adelete()
    try:
        await resolve_references(unpack_arguments(data, {}))
    except ModelNotFoundError as error:
        print("missing", error)


prepare()
asyncio.run(main())
