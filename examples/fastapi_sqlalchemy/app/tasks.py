"""What the application does after it has answered. A model travels as its key; the worker brings it fresh."""

import logging
from datetime import UTC, datetime

from asynctasq import AsyncTask

from app import scoring
from app.database import User, async_session

logger = logging.getLogger(__name__)


class SendWelcome(AsyncTask[None]):
    def __init__(self, user: User, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.user = user

    async def execute(self) -> None:
        print(f"Dear {self.user.email}, welcome!")
        async with async_session.begin() as session:
            session.add(self.user)
            self.user.welcomed_at = datetime.now(UTC)


class ScoreUser(AsyncTask[None]):
    """Runs again a second later if the service does not answer, four times at most."""

    max_attempts = 4
    retry_delay = 1
    timeout = 30

    def __init__(self, user: User, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.user = user

    async def execute(self) -> None:
        score = await scoring.ask(self.user.email, attempt=self.attempt)
        async with async_session.begin() as session:
            session.add(self.user)
            self.user.score = score

    async def failed(self, exception: BaseException) -> None:
        logger.error("user %s has no score: %s", self.user.id, exception)
