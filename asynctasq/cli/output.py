"""The output of a worker: one line per attempt, and log records; as text or as JSON lines."""

import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TextIO

from asynctasq.errors import ConfigError
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.limits import runs_no_task
from asynctasq.kernel.texts import printable, printable_lines
from asynctasq.logs import STANDARD_FIELDS, AttemptFilter, extra_text

__all__ = ["AttemptLines", "JsonFormatter", "TextFormatter", "configure_logging"]

GREEN, YELLOW, RED, DIM, PLAIN = "\033[32m", "\033[33m", "\033[31m", "\033[2m", "\033[0m"
MARKS: Mapping[str, tuple[str, str]] = {
    "complete": ("✓", GREEN),
    "retry": ("↻", YELLOW),
    "snooze": ("…", YELLOW),
    "hand back": ("←", YELLOW),
    "crash": ("☠", RED),
    "bury": ("✗", RED),
    "cancelled": ("⊘", YELLOW),
    "lost": ("?", RED),
}
WORDS: Mapping[str, str] = {
    "complete": "completed",
    "retry": "failed, will be retried",
    "snooze": "snoozed, will be run again",
    "hand back": "handed back",
    "crash": "crashed, will be run again",
    "bury": "failed for good, dead letter",
    "cancelled": "cancelled",
    "lost": "lost its lease",
}
SECONDS_MAX = 120
"""Longer delays are shown in hours, minutes and seconds."""


@dataclass(slots=True)
class _Running:
    name: str
    started_at: float
    outcome: str = ""


class AttemptLines:
    """A ledger sink that writes one line when an attempt is settled."""

    def __init__(self, stream: TextIO, *, as_json: bool) -> None:
        self._stream = stream
        self._as_json = as_json
        self._colour = stream.isatty() and not as_json
        self._running: dict[str, _Running] = {}

    def __call__(self, entry: Entry) -> None:
        if runs_no_task(entry.message_id) or entry.detail == "wait":  # the task that it runs has a line of its own
            return
        if entry.kind is Kind.STARTED:
            self._running[entry.message_id] = _Running(entry.detail, entry.at)
        elif entry.kind is Kind.ENDED and entry.message_id in self._running:
            self._running[entry.message_id].outcome = entry.detail
        elif entry.kind in (Kind.SETTLED, Kind.LOST) or (
            entry.kind is Kind.CANCELLED and entry.message_id in self._running
        ):
            running = self._running.pop(entry.message_id, None) or _Running("", entry.at)
            self._write(entry, running)

    def _write(self, entry: Entry, running: _Running) -> None:
        settled = entry.kind is Kind.SETTLED
        key = entry.detail.partition(":")[0] if settled else entry.kind.value
        line = self._json(entry, running, key) if self._as_json else self._text(entry, running, key)
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def _json(self, entry: Entry, running: _Running, key: str) -> str:
        return json.dumps(
            {
                "time": datetime.fromtimestamp(entry.at, UTC).isoformat(),
                "event": "attempt",
                "task": running.name,
                "task_id": entry.message_id,
                "queue": entry.queue,
                "attempt": entry.attempt,
                "settlement": key,
                "reason": entry.detail.partition(": ")[2] or None,
                "outcome": running.outcome,
                "duration_s": round(entry.at - running.started_at, 6),
                "due_at": datetime.fromtimestamp(entry.due_at, UTC).isoformat() if _comes_back(entry) else None,
                "worker": entry.worker,
            }
        )

    def _text(self, entry: Entry, running: _Running, key: str) -> str:
        mark, colour = MARKS[key]
        reason = entry.detail.partition(": ")[2]
        error = running.outcome.partition(": ")[2].splitlines()
        parts = [
            datetime.fromtimestamp(entry.at).astimezone().strftime("%H:%M:%S"),
            mark,
            printable(running.name) or "(not a task)",
            printable(entry.message_id),
            f"attempt {entry.attempt}",
            WORDS[key] + (f" ({printable(reason)})" if reason and reason != "failed" else "") + _when(entry, key),
        ]
        ran = (" in " if key == "complete" else ", ran ") + _duration(entry.at - running.started_at)
        text = " ".join(parts) + ran + (f": {printable(error[0])}" if error else "")
        return f"{colour}{text}{PLAIN}" if self._colour else text


def _comes_back(entry: Entry) -> bool:
    """Return whether this settlement made the message visible again; a lost lease settles nothing."""
    return entry.kind is Kind.SETTLED and entry.due_at > 0


def _when(entry: Entry, key: str) -> str:
    """Return in how long the message is run again, counted from the entry."""
    if not _comes_back(entry):
        return ""
    delay_s = entry.due_at - entry.at
    if key == "hand back":
        return f", will be run again {_delay(delay_s)}" if delay_s > 0 else ""
    return f" {_delay(delay_s)}"


def _delay(delay_s: float) -> str:
    if delay_s <= 0:
        return "at once"
    if delay_s < 1:
        return f"in {delay_s * 1000:.0f} ms"
    # The delay began with the request, shortly before: more digits would show 60 seconds as 59.99.
    if delay_s < SECONDS_MAX:
        return f"in {delay_s:.1f}".removesuffix(".0") + " s"
    return f"in {timedelta(seconds=round(delay_s))}"


def _duration(duration_s: float) -> str:
    return f"{duration_s * 1000:.0f} ms" if duration_s < 1 else f"{duration_s:.2f} s"


class TextFormatter(logging.Formatter):
    """Log records of anybody as lines: none passes for another record, and none controls the terminal.

    One that is made in an attempt says in which.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name in `logging`
        text, fields = super().formatMessage(record), record.__dict__
        if fields.get("task_id") is None:
            return text
        return f"{text} [{fields.get('task')} {fields['task_id']} attempt {fields.get('attempt')}]"

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


SCALARS = (str, int, float)
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class JsonFormatter(logging.Formatter):
    """Log records as JSON lines, with the attempt that they are made in, and what they have by `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "event": "log",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = record.exc_text or self.formatException(record.exc_info)
        for name, value in record.__dict__.items():
            if name not in STANDARD_FIELDS and value is not None:
                fields.setdefault(name, value)
        try:
            return json.dumps(fields, default=extra_text)
        except (TypeError, ValueError):  # keys that are no texts, or a value that contains itself
            return json.dumps(
                {name: value if isinstance(value, SCALARS) else extra_text(value) for name, value in fields.items()}
            )


def configure_logging(level: str, *, as_json: bool) -> None:
    """Send log records to standard error (JSON: standard output); the command does this, the library never.

    Raises: ConfigError for a level that is none.
    """
    if level.upper() not in LEVELS:
        raise ConfigError(f"log level {level!r} is unknown; use {', '.join(LEVELS[:-1])} or {LEVELS[-1]}")
    handler = logging.StreamHandler(sys.stdout if as_json else sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    handler.addFilter(AttemptFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
