"""How many bytes a model takes in a message: as the reference that travels, pickled, and dumped column by column.

    python benchmarks/orm_payload.py

`message` is the whole body (`message.size`) of a task whose one argument is the model; the other columns put the
pickled or dumped model in place of it. Nothing is stored and no database is asked for more than one row.
"""

import asyncio
import itertools
import pickle  # noqa: TID251 - this is what is compared with
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import django
from django.conf import settings
from sqlalchemy import create_engine, inspect
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import StaticPool
from tortoise import Tortoise, fields
from tortoise.models import Model

from asynctasq.queue import MessageFactory
from asynctasq.tasks import AsyncTask

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.db import connection, models  # noqa: E402 - Django wants its settings first

SMALL = {"email": "ada.lovelace@example.org", "name": "Ada Lovelace"}
MEDIUM = {f"text{number}": f"{number} " + "some words of an address or a note, " * 2 for number in range(10)}
LARGE = {**MEDIUM, "biography": "Ada wrote the first program, for a machine that was never built. " * 64}


class Base(DeclarativeBase):
    pass


def alchemy_model(name: str, columns: Mapping[str, str]) -> type[Any]:
    annotations = {"id": Mapped[int], **dict.fromkeys(columns, Mapped[str])}
    members = {"id": mapped_column(primary_key=True), "__annotations__": annotations, "__tablename__": name}
    return type(name, (Base,), {**members, "__module__": __name__})


def django_model(name: str, columns: Mapping[str, str]) -> type[Any]:
    meta = type("Meta", (), {"app_label": "shop"})
    members = {column: models.TextField() for column in columns}
    return type(name, (models.Model,), {**members, "Meta": meta, "__module__": __name__})


def tortoise_model(name: str, columns: Mapping[str, str]) -> type[Any]:
    members = {column: fields.TextField() for column in columns}
    return type(name, (Model,), {"id": fields.IntField(primary_key=True), **members, "__module__": __name__})


SIZES = {"small (2 columns)": SMALL, "medium (10 columns)": MEDIUM, "large (11 columns, 4 KB text)": LARGE}
NAMES = dict(zip(SIZES, ("User", "Customer", "Author"), strict=True))
ALCHEMY = {size: alchemy_model(f"{NAMES[size]}", columns) for size, columns in SIZES.items()}
DJANGO = {size: django_model(f"D{NAMES[size]}", columns) for size, columns in SIZES.items()}
TORTOISE = {size: tortoise_model(f"T{NAMES[size]}", columns) for size, columns in SIZES.items()}
for model in (*ALCHEMY.values(), *DJANGO.values(), *TORTOISE.values()):
    globals()[model.__name__] = model  # where pickle and Tortoise look for them


class Send(AsyncTask[None]):
    def __init__(self, user: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.user = user

    async def execute(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Row:
    orm: str
    size: str
    model: Any
    columns: Mapping[str, object]


def alchemy_rows() -> Iterator[Row]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    Base._asynctasq_session_factory = sessionmaker(engine)  # type: ignore[attr-defined]
    with Session(engine) as session:
        for size, cls in ALCHEMY.items():
            session.add(cls(id=1_000_001, **SIZES[size]))
            session.commit()
            row = session.get(cls, 1_000_001)
            columns = {column.key: getattr(row, column.key) for column in inspect(cls).column_attrs}
            yield Row("SQLAlchemy", size, row, columns)


def django_rows() -> Iterator[Row]:
    for size, cls in DJANGO.items():
        with connection.schema_editor() as editor:
            editor.create_model(cls)
        cls(id=1_000_001, **SIZES[size]).save()
        row = cls.objects.get()
        yield Row("Django", size, row, {field.name: getattr(row, field.name) for field in cls._meta.fields})


async def tortoise_rows() -> None:
    await Tortoise.init(db_url="sqlite://:memory:", modules={"models": [__name__]})
    await Tortoise.generate_schemas()
    for size, cls in TORTOISE.items():
        await cls.create(id=1_000_001, **SIZES[size])
        row = await cls.get()
        measure(Row("Tortoise", size, row, {name: getattr(row, name) for name in cls._meta.fields_map}))
    await Tortoise.close_connections()


def measure(row: Row) -> None:
    factory = MessageFactory()

    def size(argument: object) -> int:
        return factory.message(Send(argument)).size

    empty = size(None) - 1
    reference, pickled, dumped = (size(value) for value in (row.model, pickle.dumps(row.model), dict(row.columns)))
    saved = [f"{1 - (reference - empty) / (other - empty):.0%}" for other in (pickled, dumped)]
    whole = [f"{1 - reference / other:.0%}" for other in (pickled, dumped)]
    print(
        f"| {row.orm} | {row.size} | {reference - empty} | {pickled - empty:,} | {dumped - empty:,} "
        f"| {saved[0]} / {saved[1]} | {reference} | {whole[0]} / {whole[1]} |"
    )


if __name__ == "__main__":
    print(
        "| ORM | model | reference | pickled | dumped | saved of the argument | `message.size` | saved of the message |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for measured in itertools.chain(alchemy_rows(), django_rows()):  # an expired row would be pickled empty
        measure(measured)
    asyncio.run(tortoise_rows())
