"""At which instant a queue's virtual clock begins, and which schedules it keeps going."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from asynctasq.core.schedule_messages import ScheduledTask, scheduled_tasks
from asynctasq.testing.clock import EPOCH
from asynctasq.testing.parameters import TaskReference, task_class_of

__all__ = ["schedules_of", "start_of"]


def start_of(start: object, freeze_time: object) -> datetime:
    """Return the first instant of the clock; one without a time zone is in UTC.

    Raises: TypeError for what is no instant, ValueError if two were given.
    """
    if start is not None:
        _check("start", start)
    if not isinstance(freeze_time, bool):
        _check("freeze_time", freeze_time, "True, False or ")
    given = [instant for instant in (start, freeze_time) if isinstance(instant, datetime)]
    if len(given) > 1 and _aware(given[0]) != _aware(given[1]):
        raise ValueError(f"start={given[0]} and freeze_time={given[1]} are two instants; give one of them")
    if given:
        return _aware(given[0])
    return (_frozen_now() if freeze_time else None) or EPOCH


def _check(name: str, value: object, otherwise: str = "") -> None:
    if not isinstance(value, datetime):
        raise TypeError(
            f"{name} must be {otherwise}a datetime, such as datetime(2030, 1, 31, tzinfo=UTC), not {value!r}"
        )


def _aware(instant: datetime) -> datetime:
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant


def _frozen_now() -> datetime | None:
    """Return the instant at which freezegun has stopped the clock around us; None if it has not."""
    api: Any = sys.modules.get("freezegun.api")
    if api is None or not api.freeze_factories:
        return None
    return _aware(datetime.fromisoformat(api.freeze_factories[-1]().isoformat()))


def schedules_of(chosen: bool | Sequence[TaskReference]) -> tuple[ScheduledTask, ...]:
    """Return the schedules that a FakeQueue keeps going: those of all imported tasks, or of some.

    Raises: ValueError for a task that has none.
    """
    if isinstance(chosen, bool):
        return tuple(scheduled_tasks(other_processes=False)) if chosen else ()
    classes = [task_class_of(task) for task in chosen]
    found = [item for item in scheduled_tasks(other_processes=False) if item.task in classes]
    for cls in classes:
        if not any(item.task is cls for item in found):
            raise ValueError(f"{cls.__qualname__} has no schedule, so FakeQueue(schedules=...) can't keep it going")
    return tuple(found)
