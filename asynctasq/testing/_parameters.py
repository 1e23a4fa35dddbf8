"""Checks of what test tools are given: each error names the parameter, and says what it takes."""

import math
from collections.abc import Sequence
from typing import TypeGuard

__all__ = ["check_choice", "check_seconds", "check_whole", "is_number"]


def is_number(value: object) -> TypeGuard[int | float]:
    """Say whether it is a finite number. A bool is none: `crash=True` would be certainty."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_seconds(name: str, value: object, *, above_zero: bool = False, negative: bool = False) -> None:
    """Raise ValueError unless it is a finite length of time; with `negative`, in either direction."""
    least = "more than 0" if above_zero else "0 or more"
    takes = "seconds, either way" if negative else f"seconds, {least}"
    if not is_number(value) or not (negative or value > 0 or (value == 0 and not above_zero)):
        raise ValueError(f"{name}={value!r} takes {takes}")


def check_whole(name: str, value: object, *, least: int = 1) -> None:
    """Raise ValueError unless it is a whole number from `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r} takes a whole number, {least} or more")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ValueError unless it is one of these words."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} takes one of {', '.join(map(repr, choices))}")
