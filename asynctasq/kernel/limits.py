"""What a limit is: how many tokens, where they lie, and for how long they are away; asks no clock, stores nothing."""

import hashlib
from dataclasses import dataclass

from asynctasq.kernel.messages import Release, Settlement
from asynctasq.kernel.schedule import PREFIX as SCHEDULE_PREFIX

__all__ = [
    "COUNT_MAX",
    "KEPT_S",
    "LIMITS_QUEUE",
    "LIMIT_TASK",
    "TEXT_CHARS_MAX",
    "LimitRule",
    "begins_wait",
    "is_queue_of_limits",
    "is_wait_id",
    "look_delay_s",
    "look_id",
    "note_id",
    "runs_no_task",
    "token_id",
    "token_index",
    "token_lease_s",
    "token_queue",
    "wait_id",
    "wait_s",
    "waiting_queue",
]

LIMIT_TASK = "asynctasq.limit"
"""What the body of a message names as its task that makes known who waits; no task has such a name."""
PREFIX = "limit:"
"""How the ids of all messages begin that belong to limits, and of none that runs a task."""
LIMITS_QUEUE = "asynctasq.limits"
"""Where workers note which limits have tokens; nothing in it ever becomes visible. Other queues of limits begin so."""

TEXT_CHARS_MAX = 200
"""The longest name of a limit, as it is written and as a dispatch fills it in."""
COUNT_MAX = 10_000
"""The largest number of a limit: each token is a message."""

WAIT_S_MAX = 3600.0
"""After how long a task that waits for a token is looked at again, though nobody had one for it."""
LOOK_S_FIRST, LOOK_S_MAX = 0.5, 30.0
"""After how long the next worker is told who waits: first, and at the most."""
KEPT_S = 3600.0
"""How long tokens that nobody takes are kept."""


@dataclass(frozen=True, slots=True)
class LimitRule:
    """One limit under the name that it has for one message.

    `count` attempts at once; or, where `per_s` is above 0, so many starts in any window of `per_s` seconds.
    """

    text: str
    count: int
    per_s: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        """Return what tells it from other limits: its numbers may change."""
        return ("rate" if self.per_s else "concurrency", self.text)

    def __str__(self) -> str:
        return f"{self.text!r} ({self.count} in {self.per_s:g} s)" if self.per_s else f"{self.text!r} ({self.count})"


def _digest(*parts: str) -> str:
    return hashlib.blake2b(chr(0).join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def token_queue(rule: LimitRule) -> str:
    """Return the queue of a limit's tokens."""
    return f"{LIMITS_QUEUE}.tokens.{_digest(*rule.key)}"


def waiting_queue(rule: LimitRule, queue: str) -> str:
    """Return the queue of those notes that say which messages of `queue` wait for a token of this limit."""
    return f"{LIMITS_QUEUE}.waiting.{_digest(*rule.key, queue)}"


def is_queue_of_limits(name: str) -> bool:
    """Say whether a queue holds only what keeps limits, and no task."""
    return name.startswith(LIMITS_QUEUE)


def token_id(rule: LimitRule, index: int) -> str:
    """Return the id of a token: the same for the same limit and number, so that planting it twice changes nothing."""
    return f"{PREFIX}token:{_digest(*rule.key)}:{index}"


def token_index(rule: LimitRule, message_id: str) -> int | None:
    """Return which token of this limit it is; None if it is none, or one above the limit's number."""
    index = message_id.rpartition(":")[2]
    if not (index.isascii() and index.isdecimal() and len(index) <= len(str(COUNT_MAX))):
        return None
    number = int(index)
    return number if number < rule.count and token_id(rule, number) == message_id else None


def note_id(rule: LimitRule) -> str:
    """Return the id of the note that says that a limit has tokens."""
    return f"{PREFIX}note:{_digest(*rule.key)}"


def look_id(rule: LimitRule, queue: str) -> str:
    """Return the id of the one message that makes known that messages of `queue` wait for this limit."""
    return f"{PREFIX}look:{_digest(*rule.key, queue)}"


def wait_id(message_id: str, token: str) -> str:
    """Return the id of the note that a message waits since it was released under this token."""
    return f"{PREFIX}wait:{_digest(message_id, token)}"


def is_wait_id(message_id: str) -> bool:
    """Say whether a message is such a note."""
    return message_id.startswith(f"{PREFIX}wait:")


def runs_no_task(message_id: str) -> bool:
    """Say whether a message belongs to limits or schedules, and runs no task."""
    return message_id.startswith((PREFIX, SCHEDULE_PREFIX))


def begins_wait(settlement: Settlement) -> bool:
    """Say whether a settlement lets its message wait for a token: it may be leased before its delay has passed."""
    return isinstance(settlement, Release) and any(each.id.startswith(PREFIX) for each in settlement.follow_ups)


def token_lease_s(rule: LimitRule, lease_s: float) -> float:
    """Return for how long a token is leased to an attempt that starts within `lease_s`.

    If its worker dies, the token comes back when the lease ends: not before `per_s` have passed since the start.
    """
    return rule.per_s + lease_s


def wait_s(*, age_s: float, expires_s: float | None) -> float:
    """Return after how long a message is looked at again that waits: no later than when it expires."""
    return WAIT_S_MAX if expires_s is None else min(WAIT_S_MAX, max(0.0, expires_s - age_s))


def look_delay_s(looks: int) -> float:
    """Return after how long the next worker is to learn who waits, when so many have."""
    return min(LOOK_S_MAX, LOOK_S_FIRST * 2.0 ** min(looks, 10))
