"""SQLAlchemy and Tortoise models in a FakeQueue: real rows, virtual time; what a row that is gone means for a task."""

import contextlib
from typing import Any

import pytest
from sqlalchemy import create_engine, delete
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import NullPool, StaticPool
from tortoise import fields, models
from tortoise.context import TortoiseContext

from asynctasq import task
from asynctasq.errors import ModelNotFoundError, TaskDefinitionError
from asynctasq.tasks import AsyncProcessTask, AsyncTask, SyncProcessTask, SyncTask
from asynctasq.testing import FakeQueue
from asynctasq.testing.simulation import Simulation
from asynctasq.testing.simulation.simulation import simulate_now
from tests.codec.orm.databases import KINDS, database

seen: list[object] = []


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Author(models.Model):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=50)


class Greets:
    """What the tasks below share."""

    retry_delay = 60
    user: Any
    others: Any

    def __init__(self, user: Any, others: Any = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.user = user
        self.others = others

    def should_retry(self, exception: Exception) -> bool:
        seen.append(("should_retry", self.user and self.user.name))
        return True

    def failed(self, exception: Exception) -> None:
        seen.append(("failed", type(exception).__name__, self.user and self.user.name))


class InLoop(Greets, AsyncTask[None]):
    async def execute(self) -> None:
        seen.append(self.user and self.user.name)


class InThread(Greets, SyncTask[None]):
    def execute(self) -> None:
        seen.append(self.user and self.user.name)


class InProcess(Greets, SyncProcessTask[None]):
    def execute(self) -> None:
        seen.append(self.user and self.user.name)


class InLoopOfProcess(Greets, AsyncProcessTask[None]):
    async def execute(self) -> None:
        seen.append(self.user and self.user.name)


class Breaks(Greets, AsyncTask[None]):
    max_attempts = 2

    async def execute(self) -> None:
        raise ValueError(self.user.name)


class Optional(Greets, AsyncTask[None]):
    missing = "none"

    async def execute(self) -> None:
        seen.append(self.user and self.user.name)


class Insists(Greets, AsyncTask[None]):
    missing = "fail"

    async def execute(self) -> None:
        seen.append(self.user and self.user.name)


@task(missing="none")
async def greet(user: User | None) -> None:
    seen.append(user and user.name)


ALL_MODES = pytest.mark.parametrize("kind", [InLoop, InThread, InProcess, InLoopOfProcess])


@pytest.fixture(scope="module", params=KINDS)
def place(request, conformance_servers, tmp_path_factory):
    with database(request.param, conformance_servers, tmp_path_factory.mktemp("fake")) as made:
        Base.metadata.create_all(create_engine(made.sqlalchemy_sync, poolclass=NullPool))
        yield made


@pytest.fixture(params=["async", "sync"])
def user(request, place, monkeypatch) -> User:
    seen.clear()
    engine = create_engine(place.sqlalchemy_sync, poolclass=NullPool)
    made = (
        async_sessionmaker(create_async_engine(place.sqlalchemy_async, poolclass=NullPool))
        if request.param == "async"
        else sessionmaker(engine)
    )
    monkeypatch.setattr(Base, "_asynctasq_session_factory", made, raising=False)
    with Session(engine, expire_on_commit=False) as session:
        session.execute(delete(User))
        row = User(id=1, name="Ada")
        session.add(row)
        session.commit()
        session.info["engine"] = engine
        yield row


def forget(place) -> None:
    with create_engine(place.sqlalchemy_sync, poolclass=NullPool).begin() as connection:
        connection.execute(delete(User))


def remember(place) -> None:
    with create_engine(place.sqlalchemy_sync, poolclass=NullPool).begin() as connection:
        connection.execute(User.__table__.insert().values(id=1, name="late"))


# --- FakeQueue -------------------------------------------------------------------------------------------------


@ALL_MODES
async def test_a_task_gets_its_rows_in_every_mode(user, kind):
    async with FakeQueue() as queue:
        await kind(user, others={"x": [user]}).dispatch()
        result = await queue.run_until_idle()

    assert (result.errors, seen) == ((), ["Ada"])
    assert queue.clock.elapsed.total_seconds() == 0, "virtual time stands still while rows are loaded"


def test_a_synchronous_test_can_do_so_too(user):
    with FakeQueue() as queue:
        InLoop(user).dispatch_sync()
        queue.run_until_idle_sync()
        queue.assert_completed(InLoop)

    assert seen == ["Ada"]


async def test_perform_loads_rows_as_well(user):
    async with FakeQueue() as queue:
        await queue.perform(InLoop(user))

    assert seen == ["Ada"]


async def test_a_model_is_what_an_assertion_may_ask_for(user):
    async with FakeQueue() as queue:
        await InLoop(user, others=[user, {"a": user}]).dispatch()

        queue.assert_dispatched(InLoop, user=user, others=[user, {"a": user}])
        with pytest.raises(AssertionError):
            queue.assert_dispatched(InLoop, others=[user])


async def test_the_size_of_a_message_is_told(user):
    async with FakeQueue() as queue:
        await InLoop(user).dispatch()
        [record] = queue.dispatched()

    assert record.size == record.message.size == len(record.message.body) < 200


async def test_a_database_in_memory_is_the_tests_own(monkeypatch):
    seen.clear()
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    factory = async_sessionmaker(engine, expire_on_commit=False)
    monkeypatch.setattr(Base, "_asynctasq_session_factory", factory, raising=False)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with factory() as session, FakeQueue() as queue:
        session.add(row := User(id=5, name="Mem"))
        await session.commit()
        await InLoop(row).dispatch()
        await queue.run_until_idle()
    await engine.dispose()

    assert seen == ["Mem"]


def test_simulated_schedules_go_around_real_rows(user):
    async def program(sim: Simulation) -> None:
        seen.clear()
        await InLoop(user).dispatch()
        await InThread(user).dispatch()
        await sim.settle()
        assert seen == ["Ada", "Ada"]

    simulate_now(program, runs=4, faults=())


@pytest.mark.parametrize("kind", KINDS)
async def test_tortoise_rows_are_loaded_too(kind, conformance_servers, tmp_path):
    seen.clear()
    with contextlib.ExitStack() as stack:
        url = "sqlite://:memory:"
        if kind == "postgres":
            url = stack.enter_context(database(kind, conformance_servers, tmp_path)).tortoise
        async with TortoiseContext() as context:
            await context.init(
                config={
                    "connections": {f"fake_{kind}": url},
                    "apps": {"models": {"models": [__name__], "default_connection": f"fake_{kind}"}},
                }
            )
            await context.generate_schemas()
            author = await Author.create(id=1, name="Ada")
            async with FakeQueue() as queue:
                await InLoop(author, others=[author]).dispatch()
                await InProcess(author).dispatch()
                queue.assert_dispatched(InLoop, user=author)
                result = await queue.run_until_idle()
            assert (await Author.get(id=1)).name == "Ada", "the test's own connection still works"

    assert (result.errors, seen) == ((), ["Ada", "Ada"])


# --- rows that are gone ----------------------------------------------------------------------------------------


@ALL_MODES
async def test_a_row_that_is_gone_is_retried_and_may_come(place, user, kind):
    async with FakeQueue() as queue:
        task_id = await kind(user).dispatch()
        forget(place)
        await queue.run_due()
        remember(place)
        await queue.run_until_idle()

    assert seen == [("should_retry", None), "late"]
    first, second = queue.history(task_id).attempts
    assert isinstance(first.exception, ModelNotFoundError)
    assert second.started_at_s - first.started_at_s == 60


@ALL_MODES
async def test_in_the_end_failed_is_called_with_none_for_the_row(place, user, kind):
    async with FakeQueue() as queue:
        await kind(user).with_options(max_attempts=2).dispatch()
        forget(place)
        await queue.run_until_idle()

        queue.assert_failed(kind, with_=ModelNotFoundError, attempts=2)

    assert seen == [("should_retry", None), ("failed", "ModelNotFoundError", None)]


@ALL_MODES
async def test_fail_gives_up_at_once_without_asking(place, user, kind):
    async with FakeQueue() as queue:
        await kind(user).with_options(missing="fail").dispatch()
        forget(place)
        await queue.run_until_idle()

        queue.assert_failed(kind, with_=ModelNotFoundError, attempts=1)

    assert seen == [("failed", "ModelNotFoundError", None)]


@ALL_MODES
async def test_none_runs_with_none_in_its_place(place, user, kind):
    async with FakeQueue() as queue:
        await kind(user).with_options(missing="none").dispatch()
        forget(place)
        await queue.run_until_idle()

        queue.assert_completed(kind)

    assert seen == [None]


async def test_missing_is_set_on_a_class_or_in_the_decorator_and_overridden_by_a_dispatch(place, user):
    async with FakeQueue() as queue:
        for one in (Optional(user), greet(user), Insists(user), Insists(user).with_options(missing="none")):
            await one.dispatch()
        forget(place)
        await queue.run_until_idle()

    assert sorted(seen, key=str) == [("failed", "ModelNotFoundError", None), None, None, None]


def test_another_word_for_missing_is_refused():
    with pytest.raises(TaskDefinitionError, match="missing must be one of retry, fail, none, not 'ignore'"):
        type("Wrong", (InLoop,), {"missing": "ignore"})
    with pytest.raises(ValueError, match="missing must be one of"):
        InLoop(None).with_options(missing="ignore")


async def test_failed_gets_the_rows_of_the_attempt(user):
    async with FakeQueue() as queue:
        await Breaks(user).dispatch()
        await queue.run_until_idle()

    assert seen == [("should_retry", "Ada"), ("failed", "ValueError", "Ada")]


async def test_failed_is_called_with_none_when_the_database_is_away(user, monkeypatch, tmp_path):
    async with FakeQueue() as queue:
        await Breaks(user).with_options(max_attempts=1).dispatch()
        away = create_engine(f"sqlite:///{tmp_path}/no/such/folder.db", poolclass=NullPool)
        monkeypatch.setattr(Base, "_asynctasq_session_factory", sessionmaker(away))
        await queue.run_until_idle()

    assert seen == [("failed", "OperationalError", None)]
