"""Stands for a service elsewhere: it does not answer the first attempt, so that the example shows a retry."""


class NoAnswer(Exception):
    """The service did not answer in time; asking again may help."""


async def ask(email: str, *, attempt: int) -> int:
    if attempt == 1:
        raise NoAnswer("the scoring service did not answer")
    return len(email)
