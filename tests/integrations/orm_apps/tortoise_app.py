"""An application of the test: Tortoise models and one task in each mode; `python tortoise_app.py` dispatches."""

import asyncio
import os
from typing import Any

from tortoise import Tortoise, fields
from tortoise.models import Model

from asynctasq.tasks import AsyncProcessTask, AsyncTask, SyncProcessTask, SyncTask

TORTOISE_ORM = {
    "connections": {"default": os.environ["APP_DATABASE"]},
    "apps": {"models": {"models": ["tortoise_app"], "default_connection": "default"}},
}


class User(Model):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=50)


class Post(Model):
    id = fields.IntField(primary_key=True)
    title = fields.CharField(max_length=50)
    author = fields.ForeignKeyField("models.User", related_name="posts")


def note(*words: object) -> None:
    with open(os.environ["APP_NOTES"], "a") as notes:
        notes.write(" ".join(map(str, words)) + "\n")


class Two:
    post: Post
    author: User

    def __init__(self, post: Post, author: User, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.post = post
        self.author = author


class InLoop(Two, AsyncTask[None]):
    async def execute(self) -> None:
        note("InLoop", self.post.title, self.author.name, (await self.post.author).name, await User.all().count())


class InThread(Two, SyncTask[None]):
    def execute(self) -> None:
        note("InThread", self.post.title, self.author.name)


class InLoopOfProcess(Two, AsyncProcessTask[None]):
    async def execute(self) -> None:
        note("InLoopOfProcess", self.post.title, self.author.name, await User.all().count())


class InProcess(Two, SyncProcessTask[None]):
    def execute(self) -> None:
        note("InProcess", self.post.title, self.author.name)


class Fails(Two, SyncProcessTask[None]):
    max_attempts = 1

    def execute(self) -> None:
        raise ValueError

    def failed(self, exception: Exception) -> None:
        note("Fails", self.post.title, type(exception).__name__)


async def main() -> None:
    await Tortoise.init(config=TORTOISE_ORM)
    await Tortoise.generate_schemas()
    author = await User.create(id=1, name="old")
    post = await Post.create(id=10, title="First", author=author)
    for kind in (InLoop, InThread, InLoopOfProcess, InProcess, Fails):
        for _ in range(2):
            await kind(post=post, author=author).dispatch()
    await User.all().update(name="new")
    await Tortoise.close_connections()


if __name__ == "__main__":
    import tortoise_app  # the models are those of the module that the configuration names

    asyncio.run(tortoise_app.main())
