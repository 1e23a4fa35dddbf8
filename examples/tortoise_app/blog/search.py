"""Stands for a search service: it does not answer the first attempt, so that the example shows a retry."""


class NoAnswer(Exception):
    """The service did not answer in time; asking again may help."""


async def index(title: str, *, attempt: int) -> None:
    if attempt == 1:
        raise NoAnswer("the search service did not answer")
    print(f"indexed {title}")
