"""Django's own test cases with a FakeQueue: a project of one app, tested as `manage.py test` does."""

import subprocess
import sys
from pathlib import Path

import pytest

from asynctasq.testing.servers import Servers
from tests.codec.orm.databases import KINDS, database

SETTINGS = """
DATABASES = {{"default": {database}}}
INSTALLED_APPS = ["shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SECRET_KEY = "x"
USE_TZ = True
ROOT_URLCONF = "shop.urls"
ALLOWED_HOSTS = ["*"]
"""

MODELS = """
from django.db import models


class Post(models.Model):
    title = models.TextField()
    views = models.IntegerField(default=0)
"""

TASKS = """
from asgiref.sync import sync_to_async
from django.db import transaction

from asynctasq import AsyncTask, SyncTask
from shop.models import Post


class Bump(AsyncTask[None]):
    max_attempts = 2
    retry_delay = 3600

    def __init__(self, post: Post, **kwargs):
        super().__init__(**kwargs)
        self.post = post

    async def execute(self):
        self.post.views += 1
        await self.post.asave()
        await sync_to_async(self.lock)()
        if self.attempt == 1:
            raise ConnectionError

    def lock(self):
        with transaction.atomic():
            row = Post.objects.select_for_update().get(pk=self.post.pk)
            row.title += "+"
            row.save()

    async def should_retry(self, exception):
        return await Post.objects.filter(pk=self.post.pk).aexists()


class BumpInThread(SyncTask[None]):
    def __init__(self, post: Post, **kwargs):
        super().__init__(**kwargs)
        self.post = post

    def execute(self):
        with transaction.atomic():
            row = Post.objects.select_for_update().get(pk=self.post.pk)
            row.views += 10
            row.save()


async def work(post, queue):
    await Bump(post).dispatch()
    await queue.run_until_idle()
    await BumpInThread(post).dispatch()
    await queue.run_until_idle()
    queue.assert_retried_at([3600])
    queue.assert_completed(Bump)
    queue.assert_completed(BumpInThread)
    await post.arefresh_from_db()
    assert (post.views, post.title) == (12, "a++"), (post.views, post.title)
"""

URLS = """
from django.http import JsonResponse
from django.urls import path

from shop.models import Post
from shop.tasks import Bump


async def create(request):
    post = await Post.objects.acreate(title="a")
    await Bump(post).dispatch()
    return JsonResponse({"id": post.pk})


urlpatterns = [path("posts/", create)]
"""

TESTS = """
from django.test import AsyncClient, TestCase, TransactionTestCase

from asynctasq.testing import FakeQueue
from shop.models import Post
from shop.tasks import Bump, BumpInThread, work


class Tests:
    async def test_async(self):
        post = await Post.objects.acreate(title="a")
        async with FakeQueue(strict=True) as queue:
            await work(post, queue)

    async def test_async_client(self):
        async with FakeQueue(strict=True) as queue:
            answer = await AsyncClient().post("/posts/")
            await queue.run_until_idle()
            queue.assert_completed(Bump)
        assert (await Post.objects.aget(pk=answer.json()["id"])).views == 2

    def test_sync(self):
        post = Post.objects.create(title="a")
        with FakeQueue(strict=True) as queue:
            Bump(post).dispatch_sync()
            queue.run_until_idle_sync()
            BumpInThread(post).dispatch_sync()
            queue.run_until_idle_sync()
            queue.assert_retried_at([3600])
            queue.assert_completed(BumpInThread)
        post.refresh_from_db()
        assert (post.views, post.title) == (12, "a++")

    def test_row_locked_by_the_test(self):
        from django.db import transaction
        with transaction.atomic(), FakeQueue(strict=True) as queue:
            post = Post.objects.select_for_update().get(pk=Post.objects.create(title="a").pk)
            BumpInThread(post).dispatch_sync()
            queue.run_until_idle_sync()
            queue.assert_completed(BumpInThread)


class InTransaction(Tests, TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.shared = Post.objects.create(title="a")

    async def test_rows_of_the_class(self):
        async with FakeQueue(strict=True) as queue:
            await work(self.shared, queue)


class WithCommits(Tests, TransactionTestCase):
    pass
"""


@pytest.mark.parametrize("kind", KINDS)
def test_test_case_transaction_test_case_and_async_client(
    kind: str, conformance_servers: Servers, tmp_path: Path
) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    for name, text in (("models", MODELS), ("tasks", TASKS), ("urls", URLS), ("tests", TESTS), ("__init__", "")):
        (shop / f"{name}.py").write_text(text)
    with database(kind, conformance_servers, tmp_path) as own:
        (tmp_path / "settings.py").write_text(SETTINGS.format(database=own.django))
        command = [sys.executable, "-W", "error", "-m", "django", "test", "--settings", "settings", "-v", "2"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ran 9 tests" in done.stderr
    assert "Destroying test database" in done.stderr
