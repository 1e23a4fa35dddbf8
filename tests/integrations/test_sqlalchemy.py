"""`on_commit` of SQLAlchemy sessions: what a commit dispatches, what a rollback drops, and what failures do."""

import logging
import sqlite3
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.errors import DriverUnavailable, UnserializableValue, UnsupportedFeature
from asynctasq.integrations.sqlalchemy import on_commit
from asynctasq.kernel.messages import Message
from asynctasq.queue import Queue
from asynctasq.tasks import AsyncTask, Dispatcher
from asynctasq.tasks.dispatching import scoped_dispatcher
from asynctasq.testing import FakeQueue


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


class Send(AsyncTask[None]):
    def __init__(self, order: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.order = order

    async def execute(self) -> None:
        pass


class Away(SQLiteDriver):
    """A queue that can't be reached; the file is none of its own."""

    async def enqueue(self, messages: Any) -> list[str]:
        raise DriverUnavailable("the queue is away")


@pytest.fixture
def url(tmp_path: Path) -> str:
    engine = create_engine(f"sqlite:///{tmp_path}/app.db")
    Base.metadata.create_all(engine)
    engine.dispose()
    return f"{tmp_path}/app.db"


@pytest.fixture
def session(url: str) -> Iterator[Session]:
    engine = create_engine(f"sqlite:///{url}")
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.fixture
async def async_session(url: str) -> AsyncIterator[AsyncSession]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{url}")
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


@pytest.fixture
def queue() -> Iterator[FakeQueue]:
    with FakeQueue() as queue:
        yield queue


def dispatched(queue: FakeQueue) -> list[Any]:
    return [record.arguments["order"] for record in queue.dispatched()]


# -- synchronous sessions ------------------------------------------------------------------------


def test_a_commit_dispatches_under_the_id_that_was_returned(queue: FakeQueue, session: Session) -> None:
    session.add(Order(id=1))
    task_id = on_commit(Send(1), session)
    before = dispatched(queue)

    session.commit()

    assert before == []
    assert [record.task_id for record in queue.dispatched()] == [task_id]
    session.commit()
    assert dispatched(queue) == [1]


def test_a_rollback_drops_it_and_the_next_commit_does_not_bring_it_back(queue: FakeQueue, session: Session) -> None:
    on_commit(Send(1), session)
    session.rollback()
    on_commit(Send(2), session)

    session.commit()

    assert dispatched(queue) == [2]


def test_closing_the_session_drops_it(queue: FakeQueue, session: Session) -> None:
    on_commit(Send(1), session)
    session.close()

    session.commit()

    assert dispatched(queue) == []


def test_a_commit_that_fails_dispatches_nothing(queue: FakeQueue, session: Session) -> None:
    session.add(Order(id=1))
    session.commit()
    on_commit(Send(1), session)
    session.add(Order(id=1))

    with pytest.raises(Exception, match="UNIQUE"):
        session.commit()
    session.rollback()
    session.commit()

    assert dispatched(queue) == []


def test_a_savepoint_takes_what_it_was_given_with_it(queue: FakeQueue, session: Session) -> None:
    with session.begin():
        on_commit(Send("outer"), session)
        undone = session.begin_nested()
        on_commit(Send("undone"), session)
        undone.rollback()
        with session.begin_nested():
            on_commit(Send("kept"), session)
            with session.begin_nested():
                session.add(Order(id=1))
                session.flush()
                on_commit(Send("deep"), session)
        after_savepoints = dispatched(queue)

    assert after_savepoints == []
    assert sorted(dispatched(queue)) == ["deep", "kept", "outer"]


def test_a_savepoint_inside_a_rollback_is_gone_with_it(queue: FakeQueue, session: Session) -> None:
    with session.begin_nested():
        on_commit(Send(1), session)

    session.rollback()
    session.commit()

    assert dispatched(queue) == []


def test_a_scoped_session_is_the_session_behind_it(queue: FakeQueue, session: Session) -> None:
    scoped = scoped_session(sessionmaker(session.get_bind()))
    on_commit(Send(1), scoped)

    scoped.commit()
    scoped.remove()

    assert dispatched(queue) == [1]


def test_options_count_as_they_were_when_it_was_asked_for(queue: FakeQueue, session: Session) -> None:
    wanted = str(uuid.uuid4())
    task = Send(1).on_queue("mail").delay(5).with_options(task_id=wanted)

    assert on_commit(task, session) == wanted
    task.on_queue("other")
    session.commit()

    [record] = queue.dispatched()
    assert (record.task_id, record.queue, record.delay_s) == (wanted, "mail", 5)


def test_one_instance_twice_is_two_tasks(queue: FakeQueue, session: Session) -> None:
    task = Send(1)
    ids = [on_commit(task, session), on_commit(task, session)]

    session.commit()

    assert [record.task_id for record in queue.dispatched()] == ids
    assert len(set(ids)) == 2


def test_what_can_not_be_encoded_is_refused_before_the_commit(queue: FakeQueue, session: Session) -> None:
    with pytest.raises(UnserializableValue):
        on_commit(Send(object()), session)
    with pytest.raises(UnserializableValue, match="not saved"):
        on_commit(Send(Order(id=1)), session)


def test_what_is_no_session_is_refused(queue: FakeQueue) -> None:
    with pytest.raises(TypeError, match=r"Session or AsyncSession, not a builtins\.object"):
        on_commit(Send(1), object())


def test_a_failed_dispatch_is_logged_with_its_id_and_raised_from_commit(
    session: Session, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session.add(Order(id=1))
    with dispatching_to(Queue(Away(tmp_path / "queue.db"))):
        task_id = on_commit(Send(1), session)

    with pytest.raises(DriverUnavailable, match="away"), caplog.at_level(logging.ERROR):
        session.commit()

    assert task_id in caplog.text
    assert session.scalars(select(Order.id)).all() == [1]
    session.commit()


# -- asynchronous sessions -----------------------------------------------------------------------


async def test_an_async_commit_dispatches_and_a_rollback_drops(queue: FakeQueue, async_session: AsyncSession) -> None:
    on_commit(Send(1), async_session)
    await async_session.rollback()
    on_commit(Send(2), async_session)
    before = dispatched(queue)

    await async_session.commit()

    assert (before, dispatched(queue)) == ([], [2])


async def test_an_async_savepoint_takes_what_it_was_given_with_it(
    queue: FakeQueue, async_session: AsyncSession
) -> None:
    async with async_session.begin():
        undone = await async_session.begin_nested()
        on_commit(Send("undone"), async_session)
        await undone.rollback()
        async with async_session.begin_nested():
            on_commit(Send("kept"), async_session)

    assert dispatched(queue) == ["kept"]


async def test_an_async_scoped_session_and_run_sync(queue: FakeQueue, async_session: AsyncSession) -> None:
    scoped = async_scoped_session(async_sessionmaker(async_session.bind), scopefunc=lambda: 1)
    on_commit(Send(1), scoped)
    await scoped.commit()
    await scoped.remove()
    await async_session.run_sync(lambda sync: on_commit(Send(2), sync))
    await async_session.commit()

    assert dispatched(queue) == [1, 2]


async def test_the_message_is_in_a_real_queue_when_commit_returns(async_session: AsyncSession, tmp_path: Path) -> None:
    driver = SQLiteDriver(tmp_path / "queue.db")
    with dispatching_to(Queue(driver)):
        ids = [on_commit(Send(1), async_session), on_commit(Send(2), async_session)]
        assert (await driver.depth("default")).ready == 0
        await async_session.commit()

    leases = await driver.reserve(["default"], limit=5, lease_s=9)
    assert [lease.message_id for lease in leases] == ids
    await driver.close()


async def test_a_failed_dispatch_is_raised_from_an_async_commit(
    async_session: AsyncSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async_session.add(Order(id=1))
    with dispatching_to(Queue(Away(tmp_path / "queue.db"))):
        task_id = on_commit(Send(1), async_session)

    with pytest.raises(DriverUnavailable, match="away"), caplog.at_level(logging.ERROR):
        await async_session.commit()

    assert task_id in caplog.text
    assert (await async_session.scalars(select(Order.id))).all() == [1]


async def test_a_sync_session_in_a_running_loop_is_refused_before_the_commit(session: Session) -> None:
    with dispatching_to(None), pytest.raises(RuntimeError, match="AsyncSession"):
        on_commit(Send(1), session)


# -- where a driver can't take part in the transaction -------------------------------------------


async def test_a_driver_without_transactions_points_here() -> None:
    connection = sqlite3.connect(":memory:")

    with pytest.raises(UnsupportedFeature, match=r"asynctasq\.integrations\.sqlalchemy"):
        await Queue(MemoryDriver()).dispatch([Send(1)], connection=connection)
    with pytest.raises(UnsupportedFeature, match="on_commit"):
        Queue(MemoryDriver()).dispatch_sync([Send(1)], connection=connection)

    connection.close()


def test_the_message_of_a_task_is_what_dispatch_would_have_stored(session: Session) -> None:
    stored: list[Message] = []

    class Recorder(MemoryDriver):
        async def enqueue(self, messages: Any) -> list[str]:
            stored.extend(messages)
            return await super().enqueue(messages)

    with dispatching_to(Queue(Recorder())):
        task_id = on_commit(Send(1).on_queue("mail"), session)
        session.commit()

    assert [(message.id, message.queue) for message in stored] == [(task_id, "mail")]


class dispatching_to:
    """Let tasks of this block go to `dispatcher`; None for whatever is set up, with no FakeQueue around."""

    def __init__(self, dispatcher: Dispatcher | None) -> None:
        self._dispatcher = dispatcher

    def __enter__(self) -> None:
        self._token = scoped_dispatcher.set(self._dispatcher)

    def __exit__(self, *_: object) -> None:
        scoped_dispatcher.reset(self._token)
