"""The project's own tests; `manage.py test` runs them."""

import pytest
from django.test import TransactionTestCase

from asynctasq.testing import FakeQueue, RealWorldAccess
from shop.models import Post
from shop.tasks import Add, Bump, BumpAsync, Count


class InChildren(TransactionTestCase):
    def test_children_use_the_tests_database(self) -> None:
        post = Post.objects.create(id=1, title="of the test")
        with FakeQueue(real_executors=True) as queue:
            Bump(post).dispatch_sync()
            BumpAsync(post).dispatch_sync()
            queue.run_until_idle_sync()
        post.refresh_from_db()
        values = queue.history(Bump).value, queue.history(BumpAsync).value
        assert values == ("of the test", "of the test")
        assert post.views == 2

    async def test_on_the_tests_own_loop_too(self) -> None:
        post = await Post.objects.acreate(id=1, title="of the test")
        async with FakeQueue(real_executors=True) as queue:
            await Bump(post).dispatch()
            await queue.run_until_idle()
        await post.arefresh_from_db()
        assert (queue.history(Bump).value, post.views) == ("of the test", 1)

    def test_performed_alone_too(self) -> None:
        Post.objects.create(id=1, title="of the test")
        with FakeQueue(real_executors=True) as queue:
            assert queue.perform_sync(Count()).value == 1


class InMemory(TransactionTestCase):
    """Run by itself, with a test database in memory."""

    def test_a_child_that_uses_it_is_refused_in_words(self) -> None:
        with FakeQueue(real_executors=True) as queue:
            Count().dispatch_sync()
            with pytest.raises(RealWorldAccess, match="the test's database 'default' is in the memory"):
                queue.run_until_idle_sync()

    def test_a_task_may_get_the_refusal(self) -> None:
        with FakeQueue(real_executors=True, on_refusal="raise_in_task") as queue:
            Count().dispatch_sync()
            queue.run_until_idle_sync()
            error = queue.history(Count).exception
        assert "the test's database 'default' is in the memory of the test's process" in str(error)

    def test_one_that_does_not_runs(self) -> None:
        with FakeQueue(real_executors=True) as queue:
            Add(1).dispatch_sync()
            queue.run_until_idle_sync()
            assert queue.history(Add).value == 2
