"""What the application can do; a web application would call this from its views."""

from tortoise.transactions import in_transaction

from blog.models import Author, Post
from blog.tasks import AnnouncePost, IndexPost


async def publish(title: str, email: str) -> Post:
    async with in_transaction():
        author, _ = await Author.get_or_create(email=email)
        post = await Post.create(title=title, author=author)
    # After the commit, so that a worker finds the rows.
    await AnnouncePost(post=post, author=author).dispatch()
    await IndexPost(post=post).dispatch()
    return post


async def listing() -> list[str]:
    return [
        f"{post.id} {post.title} ({post.author.email}): "
        f"{'announced' if post.announced else 'not announced'}, {'indexed' if post.indexed else 'not indexed'}"
        for post in await Post.all().order_by("id").prefetch_related("author")
    ]
