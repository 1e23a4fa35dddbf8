"""What a task class says of itself, checked when the class is made; and how the other floors read it.

Attributes of tasks that are ours start with an underscore so that users' names never collide with them;
this file is the one place that reads them from outside.
"""
# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from asynctasq.drivers.base import Driver
from asynctasq.errors import TaskDefinitionError
from asynctasq.tasks.mode import Mode
from asynctasq.tasks.options import Options
from asynctasq.tasks.signatures import Signature

if TYPE_CHECKING:
    from asynctasq.tasks.base import BaseTask

__all__ = [
    "TaskDefinition",
    "arguments_of",
    "check_execute",
    "check_overrides",
    "check_parameters",
    "definition_of",
    "options_of",
    "set_metadata",
    "task_id_of",
    "tell_id",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition:
    """One task class: its name, how it runs, what its constructor takes and `execute` returns, its own driver."""

    name: str
    mode: Mode
    signature: Signature
    driver: str | Driver | None
    returns: object


def definition_of(cls: "type[BaseTask[Any]]") -> TaskDefinition:
    """Return the definition of a task class, made once."""
    known: TaskDefinition | None = cls.__dict__.get("_definition")
    if known is not None and known.driver is cls._driver_override:
        return known
    made = TaskDefinition(
        name=cls._task_name,
        mode=cls._mode,
        signature=cls._signature(),
        driver=cls._driver_override,
        returns=cls._return_annotation(),
    )
    cls._definition = made
    return made


def options_of(task: "BaseTask[Any]") -> Options:
    """Return the settings of this task's next dispatch."""
    return task._current_options()


def arguments_of(task: "BaseTask[Any]") -> Mapping[str, object]:
    """Return the constructor's arguments by name, as they were given."""
    args, kwargs = task._arguments_given
    signature = type(task)._signature()
    return signature.bind(args, kwargs) if args or not signature.plain else kwargs


def task_id_of(task: "BaseTask[Any]") -> str | None:
    """Return the id of the message that runs this task, or of its latest dispatch."""
    return task._task_id


def set_metadata(task: "BaseTask[Any]", *, task_id: str, attempt: int, dispatched_at: datetime) -> None:
    """Set what a running task knows of itself; `attempt` counts from 1."""
    task._task_id = task_id
    task._current_attempt = attempt - 1
    task._dispatched_at = dispatched_at


def tell_id(task: "BaseTask[Any]", task_id: str) -> None:
    """Tell a task the id of its latest dispatch; one that runs, and dispatches itself anew, keeps its own."""
    if task._dispatched_at is None:
        task._task_id = task_id


def check_execute(cls: "type[BaseTask[Any]]") -> None:
    """Raise TaskDefinitionError if the class's own `execute` is of the wrong kind for its mode."""
    execute = cls.__dict__.get("execute")
    if execute is None:
        return
    function = inspect.unwrap(execute) if callable(execute) else execute
    if (
        not inspect.isfunction(function)
        or inspect.isasyncgenfunction(function)
        or inspect.isgeneratorfunction(function)
    ):
        raise TaskDefinitionError(f"{cls.__qualname__}.execute must be a method that returns, not {execute!r}")
    is_async = inspect.iscoroutinefunction(function)
    if cls._mode.is_async and not is_async:
        raise TaskDefinitionError(
            f"{cls.__qualname__}.execute must be `async def`; for blocking code derive from SyncTask or SyncProcessTask"
        )
    if is_async and not cls._mode.is_async:
        raise TaskDefinitionError(
            f"{cls.__qualname__}.execute must be `def`; for async code derive from AsyncTask or AsyncProcessTask"
        )


def check_overrides(cls: "type[BaseTask[Any]]", base: "type[BaseTask[Any]]") -> None:
    """Raise TaskDefinitionError if the class replaces what is not for overriding, or by what can't work."""
    for name, value in cls.__dict__.items():
        original = base.__dict__.get(name)
        if isinstance(original, property) or getattr(original, "__final__", False):
            raise TaskDefinitionError(
                f"{cls.__qualname__}.{name} would replace a method that every task needs; rename it"
            )
        if name in ("failed", "should_retry") and not callable(getattr(cls, name)):
            raise TaskDefinitionError(f"{cls.__qualname__}.{name} must be a method, not {value!r}")
    override = cls._driver_override
    if isinstance(override, type) or not (
        override is None or isinstance(override, str) or callable(getattr(override, "enqueue", None))
    ):
        raise TaskDefinitionError(
            f"{cls.__qualname__}: _driver_override must be the name of a driver, a driver, or None, not {override!r}"
        )


def check_parameters(cls: "type[BaseTask[Any]]", reserved: frozenset[str]) -> None:
    """Raise TaskDefinitionError if a constructor parameter would hide the API once stored on `self`."""
    hidden = [name for name in cls._signature().names if name in reserved]
    if hidden:
        raise TaskDefinitionError(
            f"{cls.__qualname__}.__init__ has parameters that would hide an attribute or method of every task: "
            f"{', '.join(hidden)}; rename them"
        )
