"""SQLAlchemy on asyncpg: a pooled engine of a session-scoped fixture, and models as arguments of tasks."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from asynctasq import AsyncTask
from asynctasq.testing import FakeQueue
from asynctasq.testing.loop import SharedLoop
from asynctasq.testing.servers import Servers
from tests.codec.orm.databases import database
from tests.testing.fake_queue.libraries.claims import DELAYS, Notebook, Unavailable, check

BOTH_LOOPS = True
pytestmark = pytest.mark.asyncio(loop_scope="session")


class Base(DeclarativeBase):
    _asynctasq_session_factory = async_sessionmaker(expire_on_commit=False)


class Note(Base):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


session_of = Base._asynctasq_session_factory


@asynccontextmanager
async def open_engine(servers: Servers, folder: Path) -> AsyncIterator[AsyncEngine]:
    with database("postgres", servers, folder) as own:
        engine = create_async_engine(own.sqlalchemy_async, pool_size=2, max_overflow=0)
        session_of.configure(bind=engine)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        try:
            yield engine
        finally:
            session_of.configure(bind=None)
            await engine.dispose()


async def note(text: str) -> None:
    async with session_of.begin() as session:
        session.add(Note(text=text))


async def notes() -> list[str]:
    async with session_of() as session:
        return list(await session.scalars(select(Note.text).order_by(Note.id)))


@asynccontextmanager
async def open_notebook(servers: Servers, folder: Path) -> AsyncIterator[Notebook]:
    async with open_engine(servers, folder):
        yield Notebook(note, notes)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine(conformance_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AsyncEngine]:
    async with open_engine(conformance_servers, tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def empty(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: sync.execute(Note.__table__.delete()))


async def test_every_step_of_a_task_works_through_the_engine_of_a_session_scoped_fixture(engine: AsyncEngine) -> None:
    await check(Notebook(note, notes))
    assert engine.pool.checkedout() == 0


class Grow(AsyncTask[None]):
    max_attempts = 3
    retry_delay = DELAYS

    def __init__(self, about: Note, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.about = about

    async def execute(self) -> None:
        async with session_of.begin() as session:
            session.add(self.about)
            self.about.text += "+"
        raise Unavailable

    async def should_retry(self, exception: Exception) -> bool:
        async with session_of() as session:
            return (await session.get_one(Note, self.about.id)).text == self.about.text

    async def failed(self, exception: Exception) -> None:
        await note(f"{self.about.text} failed")


async def test_models_load_fresh_at_each_attempt_through_the_tests_own_pool(engine: AsyncEngine) -> None:
    async with session_of.begin() as session:
        session.add_all(abouts := [Note(text=letter) for letter in "ab"])

    async with FakeQueue() as queue:
        for about in abouts:
            await Grow(about).dispatch()
        await queue.drain(scheduled=True, errors="collect")
        queue.assert_failed(Grow, with_=Unavailable, attempts=3)
        queue.assert_failed_hook(Grow, times=2)

    assert sorted(await notes()) == ["a+++", "a+++ failed", "b+++", "b+++ failed"]
    assert engine.pool.checkedout() == 0


class Hourly(AsyncTask[None]):
    max_attempts = 168
    retry_delay = 3600

    async def execute(self) -> None:
        await note(f"hour {self.attempt}")
        raise Unavailable


async def test_a_week_of_hourly_writes_takes_one_jump_of_the_clock_an_hour_and_few_looks(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts what is beside the SQL; benchmarks/own_loop.py has the seconds."""
    counts: Counter[str] = Counter()

    def count(name: str) -> None:
        method = getattr(SharedLoop, name)

        def counted(shared: SharedLoop, *args: object) -> None:
            counts[name] += 1
            method(shared, *args)

        monkeypatch.setattr(SharedLoop, name, counted)

    count("_jump")
    count("_check")

    async with FakeQueue() as queue:
        await Hourly().dispatch()
        await queue.run_until_idle()
        queue.assert_retried_at([3600 * hour for hour in range(1, 168)])

    assert await notes() == [f"hour {hour}" for hour in range(1, 169)]
    assert counts["_jump"] == 167
    assert counts["_check"] <= 168 * 20
