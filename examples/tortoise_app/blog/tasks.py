"""What happens after a post is there. A model travels as its key; the worker brings it fresh."""

import logging

from asynctasq import AsyncTask

from blog import search
from blog.models import Author, Post

logger = logging.getLogger(__name__)


class AnnouncePost(AsyncTask[None]):
    """Takes two models; they are loaded at the same time."""

    def __init__(self, post: Post, author: Author, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.post = post
        self.author = author

    async def execute(self) -> None:
        print(f"{self.author.email} has published {self.post.title}")
        self.post.announced = True
        await self.post.save(update_fields=["announced"])


class IndexPost(AsyncTask[None]):
    """Runs again a second later if the search service does not answer, four times at most."""

    max_attempts = 4
    retry_delay = 1

    def __init__(self, post: Post, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.post = post

    async def execute(self) -> None:
        await search.index(self.post.title, attempt=self.attempt)
        self.post.indexed = True
        await self.post.save(update_fields=["indexed"])

    async def failed(self, exception: BaseException) -> None:
        logger.error("post %s is not indexed: %s", self.post.id, exception)
