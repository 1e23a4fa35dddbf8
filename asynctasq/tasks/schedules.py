"""What users write to have a task run by itself: `Cron` and `Every`; and where their ticks lie in time."""

import functools
import inspect
import math
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, tzinfo
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, cast

from asynctasq.errors import TaskDefinitionError
from asynctasq.kernel.schedule import (
    MISFIRES,
    TEXT_CHARS_MAX,
    CronRule,
    EveryRule,
    Misfire,
    NextTick,
    Rule,
    every_after,
)
from asynctasq.tasks.options import Duration, one_of, seconds

__all__ = [
    "Cron",
    "Every",
    "Schedule",
    "are_kept_by_default",
    "jitter_seconds",
    "keep_by_default",
    "next_tick_of",
    "schedules_in",
]

NAME_CHARS_MAX = 200
PERIOD_S_MIN = 1.0
NO_ARGUMENTS: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Cron:
    """Run a task where a cron expression matches the wall clock of the time zone `tz`.

    Five fields, or six with seconds first. `misfire` says what becomes of ticks that nobody could run at their time:
    "run_once" runs the latest, "run_all" each (the last hundred), "skip" none. A tick is put off by up to `jitter`
    seconds. The task gets `arguments`. `name` is what operators call it; a task's only schedule is called as the task.

    Raises: ValueError for an expression that is wrong or never matches, an unknown time zone, a wrong setting.
    """

    expression: str
    _: KW_ONLY
    tz: str = "UTC"
    misfire: Misfire = "run_once"
    jitter: Duration = 0
    arguments: Mapping[str, object] = field(default_factory=lambda: NO_ARGUMENTS)
    name: str | None = None

    def __post_init__(self) -> None:
        if len(self.expression) > TEXT_CHARS_MAX:
            raise ValueError(f"a cron expression may have {TEXT_CHARS_MAX} characters, not {len(self.expression):,}")
        _check(self, f"Cron({self.expression!r})")
        _zone(self.tz)
        if next_tick_of(self.rule)(0.0) is None:
            raise ValueError(f"the cron expression {self.expression!r} never matches; there is no such day")

    @property
    def rule(self) -> CronRule:
        """When it ticks."""
        return CronRule(expression=" ".join(self.expression.split()), tz=self.tz)


@dataclass(frozen=True, slots=True, kw_only=True)
class Every:
    """Run a task at the whole multiples of a period, counted from 1970-01-01 00:00 UTC.

    So `Every(minutes=5)` ticks at :00, :05, :10. The other settings are those of `Cron`.

    Raises: ValueError for a period of less than a second, a wrong setting.
    """

    weeks: float = 0
    days: float = 0
    hours: float = 0
    minutes: float = 0
    seconds: float = 0
    misfire: Misfire = "run_once"
    jitter: Duration = 0
    arguments: Mapping[str, object] = field(default_factory=lambda: NO_ARGUMENTS)
    name: str | None = None

    def __post_init__(self) -> None:
        _check(self, "Every")
        if seconds(self.rule.period_s, "the period of Every", above_zero=False) < PERIOD_S_MIN:
            raise ValueError(f"Every needs a period of a second or more, such as Every(minutes=5), not {self!r}")

    @property
    def rule(self) -> EveryRule:
        """When it ticks."""
        period = (self.weeks, 604_800), (self.days, 86_400), (self.hours, 3600), (self.minutes, 60), (self.seconds, 1)
        return EveryRule(period_s=math.fsum(count * unit for count, unit in period))


Schedule = Cron | Every


def _check(schedule: Schedule, what: str) -> None:
    _check_settings(what, schedule.misfire, schedule.jitter, schedule.name, schedule.arguments)


def _check_settings(what: str, misfire: object, jitter: object, name: object, arguments: object) -> None:
    one_of(misfire, "misfire", MISFIRES)
    seconds(jitter, "jitter", above_zero=False)
    if name is not None and not (isinstance(name, str) and 0 < len(name) <= NAME_CHARS_MAX and name.isprintable()):
        raise ValueError(f"the name of a schedule must be a text of 1 to {NAME_CHARS_MAX} characters, not {name!r}")
    if not isinstance(arguments, Mapping):
        raise ValueError(f"{what}: arguments must be a dict of the task's arguments by name, not {arguments!r}")


def jitter_seconds(schedule: Schedule) -> float:
    """Return the jitter of a schedule in seconds."""
    return seconds(schedule.jitter, "jitter", above_zero=False)


@functools.lru_cache(maxsize=64)
def _zone(tz: str) -> tzinfo:
    if tz == "UTC":
        return UTC
    try:
        return zoneinfo.ZoneInfo(tz)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError, TypeError, AttributeError):
        known = get_close_matches(str(tz)[:NAME_CHARS_MAX], zoneinfo.available_timezones(), 1)
        hint = f"did you mean {known[0]!r}?" if known else 'use a name such as "Europe/Berlin"'
        raise ValueError(f"there is no time zone {tz!r}; {hint}") from None


@functools.lru_cache(maxsize=1024)
def next_tick_of(rule: Rule) -> NextTick:
    """Return what finds the first tick of a rule after an instant.

    Raises: ValueError for a cron expression that is wrong, or an unknown time zone.
    """
    match rule:
        case EveryRule():
            return functools.partial(every_after, rule)
        case CronRule():
            return _next_of_cron(rule)


def _next_of_cron(rule: CronRule) -> NextTick:
    from cronsim import CronSim, CronSimError

    zone, expression = _zone(rule.tz), rule.expression

    def next_tick(after: float) -> float | None:
        try:
            for moment in CronSim(expression, datetime.fromtimestamp(math.floor(after), zone)):
                at = moment.timestamp()
                if at > after:  # of an hour that comes twice, cronsim may name the first one again
                    return at
        except (OverflowError, ValueError):  # after the year 9999
            return None
        return None

    try:
        CronSim(expression, datetime(2024, 1, 1, tzinfo=zone))
    except CronSimError as error:
        raise ValueError(
            f"the cron expression {expression!r} is wrong: {str(error).lower()}; "
            'write minute, hour, day of month, month and day of week, as in "30 2 * * MON-FRI"'
        ) from None
    return next_tick


_kept_by_default = True


def keep_by_default(keep: bool) -> bool:
    """Say whether workers that are not told which schedules to keep going keep all; return what was said before.

    In a test run they keep none: what one test module schedules is no business of the workers of another.
    """
    global _kept_by_default
    before, _kept_by_default = _kept_by_default, keep
    return before


def are_kept_by_default() -> bool:
    """Return what `keep_by_default` said last."""
    return _kept_by_default


def schedules_in(cls: type[Any]) -> tuple[Schedule, ...]:
    """Return the schedules that the body of a task class gives to `schedule`; a subclass inherits none.

    Raises: TaskDefinitionError for what is no schedule, and for two that would have one name.
    """
    given: object = cls.__dict__.get("schedule")
    if given is None:
        return ()
    schedules: Sequence[object] = (given,)
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        schedules = cast("Sequence[object]", given)
    found = [item for item in schedules if isinstance(item, Cron | Every)]
    if len(found) < len(schedules):
        if "schedule" in inspect.get_annotations(cls):  # a field of the user's own
            return ()
        raise TaskDefinitionError(
            f"{cls.__qualname__}.schedule must be Cron(...), Every(...), or a list of them, not {given!r}"
        )
    if found and getattr(cls, "_driver_override", None) is not None:
        raise TaskDefinitionError(
            f"{cls.__qualname__} has a schedule and a driver of its own, which the workers of the application's driver "
            "would not see; schedule a task that dispatches this one"
        )
    names = [item.name for item in found]
    for name in names:
        if names.count(name) > 1:
            called = "no name" if name is None else f"the name {name!r}"
            raise TaskDefinitionError(
                f"{cls.__qualname__} has {names.count(name)} schedules with {called}; "
                'give each a name of its own: Cron(..., name="...")'
            )
    return tuple(found)
