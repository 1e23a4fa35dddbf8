"""The tasks of `asynctasq demo`; in a module of their own so that child processes can import them."""

from asynctasq.tasks import AsyncTask, SyncProcessTask, SyncTask

__all__ = ["ChargeCard", "CountPrimes", "DownloadReport", "SendReminder", "WelcomeUser", "WriteLog"]


class WelcomeUser(AsyncTask[str]):
    """Succeeds at once."""

    def __init__(self, name: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.name = name

    async def execute(self) -> str:
        return f"welcome {self.name}"


class DownloadReport(AsyncTask[str]):
    """Fails once, then succeeds."""

    retry_delay = 0.7

    async def execute(self) -> str:
        if self.attempt == 1:
            raise ConnectionError("the server hung up")
        return "42 pages"


class ChargeCard(AsyncTask[None]):
    """Fails for good: two attempts, then its `failed` hook, then a dead letter."""

    max_attempts = 2
    retry_delay = 0.4

    async def execute(self) -> None:
        raise ValueError("card expired")

    async def failed(self, exception: Exception) -> None:
        """A real task would tell the customer here."""


class SendReminder(AsyncTask[None]):
    """Dispatched with a delay."""

    async def execute(self) -> None:
        """A real task would send something here."""


class WriteLog(SyncTask[int]):
    """Blocking code, in a thread."""

    def execute(self) -> int:
        return len("a line of log")


class CountPrimes(SyncProcessTask[int]):
    """Heavy code, in a child process."""

    def __init__(self, below: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.below = below

    def execute(self) -> int:
        return sum(1 for n in range(2, self.below) if all(n % d for d in range(2, int(n**0.5) + 1)))
