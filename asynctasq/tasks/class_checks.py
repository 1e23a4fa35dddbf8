"""Checks of a task class, made when the class is made; they raise TaskDefinitionError and change nothing."""

import inspect
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, cast

from asynctasq.errors import TaskDefinitionError
from asynctasq.tasks.mode import Mode
from asynctasq.tasks.options import nearest_setting

__all__ = [
    "check_driver_override",
    "check_execute",
    "check_fair_key",
    "check_limits",
    "check_overrides",
    "check_parameters",
    "check_schedules",
    "check_settings",
    "check_validate",
    "has_execute",
]

SETTING_TYPES = (bool, int, float, str, timedelta, Sequence, type(None))
"""What a setting's value may be; an attribute of another type is no misspelt setting."""


def has_execute(cls: type[object], kinds: Iterable[type[object]]) -> bool:
    """Return whether the class has an `execute` other than that of the kind of task it is."""
    execute = getattr(cls, "execute", None)
    return execute is not None and all(execute is not getattr(kind, "execute", None) for kind in kinds)


def check_execute(cls: type[object], mode: Mode) -> None:
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
    if mode.is_async and not is_async:
        raise TaskDefinitionError(
            f"{cls.__qualname__}.execute must be `async def`; for blocking code derive from SyncTask or SyncProcessTask"
        )
    if is_async and not mode.is_async:
        raise TaskDefinitionError(
            f"{cls.__qualname__}.execute must be `def`; for async code derive from AsyncTask or AsyncProcessTask"
        )


def check_fair_key(cls: type[Any], parameters: Sequence[str], *, of_function: bool) -> None:
    """Raise TaskDefinitionError if the fair key is the name of what the task will not have, as far as that is known."""
    name = cls.fair_key
    if name in parameters or (not of_function and (cls._has_constructor or hasattr(cls, name))):
        return
    has = ", ".join(parameters) or "none"
    raise TaskDefinitionError(f"{cls.__qualname__}.fair_key names {name!r}, which is no argument of it; it has {has}")


def check_schedules(cls: type[object]) -> None:
    """Raise TaskDefinitionError if the class's own `schedule` is none."""
    if "schedule" in cls.__dict__:
        from asynctasq.tasks.schedules import schedules_in

        schedules_in(cls)


def check_limits(cls: type[Any], parameters: Sequence[str], *, of_function: bool) -> None:
    """Raise TaskDefinitionError if the class's `limits` are none, or their names need what the task does not have."""
    from asynctasq.tasks.limits import limits_in

    known = None if cls._has_constructor else parameters
    limits_in(cls, parameters if of_function else None, known)


def check_overrides(cls: type[object], base: type[object]) -> None:
    """Raise TaskDefinitionError if the class replaces what is not for overriding, or by what can't work."""
    for name, value in cls.__dict__.items():
        original = inspect.getattr_static(base, name, None)
        if isinstance(original, property) or getattr(original, "__final__", False):
            raise TaskDefinitionError(
                f"{cls.__qualname__}.{name} would replace a method that every task needs; rename it"
            )
        if name in ("failed", "should_retry", "cancelled") and not callable(getattr(cls, name)):
            raise TaskDefinitionError(f"{cls.__qualname__}.{name} must be a method, not {value!r}")


def check_validate(cls: type[object], validate: object) -> None:
    """Raise TaskDefinitionError unless the setting `validate` is True or False."""
    if not isinstance(validate, bool):
        raise TaskDefinitionError(
            f"{cls.__qualname__}.validate must be True or False, not {validate!r}; it says whether the arguments are "
            "checked against their annotations. A method or attribute of your own needs another name"
        )


def check_driver_override(cls: type[object], override: object) -> None:
    """Raise TaskDefinitionError unless `_driver_override` is the name of a driver, a driver, or None."""
    if isinstance(override, type) or not (
        override is None or isinstance(override, str) or callable(getattr(override, "enqueue", None))
    ):
        raise TaskDefinitionError(
            f"{cls.__qualname__}: _driver_override must be the name of a driver, a driver, or None, not {override!r}"
        )


def check_parameters(cls: type[object], names: Iterable[str], reserved: frozenset[str]) -> None:
    """Raise TaskDefinitionError if a constructor parameter would hide the API once stored on `self`."""
    hidden = [name for name in names if name in reserved]
    if hidden:
        raise TaskDefinitionError(
            f"{cls.__qualname__} has parameters or fields that would hide an attribute or method of every task: "
            f"{', '.join(hidden)}; rename them"
        )


def check_settings(cls: type[object], base: type[object]) -> None:
    """Raise TaskDefinitionError for an attribute that looks like a misspelt setting and is not annotated.

    Those of the class's own body and of its mix-ins; an annotation says that the name is meant.
    """
    for owner in cast("tuple[type[object], ...]", cls.__mro__):
        if owner is cls or not issubclass(owner, base):
            annotated = inspect.get_annotations(owner)
            for name, value in owner.__dict__.items():
                meant = None if name.startswith("_") or name in annotated else nearest_setting(name)
                if meant is not None and isinstance(value, SETTING_TYPES):
                    raise TaskDefinitionError(
                        f"{cls.__qualname__}.{name} is no setting; did you mean {meant!r}? "
                        f"If {name} is an attribute of your own, annotate it: {name}: ClassVar[...] = ..."
                    )
