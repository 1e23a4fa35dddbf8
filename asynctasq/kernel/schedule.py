"""When the ticks of a schedule are due, and what becomes of missed ones; asks no clock and knows no calendar.

Instants are seconds since the epoch on the driver's clock.
"""

import hashlib
import uuid
from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never, get_args

from asynctasq.kernel.messages import MICROSECONDS, UniqueKey
from asynctasq.kernel.priority import NORMAL, Priority

__all__ = [
    "CHECK_S",
    "MISFIRES",
    "PREFIX",
    "RUN_ALL_MAX",
    "SCHEDULES_QUEUE",
    "TEXT_CHARS_MAX",
    "TICKER_TASK",
    "CronRule",
    "EveryRule",
    "Misfire",
    "NextTick",
    "Rule",
    "ScheduleDefinition",
    "Tick",
    "TickPlan",
    "Ticker",
    "code_of",
    "current_code",
    "derived_id",
    "every_after",
    "is_of_schedule",
    "jitter_of",
    "plan_ticks",
    "seconds_between",
    "tick_id",
    "ticker_id",
]

TICKER_TASK = "asynctasq.schedule"
"""What the body of a ticker names as its task; no task has such a name, for one has a colon."""
PREFIX = "schedule:"
"""How the ids of all messages begin that keep schedules going, and of none that runs a task."""
SCHEDULES_QUEUE = "asynctasq.schedules"
"""Where workers note what there is; nothing in it ever becomes visible."""
NAMESPACE = uuid.UUID("5f4a3c1e-3b5d-5c07-9d59-2f1a8f6f3e11")

TEXT_CHARS_MAX = 1_000
"""The longest name, cron expression and time zone of a schedule."""
CHECK_S = 60.0
"""How often a worker looks after the schedules of its code."""
MISFIRE_AFTER_S = 60.0
"""A tick that is later than this is one that was missed."""
RUN_ALL_MAX = 100
"""How many missed ticks are run at most, the latest."""
WINDOW_GROWTH = 4

Misfire = Literal["run_once", "run_all", "skip"]
MISFIRES: tuple[Misfire, ...] = get_args(Misfire)

NextTick = Callable[[float], float | None]
"""Returns the first tick after an instant; None if there is none any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CronRule:
    """Ticks where a cron expression matches the wall clock of a time zone."""

    expression: str
    tz: str

    def __str__(self) -> str:
        return self.expression


@dataclass(frozen=True, slots=True, kw_only=True)
class EveryRule:
    """Ticks at the whole multiples of a period since the epoch."""

    period_s: float

    def __str__(self) -> str:
        return f"every {self.period_s:g} s"


Rule = CronRule | EveryRule


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleDefinition:
    """A schedule as code defines it. `template` is the body of its task's messages, without instants.

    `unique` is the key of all of them: a tick whose key another message holds is left out.
    """

    name: str
    queue: str
    rule: Rule
    misfire: Misfire
    jitter_s: float
    template: bytes
    unique: UniqueKey | None = None
    priority: Priority = NORMAL
    fair_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticker:
    """What the one living message of a schedule holds; `next_at` None: its first tick is still to be found."""

    definition: ScheduleDefinition
    next_at: float | None = None
    last_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One tick to be run, `delay_s` from now: it is due at `nominal_at`."""

    nominal_at: float
    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TickPlan:
    """What is to be run now, and the ticker as it goes on in `delay_s`; None if it never ticks again."""

    ticks: tuple[Tick, ...]
    ticker: Ticker | None
    delay_s: float = 0.0


def plan_ticks(
    ticker: Ticker,
    *,
    now: float,
    enqueued_at: float,
    next_tick: NextTick,
    successor: tuple[ScheduleDefinition, NextTick] | None = None,
    paused: bool = False,
) -> TickPlan:
    """Decide about a ticker that became visible: which ticks are run, and when it is to become visible again.

    A new one has its first tick after `enqueued_at`. What is due is due by its own definition; with a `successor` it
    goes on as that, from now on. While it is `paused`, what is due is passed over.
    """
    # The difference of two floats may be just below a tick that is due, and rounded to it after.
    now, enqueued_at = _whole(now) / MICROSECONDS, _whole(enqueued_at) / MICROSECONDS
    next_at = next_tick(enqueued_at) if ticker.next_at is None else ticker.next_at
    definition, following = successor or (ticker.definition, next_tick)
    last_at = ticker.last_at
    ticks: tuple[Tick, ...] = ()
    if next_at is not None and next_at <= now:
        due = [] if paused else _due(definition.misfire, next_at, now, next_tick)
        ticks = tuple(_tick(definition, nominal_at, now) for nominal_at in due)
        last_at = due[-1] if due else last_at
        next_at = next_tick(now)
    if successor is not None:
        next_at = following(now)
    if next_at is None:
        return TickPlan(ticks=ticks, ticker=None)
    after = Ticker(definition=definition, next_at=next_at, last_at=last_at)
    return TickPlan(ticks=ticks, ticker=after, delay_s=seconds_between(now, next_at))


def _due(misfire: Misfire, first: float, now: float, next_tick: NextTick) -> list[float]:
    """Return which of the ticks from `first` to `now` are run."""
    match misfire:
        case "run_all":
            return _latest(next_tick, first, now, RUN_ALL_MAX)
        case "run_once":
            return _latest(next_tick, first, now, 1)
        case "skip":
            return [at for at in _latest(next_tick, first, now, 1) if now - at <= MISFIRE_AFTER_S]
        case _:  # pragma: no cover - closed union
            assert_never(misfire)


def _latest(next_tick: NextTick, first: float, now: float, count: int) -> list[float]:
    """Return the latest ticks from `first` to `now`, without going through all of a long time."""
    window_s = 1.0
    while True:
        start = max(first, now - window_s)
        found = deque([first] if start <= first else [], maxlen=count)
        at = next_tick(start)
        while at is not None and at <= now:
            found.append(at)
            at = next_tick(at)
        if len(found) == count or start <= first:
            return list(found)
        window_s *= WINDOW_GROWTH


def _tick(definition: ScheduleDefinition, nominal_at: float, now: float) -> Tick:
    offset_s = jitter_of(definition.name, nominal_at, definition.jitter_s)
    return Tick(nominal_at=nominal_at, delay_s=max(0.0, seconds_between(now, nominal_at + offset_s)))


def jitter_of(name: str, nominal_at: float, jitter_s: float) -> float:
    """Return by how many seconds this tick is put off, 0 to `jitter_s`: the same whoever asks."""
    if not jitter_s:
        return 0.0
    digest = hashlib.blake2b(f"{name}\n{_whole(nominal_at)}".encode(), digest_size=8).digest()
    return jitter_s * int.from_bytes(digest) / 2**64


def every_after(rule: EveryRule, instant: float) -> float:
    """Return the first multiple of the period after `instant`."""
    period_us = _whole(rule.period_s)
    return (_whole(instant) // period_us + 1) * period_us / MICROSECONDS


def seconds_between(earlier: float, later: float) -> float:
    """Return the difference in whole microseconds: that of two floats is off by part of one."""
    return (_whole(later) - _whole(earlier)) / MICROSECONDS


def _whole(instant: float) -> int:
    return round(instant * MICROSECONDS)


def ticker_id(name: str) -> str:
    """Return the id of the one message that keeps the schedule of this name going."""
    return derived_id("ticker", name)


def derived_id(kind: str, *parts: str) -> str:
    """Return the id of a message that belongs to schedules: the same for the same texts."""
    return f"{PREFIX}{kind}:{uuid.uuid5(NAMESPACE, chr(0).join(parts))}"


def tick_id(name: str, nominal_at: float) -> str:
    """Return the id of the message that runs a tick, a UUID as any task's."""
    return str(uuid.uuid5(NAMESPACE, f"{name}\0{_whole(nominal_at)}"))


def is_of_schedule(message_id: str) -> bool:
    """Say whether a message keeps a schedule going, and runs no task."""
    return message_id.startswith(PREFIX)


def code_of(definitions: list[ScheduleDefinition]) -> str:
    """Return what tells the schedules of one version of the code from those of another."""
    texts = sorted(map(repr, definitions))
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=16).hexdigest()


def current_code(codes: Sequence[str], on_duty: Container[str]) -> str | None:
    """Return the code whose schedules hold: of `codes`, in the order they were first seen, the last that is on duty."""
    return next((code for code in reversed(codes) if code in on_duty), None)
