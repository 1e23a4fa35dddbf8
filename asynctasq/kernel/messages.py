"""The values that queue, worker and driver exchange; not how a driver stores them."""

import bisect
import enum
import json
import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

from asynctasq.errors import InvalidQueueName
from asynctasq.kernel.priority import NORMAL, Priority
from asynctasq.kernel.values import value

__all__ = [
    "CANCELLED_TTL_S",
    "HOLDER_CHARS_MAX",
    "MICROSECONDS",
    "ON_CONFLICTS",
    "PROGRESS_CHARS_MAX",
    "UNIQUE_CHARS_MAX",
    "UNTILS",
    "Bury",
    "Complete",
    "DeadReason",
    "Depth",
    "ErrorRecord",
    "Lease",
    "Message",
    "OnConflict",
    "Progress",
    "Release",
    "Settlement",
    "State",
    "StoredMessage",
    "UniqueKey",
    "Until",
    "bounded_text",
    "cancelled_mark",
    "cancelled_token",
    "check_queue_name",
    "checked_progress",
    "is_unique_key",
    "microseconds",
    "random_id",
]

MICROSECONDS = 1_000_000
JSON_BYTES_PER_CHAR = 12
PROGRESS_CHARS_MAX = 200
"""The longest text that a progress may have."""
PROGRESS_NUMBER_END = 1e18
HOLDER_CHARS_MAX = 80
"""The longest name of who holds a lease that drivers store, in printable ASCII."""
CANCELLED_TTL_S = 3600.0
"""For how long a store knows of a message that `cancel_running` has removed."""
CANCELLED_PREFIX = b"\xc1cancelled "
"""What is kept in place of the result of a cancelled message begins so; no result does: msgpack has no byte 0xC1."""
UNIQUE_CHARS_MAX = 64
"""The longest unique key that drivers store, in printable ASCII: what is longer is to be made a digest before."""
QUEUE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:\-]{0,79}\Z")


class State(enum.Enum):
    """The state of a message. `SCHEDULED`, `READY` and an expired `RESERVED` are derived from `visible_at`."""

    SCHEDULED = "scheduled"
    READY = "ready"
    RESERVED = "reserved"
    COMPLETED = "completed"
    DEAD = "dead"
    CANCELLED = "cancelled"


class DeadReason(enum.Enum):
    """Why a message became a dead letter."""

    FAILED = "failed"
    REJECTED = "rejected"
    CRASHED = "crashed"
    UNDECODABLE = "undecodable"
    UNKNOWN_TASK = "unknown_task"
    BAD_ARGUMENTS = "bad_arguments"
    BAD_SIGNATURE = "bad_signature"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRecord:
    """What is stored of an exception: texts only, so that any store can hold it."""

    type: str
    message: str
    traceback: str = ""

    def to_json(self) -> str:
        """Return a JSON object; lone surrogates are escaped, so every store accepts it."""
        return json.dumps([self.type, self.message, self.traceback])

    @classmethod
    def from_json(cls, text: str) -> "ErrorRecord":
        """Rebuild from `to_json`."""
        kind, message, traceback = json.loads(text)
        return cls(type=kind, message=message, traceback=traceback)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running attempt says it is: `done` of `total`, and a short text."""

    done: float
    total: float
    text: str = ""

    def __str__(self) -> str:
        return f"{self.done:g} of {self.total:g} {self.text}".rstrip()

    def to_json(self) -> str:
        """Return a JSON array; lone surrogates are escaped, so every store accepts it."""
        return json.dumps([self.done, self.total, self.text])

    @classmethod
    def from_json(cls, text: str) -> "Progress":
        """Rebuild from `to_json`.

        Raises: ValueError, TypeError for anything else.
        """
        done, total, said = json.loads(text)
        return checked_progress(done, total, said)


def checked_progress(done: object, total: object, text: object) -> Progress:
    """Return a progress.

    Raises: ValueError unless `done` is a number from 0 to `total` and `text` is not too long.
    """
    for name, number in (("done", done), ("total", total)):
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < PROGRESS_NUMBER_END:
            raise ValueError(f"the progress has {name}={number!r}; it must be a number, 0 or more, and finite")
    if cast("float", done) > cast("float", total):
        raise ValueError(f"the progress is {done!r} of {total!r}; it can't be more than all")
    if not isinstance(text, str) or len(text) > PROGRESS_CHARS_MAX:
        raise ValueError(f"the text of a progress must be a str of at most {PROGRESS_CHARS_MAX} characters")
    return Progress(cast("float", done), cast("float", total), text)


Until = Literal["started", "done"]
UNTILS: tuple[Until, ...] = get_args(Until)
OnConflict = Literal["skip", "replace", "raise"]
ON_CONFLICTS: tuple[OnConflict, ...] = get_args(OnConflict)


@dataclass(frozen=True, slots=True, kw_only=True)
class UniqueKey:
    """What a message holds so that no other is stored that asks for it: a text of 1 to 64 printable ASCII characters.

    It is held until the first reserve ("started"), or until the message is completed, a dead letter or removed
    ("done"), and never again after a redrive. With `window_s` it is held for so long after it was stored instead,
    whatever becomes of the message; keys with a window and keys without do not meet. Where it is held, the new message
    is left out ("skip"), takes the place of a holder that is scheduled or ready ("replace"; else as "skip"), or is
    refused with its whole batch ("raise").
    """

    key: str
    until: Until = "done"
    window_s: float | None = None
    on_conflict: OnConflict = "skip"


def is_unique_key(text: str) -> bool:
    """Say whether drivers store this text as a unique key."""
    return 0 < len(text) <= UNIQUE_CHARS_MAX and text.isascii() and text.isprintable()


@value
class Message:
    """One invocation to store. `id` is the idempotency key; `delay_s` counts on the driver's clock.

    It keeps its `priority` for as long as it is stored. With a `fair_key`, "" for none, it takes turns with messages of
    other keys until it is first reserved, unless it has a delay.
    """

    id: str
    queue: str
    body: bytes
    delay_s: float = 0.0
    unique: UniqueKey | None = None
    priority: Priority = NORMAL
    fair_key: str = ""

    @property
    def size(self) -> int:
        """The bytes of the body, which is what a backend stores and sends."""
        return len(self.body)


@value
class Lease:
    """The right to settle a message until a deadline.

    `token` is the fencing number: it differs at every reserve of the message, and only the
    latest one settles or extends. `attempt` counts executions from 1, `crashes` the earlier
    leases that ended without settling. Instants are seconds since the epoch on the driver's clock; the message was
    stored, or as a dead letter driven again, at `enqueued_at`.
    """

    message_id: str
    queue: str
    body: bytes
    token: str
    attempt: int
    crashes: int
    enqueued_at: float
    expires_at: float


@value
class Complete:
    """The attempt succeeded: the message is done. `result` is kept for `result_ttl_s` seconds, where the driver can."""

    result: bytes | None = None
    result_ttl_s: float = 0.0
    follow_ups: tuple[Message, ...] = ()


@value
class Release:
    """The message becomes visible again after `delay_s` (retry, snooze, hand-back).

    `counted` adds one to the attempts, `crashed` one to the crashes; a hand-back does neither.
    """

    delay_s: float = 0.0
    counted: bool
    crashed: bool = False
    error: ErrorRecord | None = None
    follow_ups: tuple[Message, ...] = ()


@value
class Bury:
    """The message becomes a dead letter, body and error kept. `counted` and `crashed` as in `Release`."""

    reason: DeadReason
    counted: bool = False
    crashed: bool = False
    error: ErrorRecord | None = None
    follow_ups: tuple[Message, ...] = ()


Settlement = Complete | Release | Bury


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """How many messages of one queue are in which state.

    `reserved` counts live leases; an expired one counts as ready. `oldest_age_s` is how long the
    message that is first in line has been visible, in seconds, of several lines the longest; None when nothing is
    ready.
    """

    ready: int
    scheduled: int
    reserved: int
    dead: int
    oldest_age_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """A message as an operator sees it. `attempts` are counted ends so far; instants on the driver's clock.

    What its lease says, only one that is reserved has: since when, by whom (`Driver.holder`), and its progress.
    """

    id: str
    queue: str
    body: bytes
    state: State
    attempts: int
    crashes: int
    enqueued_at: float
    visible_at: float
    reason: DeadReason | None = None
    error: ErrorRecord | None = None
    reserved_at: float | None = None
    reserved_by: str = ""
    progress: Progress | None = None
    priority: Priority = NORMAL

    @property
    def size(self) -> int:
        """The bytes of the body."""
        return len(self.body)


def cancelled_mark(token: str) -> bytes:
    """Return what is kept of a message that was cancelled under the lease of this token, "" for none."""
    return CANCELLED_PREFIX + token.encode()


def cancelled_token(kept: bytes) -> str | None:
    """Return the token in what `cancelled_mark` has made, None for anything else, such as a result."""
    if not kept.startswith(CANCELLED_PREFIX):
        return None
    return kept[len(CANCELLED_PREFIX) :].decode("utf-8", "replace")


def bounded_text(text: str, bytes_max: int, *, keep_end: bool = False) -> str:
    """Return `text` if it is short enough, else its beginning and how much is left out, or its end.

    Counted is what `ErrorRecord.to_json` makes of it, where one character takes up to twelve bytes.
    """
    if len(text) * JSON_BYTES_PER_CHAR <= bytes_max or (len(text) <= bytes_max and _json_bytes(text) <= bytes_max):
        return text
    part = text[-bytes_max:] if keep_end else text[:bytes_max]
    if keep_end:
        kept = bisect.bisect_right(range(1, len(part) + 1), bytes_max, key=lambda count: _json_bytes(part[-count:]))
        return f"[...]\n{part[len(part) - kept :]}"
    kept = bisect.bisect_right(range(1, len(part) + 1), bytes_max, key=lambda count: _json_bytes(part[:count]))
    return f"{part[:kept]} [... {len(text) - kept:,} characters more]"


def _json_bytes(text: str) -> int:
    return len(json.dumps(text)) - 2


def microseconds(seconds: float) -> int:
    """Return whole microseconds, rounded up so that nothing is ever early.

    The product is rounded to a thousandth first, so that 0.1 s is 100000 us whatever the float product is.
    """
    scaled = round(seconds * MICROSECONDS, 3)
    whole = int(scaled)
    return whole if whole >= scaled else whole + 1


def check_queue_name(name: str) -> str:
    """Return `name`, or raise `InvalidQueueName` if a driver could misread it."""
    if isinstance(name, str) and QUEUE_NAME.match(name):  # pyright: ignore[reportUnnecessaryIsInstance] - users' input
        return name
    raise InvalidQueueName(
        f"queue name {name!r} is not valid: use 1 to 80 letters, digits, '_', '-', '.' or ':', "
        "starting with a letter, digit or '_'"
    )


def random_id(random_bytes: bytes) -> str:
    """Return an id for a message: 16 random bytes as a UUID (version 4), made without the cost of a UUID object."""
    digits = random_bytes.hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
