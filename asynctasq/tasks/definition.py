"""What a task class says of itself, as the other floors read it.

Attributes of tasks that are ours start with an underscore so that users' names never collide with them;
this file is the one place that reads them from outside.
"""
# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from asynctasq.drivers.base import Driver
from asynctasq.errors import DispatchError
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.metadata import RunningAttempt
from asynctasq.tasks.mode import Mode
from asynctasq.tasks.options import Options
from asynctasq.tasks.signatures import Signature

if TYPE_CHECKING:
    from asynctasq.tasks.limits import Limit

__all__ = [
    "TaskDefinition",
    "arguments_of",
    "check_unchanged",
    "definition_of",
    "options_of",
    "set_dispatched",
    "set_living",
    "set_metadata",
    "set_running_attempt",
    "set_scheduled_for",
    "task_id_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition:
    """One task class: its name, how it runs, what its constructor takes and `execute` returns, its own driver.

    `validate` says whether the arguments are checked against their annotations, `runnable` whether it has an `execute`.
    `defaults` are those of the arguments that become attributes; None if arguments do not. `limits` are as written.
    """

    name: str
    mode: Mode
    signature: Signature
    driver: str | Driver | None
    returns: object
    validate: bool = False
    runnable: bool = True
    defaults: Mapping[str, object] | None = None
    limits: "Sequence[Limit]" = ()


def definition_of(cls: type[BaseTask[Any]]) -> TaskDefinition:
    """Return the definition of a task class, made once."""
    known = cls.__dict__.get("_definition")
    if (
        isinstance(known, TaskDefinition)
        and known.driver is cls._driver_override
        and known.validate is cls.validate
        and known.limits is cls.limits
    ):
        return known
    signature = cls._signature()
    made = TaskDefinition(
        name=cls._task_name,
        mode=cls._mode,
        signature=signature,
        driver=cls._driver_override,
        returns=cls._return_annotation(),
        validate=cls.validate,
        runnable=cls._runnable,
        defaults=signature.defaults() if cls._arguments_become_attributes else None,
        limits=cls.limits,
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


def check_unchanged(task: BaseTask[Any], definition: TaskDefinition, given: Mapping[str, object]) -> None:
    """Refuse a task an attribute of which was assigned since it was built: the arguments travel, and it would not.

    Only an argument that the constructor keeps under its own name, as it is, is judged.

    Raises: DispatchError.
    """
    if definition.defaults is None:
        return
    attributes = vars(task)
    for name, value in given.items():
        if attributes.get(name, value) is not value:
            _check_kept(task, name, value)
    for name, value in definition.defaults.items():
        if name not in given and attributes.get(name, value) is not value:
            _check_kept(task, name, value)


def _check_kept(task: BaseTask[Any], name: str, value: object) -> None:
    """Raise DispatchError if the constructor keeps this argument as it is; it is called once more to find out.

    An equal value of the same type is no change.
    """
    cls = type(task)
    if name in cls._transformed:
        return
    args, kwargs = task._arguments_given
    assigned = vars(task)[name]
    try:
        kept = getattr(cls(*args, **kwargs), name, cls)
        same = type(assigned) is type(value) and bool(assigned == value)
    except Exception:  # noqa: BLE001 - the constructor is the user's, and so may the values be
        kept, same = cls, False
    if kept is not value:
        cls._transformed.add(name)
        return
    if same:
        return
    raise DispatchError(
        f"{definition_of(cls).name}: the attribute {name!r} was assigned after the task was built, and would not reach "
        f"the worker, which builds the task from the arguments given to {cls.__qualname__}(...); build another task"
    )


def task_id_of(task: BaseTask[Any]) -> str | None:
    """Return the id of the message that runs this task, or of its latest dispatch."""
    return task._task_id


def set_metadata(task: BaseTask[Any], *, task_id: str, attempt: int, dispatched_at: datetime) -> None:
    """Set what a running task knows of itself; `attempt` counts from 1."""
    task._task_id = task_id
    task._current_attempt = attempt - 1
    task._dispatched_at = dispatched_at
    task._is_running = True


def set_running_attempt(task: BaseTask[Any], attempt: RunningAttempt) -> None:
    """Set what a running task asks whether it is cancelled."""
    task._running_attempt = attempt


def set_scheduled_for(task: BaseTask[Any], tick: datetime) -> None:
    """Set the tick of a schedule that the task runs."""
    task._scheduled_for = tick


def set_dispatched(task: BaseTask[Any], task_id: str, at: datetime) -> None:
    """Set id and instant of a task's latest dispatch; a running task that dispatches itself again keeps its own."""
    if not task._is_running:
        task._task_id = task_id
        task._dispatched_at = at


def set_living(task: BaseTask[Any], task_id: str, living: str) -> None:
    """Set the id of the message that holds the unique key of a task, in place of that of its own dispatch."""
    if task._task_id == task_id:
        task._task_id = living
