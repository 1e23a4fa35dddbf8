import asyncio

import django

django.setup()

from django.db import connection  # noqa: E402 - Django wants its settings first
from shop.models import Product, Shelf  # noqa: E402
from shop.tasks import KINDS  # noqa: E402


async def main(product: Product) -> None:
    for kind in KINDS:
        for _ in range(3):
            await kind(product).dispatch()


with connection.schema_editor() as editor:
    editor.create_model(Shelf)
    editor.create_model(Product)
tea = Product.objects.create(name="old", shelf=Shelf.objects.create(name="top"))
asyncio.run(main(tea))
Product.objects.update(name="tea")
