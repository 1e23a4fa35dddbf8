"""Checks of what only test tools are given; the other numbers are checked as a task's own settings are."""

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.functions import TaskFunction

__all__ = ["TaskReference", "check_choice", "check_seconds", "check_seed", "is_number", "task_class_of"]

TaskReference = type[BaseTask[Any]] | TaskFunction[..., Any]
"""A task as tests name it: the class, or the decorated function."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Say whether it is a finite number. A bool is none: `crash=True` would be certainty."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_seconds(name: str, value: object, *, above_zero: bool = False, negative: bool = False) -> None:
    """Raise ValueError unless it is a finite number of seconds; with `negative`, in either direction."""
    wanted = "either way" if negative else "more than 0" if above_zero else "0 or more"
    if not is_number(value) or not (negative or value > 0 or (value == 0 and not above_zero)):
        raise ValueError(f"{name} must be a number of seconds, {wanted}, not {value!r}")


def check_seed(value: object) -> None:
    """Raise ValueError unless it is a whole number, of whatever sign."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"seed must be a whole number, not {value!r}")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ValueError unless it is one of these words."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def task_class_of(task: TaskReference) -> type[BaseTask[Any]]:
    """Return the class of a task named by class or by decorated function.

    Raises: TypeError for anything else, an instance for one.
    """
    if isinstance(task, TaskFunction):
        return task.task_class
    if isinstance(task, type) and issubclass(task, BaseTask):  # pyright: ignore[reportUnnecessaryIsInstance] - users' input
        return task
    raise TypeError(f"expected a task class or a @task function, not {task!r}")
