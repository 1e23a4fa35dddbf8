"""python -m blog publish TITLE EMAIL, python -m blog show."""

import sys

from asynctasq.utils.loop import run
from tortoise import Tortoise

from blog import posts
from blog.database import TORTOISE_ORM


async def main(arguments: list[str]) -> None:
    await Tortoise.init(config=TORTOISE_ORM)
    try:
        await Tortoise.generate_schemas()
        match arguments:
            case ["publish", title, email]:
                post = await posts.publish(title, email)
                print(f"published {post.id}")
            case ["show"]:
                print("\n".join(await posts.listing()))
            case _:
                sys.exit(__doc__)
    finally:
        await Tortoise.close_connections()


if __name__ == "__main__":
    run(main(sys.argv[1:]))
