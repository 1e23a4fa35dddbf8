"""Tests of the application. A FakeQueue takes what is dispatched; no worker and no queue file are needed.

Tasks run in the test's own event loop, with the application's own connections. Only the queue's time is virtual.
"""

from collections.abc import AsyncIterator

import httpx
import pytest
from asynctasq.testing import FakeQueue

from app import scoring
from app.database import Base, User, async_session, engine
from app.main import app
from app.tasks import ScoreUser, SendWelcome


@pytest.fixture(autouse=True)
async def tables() -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.fixture
async def user() -> User:
    async with async_session.begin() as session:
        user = User(email="ada@example.org")
        session.add(user)
    return user


async def test_a_new_user_is_welcomed_and_scored(client: httpx.AsyncClient, fake_queue: FakeQueue) -> None:
    answer = await client.post("/users", json={"email": "ada@example.org"})

    async with async_session() as session:
        user = await session.get(User, answer.json()["id"])
    fake_queue.assert_dispatched(SendWelcome, user=user, times=1)
    fake_queue.assert_dispatched(ScoreUser, user=user, times=1)


async def test_a_user_who_is_refused_is_not_welcomed(client: httpx.AsyncClient, user: User) -> None:
    with FakeQueue() as queue, pytest.raises(Exception, match=r"(?i)unique"):
        await client.post("/users", json={"email": user.email})

    queue.assert_nothing_dispatched()


async def test_the_welcome_is_noted(user: User) -> None:
    await SendWelcome(user=user).execute()

    async with async_session() as session:
        assert (await session.get_one(User, user.id)).welcomed_at is not None


async def test_a_service_that_never_answers_is_asked_four_times(
    user: User, fake_queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(email: str, *, attempt: int) -> int:
        raise scoring.NoAnswer

    monkeypatch.setattr(scoring, "ask", ask)
    await ScoreUser(user=user).dispatch()

    await fake_queue.run_until_idle()  # three seconds pass in virtual time

    fake_queue.assert_retried_at([1, 2, 3])
    fake_queue.assert_failed(ScoreUser, with_=scoring.NoAnswer, attempts=4)
