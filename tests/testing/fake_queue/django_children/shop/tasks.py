"""Process tasks that read and write, one in a child's event loop."""

from typing import Any

from django.db.models import F

from asynctasq.tasks import AsyncProcessTask, SyncProcessTask
from shop.models import Post


class Bump(SyncProcessTask[str]):
    max_attempts = 1

    def __init__(self, post: Post, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.post = post

    def execute(self) -> str:
        Post.objects.filter(pk=self.post.pk).update(views=F("views") + 1)
        return self.post.title


class BumpAsync(AsyncProcessTask[str]):
    max_attempts = 1

    def __init__(self, post: Post, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.post = post

    async def execute(self) -> str:
        await Post.objects.filter(pk=self.post.pk).aupdate(views=F("views") + 1)
        return self.post.title


class Add(SyncProcessTask[int]):
    """Uses no database."""

    def __init__(self, a: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.a = a

    def execute(self) -> int:
        return self.a + 1


class Count(SyncProcessTask[int]):
    """Has no model among its arguments."""

    max_attempts = 1

    def execute(self) -> int:
        return Post.objects.count()
