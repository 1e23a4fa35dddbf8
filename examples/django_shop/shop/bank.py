"""Stands for a payment service: it does not answer the first attempt, so that the example shows a retry."""


class NoAnswer(Exception):
    """The bank did not answer in time; asking again may help."""


def charge(email: str, item: str, *, attempt: int) -> None:
    if attempt == 1:
        raise NoAnswer("the bank did not answer")
    print(f"charged {email} for {item}")
