"""Tasks that log in child processes."""

import logging
import os
import threading
from logging.config import dictConfig
from typing import Any

from asynctasq import AsyncProcessTask, SyncProcessTask

logger = logging.getLogger("shop.children")


class NoText:
    """Can't be shown."""

    def __repr__(self) -> str:
        raise ValueError("no text")


class Logs(SyncProcessTask[None]):
    """Logs records of each kind, one of them in a thread."""

    order: int

    def execute(self) -> None:
        logger.debug("not wanted")
        logger.info("order %d", self.order, extra={"order": self.order, "tags": ["a"]})
        thread = threading.Thread(target=logger.warning, args=("in a thread",))
        thread.start()
        thread.join()
        try:
            raise ValueError("boom")
        except ValueError:
            logger.exception("it failed")


class LogsInLoop(AsyncProcessTask[None]):
    async def execute(self) -> None:
        logger.info("in a loop")


class LogsOddly(SyncProcessTask[None]):
    """Logs what can hardly be sent, then something else."""

    def execute(self) -> None:
        logger.info("huge %s", "x" * 2_000_000, extra={f"e{number}": "y" * 10_000 for number in range(200)})
        logger.info("no text %s", NoText())
        logger.info("extra", extra={"odd": NoText(), "big": 1 << 80, "half": "\ud800"})
        logger.info("too few %s %s", 1)  # noqa: PLE1206 - what is tried
        logger.info("fine")


class LogsWhereItWants(SyncProcessTask[None]):
    """Configures the logging of its process as an application does."""

    file: str

    def execute(self) -> None:
        handler: dict[str, Any] = {"class": "logging.FileHandler", "filename": self.file}
        dictConfig({"version": 1, "handlers": {"file": handler}, "root": {"handlers": ["file"], "level": "INFO"}})
        logging.getLogger("shop.other").info("into the file")


class Forges(SyncProcessTask[None]):
    """Sends bytes of its own on every connection of its process."""

    data: bytes

    def execute(self) -> None:
        (sender,) = [one for one in logging.root.handlers if type(one).__name__ == "RecordSender"]
        sender._connection.sendall(self.data)  # type: ignore[attr-defined]
        logger.info("after it")


class DiesAfterIt(SyncProcessTask[None]):
    def execute(self) -> None:
        logger.error("my last words")
        os._exit(3)
