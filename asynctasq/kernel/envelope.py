"""The content of one dispatch: task, arguments and options; not how they become bytes."""

from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Literal

from asynctasq.kernel.retry import RetryPolicy
from asynctasq.kernel.values import value

__all__ = [
    "COUNT_MAX",
    "HEADERS_CHARS_MAX",
    "HEADERS_MAX",
    "MAX_CRASHES_DEFAULT",
    "MAX_CRASHES_MOST",
    "MISSING",
    "MISSING_DEFAULT",
    "NO_HEADERS",
    "TASK_NAME_CHARS_MAX",
    "VAR_KEYWORD",
    "VAR_POSITIONAL",
    "Envelope",
    "Missing",
    "check_headers",
]

Missing = Literal["retry", "fail", "none"]
"""How an attempt ends whose model is not in the database: retried, failed for good, or run with None for it."""
MISSING: tuple[Missing, ...] = ("retry", "fail", "none")
MISSING_DEFAULT: Missing = "retry"

MAX_CRASHES_DEFAULT = 3
MAX_CRASHES_MOST = 1_000
"""The largest limit of crashes that a message may carry."""
COUNT_MAX = 2**31 - 1
"""The largest limit of attempts that a message may carry."""
TASK_NAME_CHARS_MAX = 500
"""The longest name of a task, `module:qualname`: it stands in log lines and is compared with others."""
HEADERS_MAX = 64
"""How many headers a message may have."""
HEADERS_CHARS_MAX = 16_384
"""How many characters their names and texts may have together."""
NO_HEADERS: Mapping[str, str] = MappingProxyType({})

VAR_POSITIONAL = "*"
"""The name under which extra positional arguments are packed; no keyword can have it."""
VAR_KEYWORD = "**"
"""The name under which a task's annotations hold that of its extra keyword arguments."""


@value
class Envelope:
    """One invocation as it travels inside a message's body.

    `task` is the name `module:qualname`, `arguments` the packed dict of name to value. A retry uses
    `max_attempts`, `retry` and `timeout_s` as they were when the task was dispatched, at `dispatched_at`
    (seconds since the epoch). The result is kept for `keep_result_s` seconds, or not at all if None.
    `headers` are texts that middleware set. `missing` says what becomes of an attempt whose model is gone.
    An attempt starts less than `expires_s` seconds after the message was stored, or at any time if None.
    `scheduled_for` is the tick of a schedule that it runs, in seconds since the epoch. `limits` has what the names of
    the task's limits are for this message, by how they are written, of those that have placeholders.
    """

    task: str
    arguments: bytes
    max_attempts: int
    retry: RetryPolicy
    dispatched_at: float
    timeout_s: float | None = None
    keep_result_s: float | None = None
    max_crashes: int = MAX_CRASHES_DEFAULT
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    missing: Missing = MISSING_DEFAULT
    expires_s: float | None = None
    scheduled_for: float | None = None
    limits: Mapping[str, str] | None = None


def check_headers(headers: Mapping[object, object]) -> None:
    """Raise TypeError for headers that are not texts, ValueError for too many or too long ones."""
    if len(headers) > HEADERS_MAX:
        raise ValueError(f"there are {len(headers)} headers, the limit is {HEADERS_MAX}")
    chars = 0
    for name, text in headers.items():
        if type(name) is not str or type(text) is not str:
            raise TypeError(f"headers must be texts, not {name!r}: {type(text).__qualname__}")
        chars += len(name) + len(text)
    if chars > HEADERS_CHARS_MAX:
        raise ValueError(f"the headers have {chars:,} characters, the limit is {HEADERS_CHARS_MAX:,}")
