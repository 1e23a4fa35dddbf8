"""What a store may hold that no driver has written: how to tell it, and what to read it as. Pure, but for a log.

Whoever may write to a backend may damage what is stored there, and disks do. A worker that meets such a message makes
it a dead letter, so that it is told once and nothing behind it waits; a listing shows what can be shown.
"""

import json
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import NamedTuple, cast

from asynctasq.drivers.checks import is_message_id
from asynctasq.drivers.levels import queue_in
from asynctasq.errors import DriverError
from asynctasq.kernel.messages import QUEUE_NAME, DeadReason, ErrorRecord, Progress
from asynctasq.logs import get_logger

__all__ = [
    "CLAIMS_MAX",
    "COUNT_MAX",
    "DamagedMessage",
    "damaged_message",
    "is_count",
    "is_instant_us",
    "is_message",
    "leases_kept",
    "log_damaged",
    "queue_names",
    "read_bytes",
    "read_count",
    "read_error",
    "read_instant_us",
    "read_progress",
    "read_reason",
    "read_text",
]

logger = get_logger(__name__)

CLAIMS_MAX = 100
"""How often one reserve looks again because all or some of what it found was damaged."""
COUNT_MAX = 2**30
"""No message has been run so often; columns that count hold a few more, so that the next one does not overflow."""
INSTANT_US_MIN, INSTANT_US_MAX = -62_000_000_000_000_000, 253_000_000_000_000_000
"""The years 5 to 9987, which `datetime` can show."""
SHOWN_CHARACTERS_MAX = 80


def is_message(message_id: object, body: object, attempts: object, crashes: object, enqueued_us: object) -> bool:
    """Say whether these are values that a message of ours may have."""
    return (
        type(message_id) is str
        and is_message_id(message_id)
        and type(body) is bytes
        and is_count(attempts)
        and is_count(crashes)
        and is_instant_us(enqueued_us)
    )


def is_count(value: object, most: int = COUNT_MAX) -> bool:
    """Say whether this is a whole number from 0 on."""
    return type(value) is int and 0 <= value <= most


def is_instant_us(value: object) -> bool:
    """Say whether this is an instant that has a date."""
    return type(value) is int and INSTANT_US_MIN <= value <= INSTANT_US_MAX


# -- what becomes of it --------------------------------------------------------------------------


class DamagedMessage(NamedTuple):
    """What is stored in place of a damaged message: a dead letter that can be read, listed and driven again.

    `error` is an `ErrorRecord` as JSON. Without an id nothing was left to be stored.
    """

    message_id: str
    queue: str
    error: str
    attempts: int = 0
    crashes: int = 0
    enqueued_us: int = 0


def damaged_message(queue: str, columns: Mapping[str, object], *, arrival: object, now_us: int) -> DamagedMessage:
    """Return the dead letter for what is stored in `columns`; `id`, `attempts`, `crashes` and `enqueued_us` among them.

    What can be kept is kept. An id that can't be stored is replaced by one that is not used yet.
    """
    given, enqueued_us = columns["id"], columns["enqueued_us"]
    keeps_id = type(given) is str and is_message_id(given)
    was = ", ".join(f"{name} {_shown(value)}" for name, value in columns.items())
    error = ErrorRecord(type="DamagedMessage", message=f"what is stored of this message is damaged; it was: {was}")
    return DamagedMessage(
        message_id=str(given) if keeps_id else f"damaged-{arrival}-{now_us}",
        queue=queue,
        attempts=read_count(columns["attempts"]),
        crashes=read_count(columns["crashes"]),
        enqueued_us=enqueued_us if isinstance(enqueued_us, int) and is_instant_us(enqueued_us) else now_us,
        error=error.to_json(),
    )


def log_damaged(where: object, found: Iterable[DamagedMessage]) -> None:
    """Log each of them, once they are dead letters."""
    for message in found:
        error = ErrorRecord.from_json(message.error).message
        what = f"message {message.message_id} becomes a dead letter" if message.message_id else "an entry is removed"
        logger.error("queue %s of %s: %s: %s", message.queue, where, what, error)


@contextmanager
def leases_kept(where: object) -> Generator[None]:
    """Log an error of the backend instead of raising it: what a claim has leased until then is to be run."""
    try:
        yield
    except DriverError as error:
        logger.warning("%s: a claim was cut short; what is left comes with a later one: %s", where, error)


# -- reading what can be read ----------------------------------------------------------------------


def read_text(value: object) -> str:
    """Return a text that every output can show."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="backslashreplace").decode()
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)[:SHOWN_CHARACTERS_MAX]


def read_bytes(value: object) -> bytes:
    """Return a body as the bytes it may have been."""
    return value if isinstance(value, bytes) else str(value).encode(errors="surrogateescape")


def read_count(value: object) -> int:
    """Return a count, 0 for what is none."""
    return value if isinstance(value, int) and is_count(value) else 0


def read_instant_us(value: object) -> int:
    """Return an instant in whole microseconds, 0 for what is none."""
    return round(max(-(2**63), min(2**63, value))) if isinstance(value, int | float) else 0


def read_reason(value: object) -> DeadReason:
    """Return the reason of a dead letter; one that does not exist is as undecodable as a body."""
    try:
        return DeadReason(value.decode() if isinstance(value, bytes) else value)
    except ValueError:
        return DeadReason.UNDECODABLE


def read_error(value: object) -> ErrorRecord | None:
    """Return a stored error, for one that is no `ErrorRecord` its beginning."""
    if value is None:
        return None
    try:
        texts = json.loads(value) if isinstance(value, str | bytes) else ()
    except (ValueError, RecursionError):
        texts = ()
    match texts:
        case [str(kind), str(message), str(traceback)]:
            return ErrorRecord(type=kind, message=message, traceback=traceback)
        case _:
            return ErrorRecord(type="DamagedError", message=f"the stored error is damaged; it was: {_shown(value)}")


def read_progress(value: object) -> Progress | None:
    """Return a stored progress, None for what is none."""
    try:
        return Progress.from_json(value.decode() if isinstance(value, bytes) else cast("str", value))
    except (ValueError, TypeError, RecursionError):
        return None


def queue_names(values: Iterable[object]) -> list[str]:
    """Return the queues of those that are names of lines, sorted."""
    names = {queue_in(read_text(value)) for value in values if isinstance(value, str | bytes)}
    return sorted(name for name in names if QUEUE_NAME.match(name))


def _shown(value: object) -> str:
    text = ascii(value[:SHOWN_CHARACTERS_MAX]) if isinstance(value, str | bytes) else ascii(value)
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}..."
