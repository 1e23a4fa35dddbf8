"""What becomes of SQLAlchemy rows of every kind between dispatch and worker, on SQLite and PostgreSQL."""

import asyncio
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from sqlalchemy import ForeignKey, create_engine, delete, event, inspect, update
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, QueuePool

from asynctasq.codec.arguments import pack_arguments, unpack_arguments
from asynctasq.codec.orm.references import resolve_for_hooks, resolve_references
from asynctasq.errors import ConfigError, ModelNotFoundError, UndecodableBody, UnserializableValue
from tests.codec.orm.databases import KINDS, Database, database
from tests.patience import SOON_S

DEVICE_ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


class Base(DeclarativeBase):
    pass


class Elsewhere(DeclarativeBase):
    """Models of another database."""


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    biography: Mapped[str] = mapped_column(deferred=True)


class Order(Base):
    __tablename__ = "orders"
    shop: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[float]


class Device(Base):
    __tablename__ = "devices"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    name: Mapped[str]


class Employee(Base):
    __tablename__ = "employees"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "employee"}


class Manager(Employee):
    __tablename__ = "managers"
    id: Mapped[int] = mapped_column(ForeignKey("employees.id"), primary_key=True)
    budget: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "manager"}


class Trainee(Employee):
    school: Mapped[str | None]
    __mapper_args__ = {"polymorphic_identity": "trainee"}


class Invoice(Elsewhere):
    __tablename__ = "invoices"
    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int]


class Loose(DeclarativeBase):
    """Without a session factory."""


class Stray(Loose):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)


@dataclass
class Parcel:
    orders: list[Order]
    labels: dict[str, User] = field(default_factory=dict)


@pytest.fixture(scope="module", params=KINDS)
def place(request, conformance_servers, tmp_path_factory) -> Iterator[Database]:
    with database(request.param, conformance_servers, tmp_path_factory.mktemp("orm")) as made:
        engine = create_engine(made.sqlalchemy_sync, poolclass=NullPool)
        Base.metadata.create_all(engine)
        Elsewhere.metadata.create_all(engine)
        yield made


@pytest.fixture
def engine(place: Database):
    return create_engine(place.sqlalchemy_sync, poolclass=NullPool)


@pytest.fixture
def session(engine) -> Iterator[Session]:
    """The dispatching side, with fresh rows."""
    with Session(engine) as opened:
        for model in (Manager, Trainee, Employee, User, Order, Device, Invoice):
            opened.execute(delete(model.__table__))
        opened.add_all([User(id=number, name=f"u{number}", biography="long " * 9) for number in (1, 2, 3)])
        opened.add_all([Order(shop="a", number=number, total=1.5) for number in (1, 2)])
        opened.add_all([Device(id=DEVICE_ID, name="lamp"), Invoice(id=1, total=7)])
        opened.add_all([Manager(id=1, name="M", budget=9), Trainee(id=2, name="T", school="S")])
        opened.add(Employee(id=3, name="E"))
        opened.commit()
        yield opened


@pytest.fixture(params=["async", "sync"])
def factory(request, place: Database, engine, monkeypatch):
    """What the worker loads with."""
    made = (
        async_sessionmaker(create_async_engine(place.sqlalchemy_async, poolclass=NullPool))
        if request.param == "async"
        else sessionmaker(engine)
    )
    monkeypatch.setattr(Base, "_asynctasq_session_factory", made, raising=False)
    return made


async def sent(annotation: object = None, /, *, missing: str = "retry", **arguments: object) -> dict[str, object]:
    """Return the arguments as a worker gets them."""
    annotations = dict.fromkeys(arguments, annotation)
    data = pack_arguments("app:Task", arguments, annotations)
    return await resolve_references(unpack_arguments(data, annotations), missing=missing)


def forget(session: Session, model: type, *where: object) -> None:
    with Session(session.get_bind()) as other:
        other.execute(delete(model).where(*where))
        other.commit()


# --- what arrives ----------------------------------------------------------------------------------------------


async def test_a_row_arrives_with_what_is_in_the_database_now(session, factory):
    user = session.get(User, 1)
    with Session(session.get_bind()) as other:
        other.execute(update(User).where(User.id == 1).values(name="new"))
        other.commit()

    back = (await sent(user=user))["user"]

    assert (type(back), back.name, user.name) == (User, "new", "u1")


async def test_deferred_columns_are_loaded_for_the_row_is_detached(session, factory):
    users = [session.get(User, number) for number in (1, 2, 3)]
    engine, queries = factory.kw["bind"], []
    event.listen(getattr(engine, "sync_engine", engine), "before_cursor_execute", lambda *call: queries.append(call[2]))

    back = (await sent(users=users))["users"]

    assert len([query for query in queries if "FROM users" in query]) == 1
    assert all(inspect(row).detached for row in back)
    assert {row.biography for row in back} == {"long " * 9}


async def test_composite_and_uuid_keys_travel(session, factory):
    back = await sent(order=session.get(Order, ("a", 2)), device=session.get(Device, DEVICE_ID))

    assert (back["order"].number, back["device"].name) == (2, "lamp")


async def test_a_uuid_that_asyncpg_made_travels_as_key_and_as_value(place, session, factory, monkeypatch):
    engine = create_async_engine(place.sqlalchemy_async, poolclass=NullPool)
    async with AsyncSession(engine) as opened:
        device = (await opened.execute(Device.__table__.select())).one()
        row = await opened.get(Device, device.id)

        back = await sent(row=row, plain=device.id)

    assert (back["row"].name, back["plain"]) == ("lamp", DEVICE_ID)
    assert type(back["plain"]) is uuid.UUID


async def test_models_are_found_in_lists_dicts_and_dataclasses(session, factory):
    parcel = Parcel([session.get(Order, ("a", 1)), session.get(Order, ("a", 2))], {"to": session.get(User, 3)})

    back = (await sent(list[Parcel], parcels=[parcel]))["parcels"][0]

    assert [order.number for order in back.orders] == [1, 2]
    assert back.labels["to"].name == "u3"


@pytest.mark.parametrize("annotation", [None, Employee], ids=["no annotation", "the base"])
async def test_subclasses_arrive_as_themselves(session, factory, annotation):
    manager, trainee = session.get(Employee, 1), session.get(Employee, 2)

    back = await sent(annotation, manager=manager, trainee=trainee, base=session.get(Employee, 3))

    assert [type(row) for row in back.values()] == [Manager, Trainee, Employee]
    assert (back["manager"].name, back["manager"].budget, back["trainee"].school) == ("M", 9, "S")


async def test_a_row_that_became_a_subclass_has_the_columns_of_it(session, factory, engine):
    data = pack_arguments("app:Task", {"all": [session.get(Employee, 2), session.get(Employee, 3)]}, {})
    with engine.begin() as connection:
        connection.execute(update(Employee.__table__).where(Employee.id == 3).values(kind="manager"))
        connection.execute(Manager.__table__.insert().values(id=3, budget=4))

    back = (await resolve_references(unpack_arguments(data, {})))["all"]

    assert type(back[1]) is Manager
    assert (back[0].school, back[1].budget) == ("S", 4)


# --- what is dispatched ----------------------------------------------------------------------------------------


async def test_expired_and_detached_rows_travel_without_a_query(session, factory):
    expired, detached = session.get(User, 1), session.get(User, 2)
    session.expunge(detached)
    session.expire(expired)
    session.commit()
    queries: list[str] = []
    event.listen(session.get_bind(), "before_cursor_execute", lambda *call: queries.append(call[2]))

    data = pack_arguments("app:Task", {"users": [expired, detached]}, {})

    assert queries == []
    assert [user.id for user in (await resolve_references(unpack_arguments(data, {})))["users"]] == [1, 2]


async def test_an_expired_row_of_an_async_session_travels_without_io(place, session, factory):
    engine = create_async_engine(place.sqlalchemy_async, poolclass=NullPool)
    async with AsyncSession(engine) as opened:
        user = await opened.get(User, 1)
        await opened.commit()

        back = await sent(user=user)

    assert back["user"].id == 1


@pytest.mark.parametrize("save", ["transient", "pending"])
def test_an_unsaved_row_is_refused(session, factory, save):
    user = User(id=9, name="x", biography="")
    if save == "pending":
        session.add(user)

    with session.no_autoflush, pytest.raises(UnserializableValue, match=r"Task\.user: .*flush or commit it before"):
        pack_arguments("app:Task", {"user": user}, {})


async def test_a_row_that_is_flushed_but_not_committed_travels_and_is_found_after_the_commit(session, factory):
    user = User(id=9, name="late", biography="")
    session.add(user)
    session.flush()
    data = pack_arguments("app:Task", {"user": user}, {})
    if session.get_bind().dialect.name == "postgresql":  # SQLite's readers would wait for the writer
        with pytest.raises(ModelNotFoundError, match="not committed yet"):
            await resolve_references(unpack_arguments(data, {}))
    session.commit()

    assert (await resolve_references(unpack_arguments(data, {})))["user"].name == "late"


@pytest.mark.parametrize("end", ["flush", "commit"])
def test_a_deleted_row_is_refused(session, factory, end):
    user = session.get(User, 1)
    session.delete(user)
    getattr(session, end)()

    with pytest.raises(UnserializableValue, match="is deleted, so no worker could load it"):
        pack_arguments("app:Task", {"user": user}, {})


def test_without_a_session_factory_the_dispatch_says_which_line_to_add(session, factory):
    stray = session.get(Stray, 1, bind_arguments={"bind": session.get_bind()})

    with pytest.raises(ConfigError, match=r"Stray, .*: set Loose\._asynctasq_session_factory = async_sessionmaker\("):
        pack_arguments("app:Task", {"users": [stray]}, {})


# --- rows that are gone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("missing", "final"), [("retry", False), ("fail", True)])
async def test_a_row_that_is_gone_is_an_error_with_model_and_key(session, factory, missing, final):
    data = pack_arguments("app:Task", {"orders": [session.get(Order, ("a", 1)), session.get(Order, ("a", 2))]}, {})
    forget(session, Order, Order.number == 2)

    with pytest.raises(ModelNotFoundError, match=r"Order has the primary key \('a', 2\)") as caught:
        await resolve_references(unpack_arguments(data, {}), missing=missing)

    assert caught.value.model == f"{__name__}.Order"
    assert (caught.value.key, caught.value.final) == (("a", 2), final)


async def test_a_row_that_is_gone_can_be_none(session, factory):
    data = pack_arguments("app:Task", {"users": [session.get(User, 1), session.get(User, 2)]}, {})
    forget(session, User, User.id == 2)

    users = (await resolve_references(unpack_arguments(data, {}), missing="none"))["users"]

    assert (users[0].id, users[1]) == (1, None)


async def test_hooks_get_none_when_the_database_is_away(session, factory, monkeypatch, place, tmp_path):
    data = pack_arguments("app:Task", {"user": session.get(User, 1), "n": 1}, {})
    away = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/no/such/folder.db", poolclass=NullPool)
    monkeypatch.setattr(Base, "_asynctasq_session_factory", async_sessionmaker(away))
    before = set(threading.enumerate())

    assert await resolve_for_hooks(unpack_arguments(data, {})) == {"user": None, "n": 1}
    async with asyncio.timeout(SOON_S):  # aiosqlite's thread tells this loop that it ends
        while any("_connection_worker" in thread.name for thread in set(threading.enumerate()) - before):
            await asyncio.sleep(0.001)


# --- databases and connections ---------------------------------------------------------------------------------


async def test_each_model_is_loaded_through_the_factory_of_its_own_base(place, session, factory, monkeypatch):
    other = async_sessionmaker(create_async_engine(place.sqlalchemy_async, poolclass=NullPool))
    monkeypatch.setattr(Elsewhere, "_asynctasq_session_factory", other, raising=False)

    back = await sent(user=session.get(User, 1), invoice=session.get(Invoice, 1))

    assert (back["user"].name, back["invoice"].total) == ("u1", 7)


async def test_a_factory_with_binds_loads_each_model_from_its_own_database(
    place, session, engine, monkeypatch, tmp_path
):
    away = create_engine(f"sqlite:///{tmp_path}/other.db", poolclass=NullPool)
    Elsewhere.metadata.create_all(away)
    with away.begin() as connection:
        connection.execute(Invoice.__table__.insert().values(id=1, total=8))
    bound = sessionmaker(binds={Base: engine, Elsewhere: away})
    monkeypatch.setattr(Base, "_asynctasq_session_factory", bound, raising=False)
    monkeypatch.setattr(Elsewhere, "_asynctasq_session_factory", bound, raising=False)

    back = await sent(user=session.get(User, 1), invoice=session.get(Invoice, 1))

    assert (back["user"].name, back["invoice"].total) == ("u1", 8)


async def test_a_scoped_session_stays_its_owners(place, session, engine, monkeypatch):
    scoped = scoped_session(sessionmaker(engine))
    monkeypatch.setattr(Base, "_asynctasq_session_factory", scoped, raising=False)
    mine = scoped.get(User, 1)

    back = (await sent(user=mine))["user"]

    assert back is not mine
    assert mine in scoped
    scoped.remove()


async def test_an_async_scoped_session_will_do(place, session, monkeypatch):
    made = async_sessionmaker(create_async_engine(place.sqlalchemy_async, poolclass=NullPool))
    scoped = async_scoped_session(made, scopefunc=lambda: 1)
    monkeypatch.setattr(Base, "_asynctasq_session_factory", scoped, raising=False)

    assert (await sent(user=session.get(User, 1)))["user"].name == "u1"
    assert not scoped.registry.has()


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_no_connection_is_held_once_the_rows_are_there(place, session, monkeypatch, kind):
    engine = (
        create_async_engine(place.sqlalchemy_async, poolclass=AsyncAdaptedQueuePool)
        if kind == "async"
        else create_engine(place.sqlalchemy_sync, poolclass=QueuePool)
    )
    made = async_sessionmaker(engine) if kind == "async" else sessionmaker(engine)
    monkeypatch.setattr(Base, "_asynctasq_session_factory", made, raising=False)
    taken: list[object] = []
    event.listen(engine.pool, "checkout", lambda *call: taken.append(call))

    await sent(user=session.get(User, 1), order=session.get(Order, ("a", 1)))
    with pytest.raises(ModelNotFoundError):
        data = pack_arguments("app:Task", {"user": session.get(User, 3)}, {})
        forget(session, User, User.id == 3)
        await resolve_references(unpack_arguments(data, {}))

    assert len(taken) == 3
    assert engine.pool.checkedout() == 0
    done = engine.dispose()
    if done is not None:
        await done


async def test_models_of_different_classes_are_loaded_at_the_same_time(place, session, monkeypatch):
    together = asyncio.Barrier(2)

    class Meets(AsyncSession):
        async def run_sync(self, *arguments):
            async with asyncio.timeout(SOON_S):
                await together.wait()
            return await super().run_sync(*arguments)

    engine = create_async_engine(place.sqlalchemy_async, poolclass=NullPool)
    monkeypatch.setattr(Base, "_asynctasq_session_factory", async_sessionmaker(engine, class_=Meets), raising=False)

    back = await sent(user=session.get(User, 1), order=session.get(Order, ("a", 1)))

    assert (back["user"].name, back["order"].number) == ("u1", 1)


async def test_a_factory_that_makes_no_session_says_so(session, factory, monkeypatch):
    monkeypatch.setattr(Base, "_asynctasq_session_factory", dict)

    with pytest.raises(ConfigError, match=r"must return a Session or an AsyncSession, it returned \{\}"):
        await sent(user=session.get(User, 1))


# --- the name that travels -------------------------------------------------------------------------------------


def define_twice() -> tuple[type, type]:
    def define() -> type:
        class Twin(DeclarativeBase):
            pass

        class Row(Twin):
            __tablename__ = "users"
            id: Mapped[int] = mapped_column(primary_key=True)

        return Row

    return define(), define()


async def test_of_two_classes_with_one_name_the_annotation_chooses(session, factory, monkeypatch):
    first, second = define_twice()
    for row in (first, second):
        monkeypatch.setattr(row, "_asynctasq_session_factory", factory, raising=False)
    row = session.get(second, 1, bind_arguments={"bind": session.get_bind()})

    assert type((await sent(second, row=row))["row"]) is second
    with pytest.raises(UndecodableBody, match=r"of which there are \d+ here; annotate"):
        await sent(row=row)
