"""The loggers of the package, and what log records say of the attempt that they are made in."""

import logging
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final, Protocol

from asynctasq.kernel.messages import bounded_text
from asynctasq.kernel.texts import printable

__all__ = [
    "ATTEMPT_FIELDS",
    "STANDARD_FIELDS",
    "AttemptFilter",
    "Logged",
    "extra_text",
    "get_logger",
    "running_attempt",
    "worker_name",
]

ATTEMPT_FIELDS: Final = ("task", "task_id", "attempt", "queue", "worker")
"""The attributes that `AttemptFilter` gives a record."""

STANDARD_FIELDS: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""The attributes that every record has; others come by `extra` and filters."""

EXTRA_BYTES_MAX: Final = 2_000


class Logged(Protocol):
    """An attempt that log records may be made in."""

    def log_fields(self) -> Mapping[str, object]:
        """Return its task, task_id, attempt and queue."""
        ...


running_attempt: ContextVar[Logged | None] = ContextVar("asynctasq_running_attempt", default=None)
"""The attempt whose code runs here, its hooks and middleware included."""
worker_name: ContextVar[str] = ContextVar("asynctasq_worker_name", default="")


class AttemptFilter(logging.Filter):
    """Gives records `task`, `task_id`, `attempt`, `queue` and `worker` of the attempt they are made in, else None each.

    Add it to a handler. What a record has by `extra` already stays; it lets every record pass.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        attempt = running_attempt.get()
        fields = {} if attempt is None else {**attempt.log_fields(), "worker": worker_name.get() or None}
        for name in ATTEMPT_FIELDS:
            record.__dict__.setdefault(name, fields.get(name))
        return True


def extra_text(value: object) -> str:
    """Return the text of a field that a record has by `extra`: whole characters, bounded, whatever the value does."""
    try:
        text = value if isinstance(value, str) else repr(value)
        return bounded_text(text.encode("utf-8", "backslashreplace").decode(), EXTRA_BYTES_MAX)
    except Exception:  # noqa: BLE001 - __repr__ of user code
        return f"<{type(value).__name__} that has no text>"


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module; arguments of its records that are no numbers become bounded, printable texts."""
    logger = logging.getLogger(name)
    logger.addFilter(_escape_arguments)
    return logger


def _escape_arguments(record: logging.LogRecord) -> bool:
    """Let no text forge or control the log of an application. The template is left alone: handlers group by it."""
    if isinstance(record.args, tuple):
        record.args = tuple(arg if isinstance(arg, int | float) else printable(str(arg)) for arg in record.args)
    return True
