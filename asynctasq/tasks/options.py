"""The settings of a task: checked when the class is made, and overridden per dispatch without changing the class."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, TypeVar, cast

from asynctasq.errors import DELAY_S_MAX, TaskSignal
from asynctasq.kernel.envelope import COUNT_MAX, MAX_CRASHES_MOST, MISSING, MISSING_DEFAULT, Missing
from asynctasq.kernel.messages import UniqueKey, check_queue_name
from asynctasq.kernel.priority import NORMAL, PRIORITIES, Priority
from asynctasq.kernel.retry import Delays, Exponential, Fixed, RetryPolicy

__all__ = [
    "RETRY_STRATEGIES",
    "SETTINGS",
    "Duration",
    "ExceptionTypes",
    "FairKey",
    "Missing",
    "Options",
    "Priority",
    "RetryStrategy",
    "UniqueSetting",
    "changed_options",
    "instant",
    "missing_model",
    "nearest_setting",
    "one_of",
    "retry_policy",
    "seconds",
    "whole_number",
]

SETTINGS = (
    "queue",
    "max_attempts",
    "retry_delay",
    "retry_strategy",
    "retry_delay_max",
    "timeout",
    "expires",
    "max_crashes",
    "keep_result",
    "missing",
    "priority",
    "fair_key",
    "retry_on",
    "give_up_on",
    "unique",
)
"""The attributes of a task class that `class_options` reads."""
OTHER_NAMES = {
    "retries": "max_attempts",
    "max_retries": "max_attempts",
    "attempts": "max_attempts",
    "max_tries": "max_attempts",
    "default_retry_delay": "retry_delay",
    "retry_backoff": "retry_strategy",
    "retry_backoff_max": "retry_delay_max",
    "time_limit": "timeout",
    "soft_time_limit": "timeout",
    "queue_name": "queue",
    "result_ttl": "keep_result",
    "expiry": "expires",
    "autoretry_for": "retry_on",
    "dont_autoretry_for": "give_up_on",
    "unique_for": "unique",
    "unique_until": "unique",
    "rate_limit": "limits",
    "rate_limits": "limits",
    "concurrency_limit": "limits",
}
"""What other libraries call a setting."""

NAME_LENGTH_MAX = 80
UNLIMITED = "a task without a time limit"
NEVER_EXPIRES = "a task that never expires"

Choice = TypeVar("Choice", bound=str)
Duration = float | timedelta
FairKey = str | Callable[[Any], object]
ExceptionTypes = tuple[type[Exception], ...]
RetryStrategy = Literal["fixed", "exponential"]
RETRY_STRATEGIES: tuple[RetryStrategy, ...] = ("fixed", "exponential")


class UniqueSetting(Protocol):
    """A `Unique`, whose module is imported only where there is one."""

    def key_of(self, name: str, subject: object, arguments: Callable[[], bytes]) -> UniqueKey:
        """Return the key of a task of this name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything about a dispatch but the task and its arguments. Durations in seconds.

    `at` is an instant, in seconds since the epoch, and takes the place of `delay_s`.
    """

    queue: str
    max_attempts: int
    retry: RetryPolicy
    timeout_s: float | None
    max_crashes: int
    keep_result_s: float | None
    missing: Missing = MISSING_DEFAULT
    delay_s: float = 0.0
    task_id: str | None = None
    expires_s: float | None = None
    priority: Priority = NORMAL
    fair_key: FairKey | None = None
    at: float | None = None
    unique: UniqueSetting | None = None


def nearest_setting(name: str) -> str | None:
    """Return the setting that `name` looks like without being it; None for a setting, or a name like none of them."""
    if name in SETTINGS:
        return None
    from difflib import get_close_matches

    return OTHER_NAMES.get(name) or next(iter(get_close_matches(name[:NAME_LENGTH_MAX], SETTINGS, 1, 0.8)), None)


def seconds(value: object, what: str, *, above_zero: bool) -> float:
    """Return a duration in seconds.

    Raises: ValueError if it is not a number or timedelta, or negative, or zero where `above_zero`, or over a century.
    """
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(f"{what} must be a number of seconds or a timedelta, not {value!r}")
    wanted = "more than 0" if above_zero else "0 or more"
    if not math.isfinite(number) or number < 0 or (above_zero and number == 0):
        raise ValueError(f"{what} must be {wanted} seconds, not {value!r}")
    if number > DELAY_S_MAX:
        raise ValueError(f"{what} must be a hundred years at most, not {value!r}")
    return float(number)


def limit_s(value: object, what: str, otherwise: str) -> float | None:
    """Return a limit of time in seconds, None for no limit.

    Raises: ValueError as `seconds`; for 0, which some read as no limit and others as none at all, it says `otherwise`.
    """
    if value is None:
        return None
    try:
        return seconds(value, what, above_zero=True)
    except ValueError as error:
        raise ValueError(f"{error}; {otherwise} has {what} = None") from None


def instant(value: object, what: str) -> float:
    """Return a datetime in seconds since the epoch; raise ValueError if it is none, or has no time zone."""
    if not isinstance(value, datetime):
        raise ValueError(f"{what} must be a datetime with a time zone, not {value!r}; for a duration there is delay()")
    if value.utcoffset() is None:
        raise ValueError(
            f"{what} must have a time zone, and {value!r} has none: worker and dispatcher may be in two. "
            "Write datetime(..., tzinfo=UTC), or value.astimezone() if it is the local time here"
        )
    return value.timestamp()


def whole_number(value: object, what: str, *, least: int, most: int = COUNT_MAX) -> int:
    """Return an integer setting; raise ValueError if it is none, or below `least`, or over what a message can carry."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{what} must be a whole number, {least} or more, not {value!r}")
    if value > most:
        raise ValueError(f"{what} must be {most} at most, not {value!r}")
    return value


def max_crashes_of(value: object) -> int:
    """Return after how many crashes a message is given up; raise ValueError if that is no such number."""
    return whole_number(value, "max_crashes", least=1, most=MAX_CRASHES_MOST)


def one_of(value: object, what: str, choices: Sequence[Choice]) -> Choice:
    """Return which of these words it is; raise ValueError if it is none of them."""
    for choice in choices:
        if value == choice:
            return choice
    raise ValueError(f"{what} must be one of {', '.join(choices)}, not {value!r}")


def retry_policy(delay: object, strategy: object, cap: object) -> RetryPolicy:
    """Return the policy that a task's `retry_delay`, `retry_strategy` and `retry_delay_max` describe.

    A list of delays is its own strategy. "exponential" doubles from `delay` up to `cap`, with full jitter.
    """
    strategy = one_of(strategy, "retry_strategy", RETRY_STRATEGIES)
    if isinstance(delay, Sequence) and not isinstance(delay, str | bytes):
        if not delay:
            raise ValueError("retry_delay is an empty list; give at least one delay")
        items = cast("Sequence[object]", delay)
        return Delays(delays_s=tuple(seconds(item, "each retry_delay", above_zero=False) for item in items))
    base_s = seconds(delay, "retry_delay", above_zero=False)
    if strategy == "fixed":
        return Fixed(delay_s=base_s)
    return Exponential(base_s=base_s, cap_s=seconds(cap, "retry_delay_max", above_zero=False))


def keep_result_s(value: object) -> float | None:
    """Return for how many seconds a result is kept: True means a day, False not at all."""
    if value is False or value is None:
        return None
    return 86_400.0 if value is True else seconds(value, "keep_result", above_zero=True)


def missing_model(value: object) -> Missing:
    """Return what to do when a model is gone; raise ValueError if it is none of the three."""
    return one_of(value, "missing", MISSING)


def fair_key_source(value: object) -> FairKey | None:
    """Return where the fair key is read; raise ValueError if that is neither a name nor a function of the task."""
    if value is None or (callable(value) and not isinstance(value, type)):
        return value
    if isinstance(value, str) and value.isidentifier():
        return value
    raise ValueError(f"fair_key must be the name of an argument or attribute, or a function of the task, not {value!r}")


def exception_types(value: object, what: str) -> ExceptionTypes | None:
    """Return the exception types of a setting, None if it is not used.

    Raises: ValueError for what is no tuple of them, is empty, or names what is no failure of a task.
    """
    if value is None:
        return None
    if not isinstance(value, tuple):
        hint = f": ({value.__name__},)" if isinstance(value, type) else ""
        raise ValueError(f"{what} must be a tuple of exception types{hint}, not {value!r}")
    types = cast("tuple[object, ...]", value)
    if not types:
        raise ValueError(f"{what} is empty; name an exception type, or leave it None")
    for one in types:
        if not isinstance(one, type) or not issubclass(one, Exception):
            raise ValueError(f"{what} must name subclasses of Exception, not {one!r}")
        if issubclass(one, TaskSignal):
            raise ValueError(f"{what} names {one.__name__}, which is no failure: raising it says itself what is next")
    return cast("ExceptionTypes", types)


def check_retry_types(retry_on: object, give_up_on: object) -> None:
    """Raise ValueError for exception types that are none, or that leave nothing to be retried."""
    retried, given_up = exception_types(retry_on, "retry_on"), exception_types(give_up_on, "give_up_on")
    if retried and given_up and all(issubclass(one, given_up) for one in retried):
        raise ValueError(
            "every type in retry_on is one in give_up_on, which wins, or a subclass of one, so nothing would be "
            "retried; take it out of one of the two, or set max_attempts = 1"
        )


def changed_options(  # noqa: PLR0913 - the settings of a dispatch
    *,
    max_attempts: object = None,
    timeout: object = None,
    expires: object = None,
    max_crashes: object = None,
    keep_result: object = None,
    missing: object = None,
    priority: object = None,
    fair_key: object = None,
    task_id: object = None,
) -> dict[str, object]:
    """Return the fields of `Options` that these settings change, checked; None changes nothing."""
    changes: dict[str, object] = {}
    if max_attempts is not None:
        changes["max_attempts"] = whole_number(max_attempts, "max_attempts", least=0)
    if timeout is not None:
        changes["timeout_s"] = limit_s(timeout, "timeout", UNLIMITED)
    if expires is not None:
        changes["expires_s"] = limit_s(expires, "expires", NEVER_EXPIRES)
    if max_crashes is not None:
        changes["max_crashes"] = max_crashes_of(max_crashes)
    if keep_result is not None:
        changes["keep_result_s"] = keep_result_s(keep_result)
    if missing is not None:
        changes["missing"] = missing_model(missing)
    if priority is not None:
        changes["priority"] = one_of(priority, "priority", PRIORITIES)
    if fair_key is not None:
        changes["fair_key"] = fair_key_source(fair_key)
    if task_id is not None:
        from uuid import UUID

        changes["task_id"] = str(UUID(str(task_id)))
    return changes


def class_options(source: object) -> Options:
    """Read and check the settings of a task class.

    Raises: ValueError naming the attribute.
    """

    def read(name: str) -> object:
        return getattr(source, name)

    check_retry_types(read("retry_on"), read("give_up_on"))
    return Options(
        queue=check_queue_name(cast("str", read("queue"))),
        max_attempts=whole_number(read("max_attempts"), "max_attempts", least=0),
        retry=retry_policy(read("retry_delay"), read("retry_strategy"), read("retry_delay_max")),
        timeout_s=limit_s(read("timeout"), "timeout", UNLIMITED),
        expires_s=limit_s(read("expires"), "expires", NEVER_EXPIRES),
        max_crashes=max_crashes_of(read("max_crashes")),
        keep_result_s=keep_result_s(read("keep_result")),
        missing=missing_model(read("missing")),
        priority=one_of(read("priority"), "priority", PRIORITIES),
        fair_key=fair_key_source(read("fair_key")),
    )
