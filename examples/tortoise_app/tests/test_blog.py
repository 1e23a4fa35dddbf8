"""Tests of the blog. A FakeQueue takes what is dispatched; no worker and no queue file are needed.

Tasks run in the test's own event loop, with the application's own connections. Only the queue's time is virtual.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from asynctasq.testing import FakeQueue
from tortoise import Tortoise

from blog import posts, search
from blog.models import Author, Post
from blog.tasks import AnnouncePost, IndexPost


@pytest.fixture(autouse=True)
async def database(tmp_path: Path) -> AsyncIterator[None]:
    await Tortoise.init(db_url=f"sqlite://{tmp_path}/test.db", modules={"models": ["blog.models"]})
    await Tortoise.generate_schemas()
    yield
    await Tortoise.close_connections()


@pytest.fixture
async def post() -> Post:
    author = await Author.create(email="ada@example.org")
    return await Post.create(title="Notes", author=author)


async def test_a_new_post_is_announced_and_indexed(fake_queue: FakeQueue) -> None:
    post = await posts.publish("Notes", "ada@example.org")

    fake_queue.assert_dispatched(AnnouncePost, post=post, author=post.author, times=1)
    fake_queue.assert_dispatched(IndexPost, post=post, times=1)


async def test_the_announcement_is_noted(post: Post) -> None:
    await AnnouncePost(post=post, author=post.author).execute()

    assert await posts.listing() == ["1 Notes (ada@example.org): announced, not indexed"]


async def test_a_service_that_never_answers_is_asked_four_times(
    post: Post, fake_queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def index(title: str, *, attempt: int) -> None:
        raise search.NoAnswer

    monkeypatch.setattr(search, "index", index)
    await IndexPost(post=post).dispatch()

    await fake_queue.run_until_idle()  # three seconds pass in virtual time

    fake_queue.assert_retried_at([1, 2, 3])
    fake_queue.assert_failed(IndexPost, with_=search.NoAnswer, attempts=4)
