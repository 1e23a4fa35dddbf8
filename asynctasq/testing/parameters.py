"""How tests name a task, and checks of what only test tools are given; the others are those of a task's settings."""

import math
from typing import Any, TypeGuard

from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.functions import TaskFunction
from asynctasq.tasks.options import seconds

__all__ = ["TaskReference", "check_seconds", "check_seed", "is_number", "task_class_of"]

TaskReference = type[BaseTask[Any]] | TaskFunction[..., Any]
"""A task as tests name it: the class, or the decorated function."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Say whether it is a finite number. A bool is none: `crash=True` would be certainty."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_seconds(value: object, what: str, *, above_zero: bool = False, signed: bool = False) -> None:
    """Raise ValueError unless `seconds` takes it and it is a plain number; with `signed`, it may be below 0."""
    if not is_number(value):
        raise ValueError(f"{what} must be a number of seconds, not {value!r}")
    seconds(abs(value) if signed else value, what, above_zero=above_zero)


def check_seed(value: object) -> None:
    """Raise ValueError unless it is a whole number, of whatever sign."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"seed must be a whole number, not {value!r}")


def task_class_of(task: TaskReference) -> type[BaseTask[Any]]:
    """Return the class of a task named by class or by decorated function.

    Raises: TypeError for anything else, an instance for one.
    """
    if isinstance(task, TaskFunction):
        return task.task_class
    if isinstance(task, type) and issubclass(task, BaseTask):  # pyright: ignore[reportUnnecessaryIsInstance] - users' input
        return task
    raise TypeError(f"expected a task class or a @task function, not {task!r}")
