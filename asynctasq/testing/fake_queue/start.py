"""At which instant a queue's virtual clock begins."""

import sys
from datetime import UTC, datetime
from typing import Any

from asynctasq.testing.clock import EPOCH

__all__ = ["start_of"]


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
