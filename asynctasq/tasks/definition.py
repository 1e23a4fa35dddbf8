"""What a task class says of itself, as the other floors read it.

Attributes of tasks that are ours start with an underscore so that users' names never collide with them;
this file is the one place that reads them from outside.
"""
# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asynctasq.drivers.base import Driver
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.mode import Mode
from asynctasq.tasks.options import Options
from asynctasq.tasks.signatures import Signature

__all__ = [
    "TaskDefinition",
    "arguments_of",
    "definition_of",
    "options_of",
    "set_dispatched_id",
    "set_metadata",
    "set_scheduled_for",
    "task_id_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition:
    """One task class: its name, how it runs, what its constructor takes and `execute` returns, its own driver.

    `validate` says whether the arguments are checked against their annotations, `runnable` whether it has an `execute`.
    """

    name: str
    mode: Mode
    signature: Signature
    driver: str | Driver | None
    returns: object
    validate: bool = False
    runnable: bool = True


def definition_of(cls: type[BaseTask[Any]]) -> TaskDefinition:
    """Return the definition of a task class, made once."""
    known = cls.__dict__.get("_definition")
    if isinstance(known, TaskDefinition) and known.driver is cls._driver_override and known.validate is cls.validate:
        return known
    made = TaskDefinition(
        name=cls._task_name,
        mode=cls._mode,
        signature=cls._signature(),
        driver=cls._driver_override,
        returns=cls._return_annotation(),
        validate=cls.validate,
        runnable=cls._runnable,
    )
    cls._definition = made
    return made


def options_of(task: BaseTask[Any]) -> Options:
    """Return the settings of this task's next dispatch."""
    return task._current_options()


def arguments_of(task: BaseTask[Any]) -> Mapping[str, object]:
    """Return the constructor's arguments by name, as they were given."""
    args, kwargs = task._arguments_given
    signature = type(task)._signature()
    return signature.bind(args, kwargs) if args or not signature.plain else kwargs


def task_id_of(task: BaseTask[Any]) -> str | None:
    """Return the id of the message that runs this task, or of its latest dispatch."""
    return task._task_id


def set_metadata(task: BaseTask[Any], *, task_id: str, attempt: int, dispatched_at: datetime) -> None:
    """Set what a running task knows of itself; `attempt` counts from 1."""
    task._task_id = task_id
    task._current_attempt = attempt - 1
    task._dispatched_at = dispatched_at


def set_scheduled_for(task: BaseTask[Any], tick: datetime) -> None:
    """Set the tick of a schedule that the task runs."""
    task._scheduled_for = tick


def set_dispatched_id(task: BaseTask[Any], task_id: str) -> None:
    """Set the id of a task's latest dispatch; a running task that dispatches itself again keeps its own."""
    if task._dispatched_at is None:
        task._task_id = task_id
