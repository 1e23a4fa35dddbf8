"""SQLAlchemy models travel as class and key, and are loaded fresh by the worker."""

import sqlite3
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import msgpack
import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column, sessionmaker
from sqlalchemy.pool import NullPool

from asynctasq.codec.arguments import pack_arguments, unpack_arguments
from asynctasq.codec.orm.references import ModelReference, UnresolvedArguments, resolve_references
from asynctasq.codec.values import pack, unpack
from asynctasq.errors import AsyncTasqError, ConfigError, ModelNotFoundError, UndecodableBody, UnserializableValue


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


class Order(Base):
    __tablename__ = "orders"
    shop: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[float]


class DataBase(MappedAsDataclass, DeclarativeBase):
    pass


class Secret(DataBase):
    __tablename__ = "secrets"
    id: Mapped[int] = mapped_column(primary_key=True)
    password: Mapped[str]


class Unconfigured(DeclarativeBase):
    pass


class Orphan(Unconfigured):
    __tablename__ = "orphans"
    id: Mapped[int] = mapped_column(primary_key=True)


@dataclass
class Parcel:
    order: Order
    note: str


@pytest.fixture
def database(tmp_path: Path):
    path = tmp_path / "app.db"
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    for base in (Base, DataBase, Unconfigured):
        base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([User(id=number, email=f"{number}@example.org") for number in (1, 2, 3)])
        session.add_all([Order(shop="a", number=number, total=1.5) for number in (1, 2)])
        session.add_all([Secret(id=1, password="hunter2"), Orphan(id=1)])
        session.commit()
    yield path
    engine.dispose()


@pytest.fixture(params=["async", "sync"])
def session(request, database):
    """A session to take models from; the factory the worker uses is async or sync."""
    sync_engine = create_engine(f"sqlite:///{database}", poolclass=NullPool)
    async_engine = create_async_engine(f"sqlite+aiosqlite:///{database}", poolclass=NullPool)
    factory = (
        async_sessionmaker(async_engine, expire_on_commit=False)
        if request.param == "async"
        else sessionmaker(sync_engine, expire_on_commit=False)
    )
    Base._asynctasq_session_factory = DataBase._asynctasq_session_factory = factory
    with Session(sync_engine) as opened:
        yield opened
    del Base._asynctasq_session_factory, DataBase._asynctasq_session_factory


async def round_trip(arguments: dict[str, object], annotations: dict[str, object]) -> dict[str, object]:
    data = pack_arguments("app:Task", arguments, annotations)
    return await resolve_references(unpack_arguments(data, annotations))


async def test_a_model_comes_back_as_a_fresh_row(session, database):
    user = session.get(User, 1)
    data = pack_arguments("app:SendWelcomeEmail", {"user": user}, {"user": User})
    with sqlite3.connect(database) as other:
        other.execute("UPDATE users SET email = 'new@example.org' WHERE id = 1")
    other.close()

    arguments = await resolve_references(unpack_arguments(data, {"user": User}))

    assert type(arguments["user"]) is User
    assert arguments["user"].email == "new@example.org"
    assert b"example" not in data


async def test_models_are_found_wherever_they_stand(session):
    users = {number: session.get(User, number) for number in (1, 2, 3)}
    order = session.get(Order, ("a", 2))
    arguments = {"all": [users[1], (users[2], {"x": users[3]})], "order": order, "again": users[1], "plain": 7}

    back = await round_trip(arguments, {})

    first, (second, third) = back["all"]
    assert [first.id, second.id, third["x"].id] == [1, 2, 3]
    assert back["again"] is first
    assert (back["order"].shop, back["order"].number, back["order"].total) == ("a", 2, 1.5)
    assert back["plain"] == 7


async def test_a_model_in_a_dataclass_is_a_reference_too(session):
    parcel = Parcel(order=session.get(Order, ("a", 1)), note="fragile")

    back = await round_trip({"parcel": parcel}, {"parcel": Parcel})

    assert type(back["parcel"]) is Parcel
    assert back["parcel"].note == "fragile"
    assert back["parcel"].order.number == 1


async def test_a_model_that_is_a_dataclass_never_travels_in_full(session):
    data = pack_arguments("app:Task", {"secret": session.get(Secret, 1)}, {"secret": Secret})

    back = await resolve_references(unpack_arguments(data, {"secret": Secret}))

    assert b"hunter2" not in data
    assert back["secret"].password == "hunter2"


def test_a_model_that_is_a_dataclass_needs_no_annotation_beside_other_records(session):
    arguments = {"secret": session.get(Secret, 1), "parcel": Parcel(order=session.get(Order, ("a", 1)), note="x")}

    assert b"hunter2" not in pack_arguments("app:Task", arguments, {"parcel": Parcel})
    with pytest.raises(UnserializableValue, match=r"^Task\.secrets\[1\]: .*Secret'> is not saved"):
        pack_arguments("app:Task", {"secrets": [arguments["secret"], Secret(id=2, password="hunter2")]}, {})


async def test_many_rows_of_one_class_take_one_query(database):
    engine = create_async_engine(f"sqlite+aiosqlite:///{database}", poolclass=NullPool)
    queries: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *call: queries.append(call[2]))
    Base._asynctasq_session_factory = async_sessionmaker(engine)
    with Session(create_engine(f"sqlite:///{database}", poolclass=NullPool)) as session:
        users = list(session.query(User))

    back = await round_trip({"users": users}, {"users": list[User]})

    del Base._asynctasq_session_factory
    assert [user.id for user in back["users"]] == [1, 2, 3]
    assert len(queries) == 1


async def test_a_missing_row_is_named(session, database):
    data = pack_arguments("app:Task", {"user": session.get(User, 3)}, {"user": User})
    with sqlite3.connect(database) as other:
        other.execute("DELETE FROM users WHERE id = 3")
    other.close()

    with pytest.raises(ModelNotFoundError, match=r"test_sqlalchemy\.User has the primary key 3") as caught:
        await resolve_references(unpack_arguments(data, {"user": User}))

    assert isinstance(caught.value, AsyncTasqError)
    assert isinstance(caught.value, LookupError)


@pytest.mark.parametrize("user", [User(email="x"), User(id=5, email="x")], ids=["no key", "key, but not saved"])
def test_an_unsaved_model_is_an_error_at_dispatch(user):
    with pytest.raises(UnserializableValue, match=r"^Task\.users\[0\]: .*User'> is not saved.*commit"):
        pack_arguments("app:Task", {"users": [user]}, {"users": list[User]})


def test_an_expired_model_travels_without_touching_the_database(session):
    user = session.get(User, 1)
    session.commit()
    session.close()

    reference = unpack(pack(user, path="user"))

    assert reference == ModelReference(orm="sqlalchemy", model_name=f"{__name__}:User", key=(1,))


async def test_without_a_session_factory_the_error_says_what_to_set(database):
    with Session(create_engine(f"sqlite:///{database}", poolclass=NullPool)) as session:
        orphan = session.get(Orphan, 1)

    with pytest.raises(ConfigError, match=r"Orphan, .*: set Unconfigured\._asynctasq_session_factory"):
        await round_trip({"orphan": orphan}, {"orphan": Orphan})


async def test_the_annotation_finds_a_model_whose_module_has_another_name_here(session):
    data = pack({"user": session.get(User, 1)}, path="x").replace(__name__.encode(), b"x" * len(__name__))

    back = await resolve_references(unpack_arguments(data, {"user": User | None}))

    assert back["user"].id == 1
    with pytest.raises(UndecodableBody, match="not an imported sqlalchemy model"):
        await resolve_references(unpack_arguments(data, {}))


# --- hostile references ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "class_path",
    [
        "subprocess:Popen",
        "os:system",
        "antigravity:User",
        "builtins:dict",
        f"{__name__}:Parcel",
        f"{__name__}:Base",
        f"{__name__}:user",
        f"{__name__}:",
        ":",
        "",
        f"{__name__}:User.__class__",
        f"{__name__}:User.metadata.clear",
    ],
)
async def test_a_payload_cannot_name_any_other_class(class_path):
    arguments = UnresolvedArguments(user=ModelReference(orm="sqlalchemy", model_name=class_path, key=(1,)))

    with pytest.raises(UndecodableBody, match="not an imported sqlalchemy model"):
        await resolve_references(arguments)

    assert "antigravity" not in sys.modules


async def test_a_lazy_module_is_not_made_to_import(monkeypatch):
    looked_up: list[str] = []
    module = types.ModuleType("lazy_module")
    module.__getattr__ = looked_up.append
    monkeypatch.setitem(sys.modules, "lazy_module", module)
    arguments = {"user": ModelReference(orm="sqlalchemy", model_name="lazy_module:User", key=(1,))}

    with pytest.raises(UndecodableBody):
        await resolve_references(arguments)

    assert looked_up == []


async def test_an_unknown_orm_is_refused():
    arguments = {"user": ModelReference(orm="peewee", model_name=f"{__name__}:User", key=(1,))}

    with pytest.raises(UndecodableBody, match="no adapter"):
        await resolve_references(arguments)


async def test_a_reference_to_an_orm_that_is_not_set_up_says_how_to(monkeypatch):
    monkeypatch.delitem(sys.modules, "django.apps", raising=False)  # another test of this process may have set it up
    arguments = {"user": ModelReference(orm="django", model_name="shop.User", key=(1,))}

    with pytest.raises(ConfigError, match=r"shop\.User, but Django is not set up here: set DJANGO_SETTINGS_MODULE"):
        await resolve_references(arguments)


@pytest.mark.parametrize(
    "fields",
    [
        ["sqlalchemy", "app:User"],
        ["sqlalchemy", "app:User", []],
        ["sqlalchemy", "app:User", 1],
        ["sqlalchemy", 1, [1]],
        [1, "app:User", [1]],
        ["sqlalchemy", "app:User", [[1]]],
        ["sqlalchemy", "app:User", [None]],
        ["sqlalchemy", "app:User", [{}]],
        ["sqlalchemy", "app:User", [1], 1],
        ["sqlalchemy", "app:User", [1], "a", "b"],
    ],
)
def test_a_damaged_reference_is_undecodable(fields):
    with pytest.raises(UndecodableBody):
        unpack(msgpack.packb(msgpack.ExtType(14, msgpack.packb(fields))))
