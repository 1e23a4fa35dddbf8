"""What the configuration lists, objects or `module:name`: middleware and lifespans.

A name is imported because the application's own configuration has it, never because a message does.
"""

import functools
import importlib
import inspect
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

from asynctasq.errors import ConfigError
from asynctasq.tasks.middleware import Middleware
from asynctasq.tasks.registry import task_name

__all__ = ["Lifespan", "check_lifespan", "check_middleware", "given_resources", "lifespans_of", "middleware_of"]


@dataclass(frozen=True, slots=True)
class Lifespan:
    """A lifespan, and the name by which a child process finds it, `module:qualname`; "" for one that has none."""

    name: str
    make: Callable[[], AbstractAsyncContextManager[object]]


def middleware_of(entries: Iterable[object]) -> tuple[Middleware, ...]:
    """Return the middleware that the setting lists; names are imported, and of a class there is one object.

    Raises: ConfigError for what is none, or can't be imported.
    """
    return tuple(map(_one_middleware, entries))


def _one_middleware(entry: object) -> Middleware:
    found = _named(entry, "middleware") if isinstance(entry, str) else entry
    check_middleware(found)
    if isinstance(found, Middleware):
        return found
    cls = cast("type[Middleware]", found)
    if cls not in _made:
        _made[cls] = cls()
    return _made[cls]


_made: dict[type[Middleware], Middleware] = {}
"""The one object of each class that a list names."""


def check_middleware(entry: object) -> None:
    """Raise ConfigError unless it is a Middleware, or a class of them."""
    if not isinstance(entry, Middleware) and not (isinstance(entry, type) and issubclass(entry, Middleware)):
        raise ConfigError(f"middleware: {entry!r} is no Middleware; derive its class from asynctasq.tasks.Middleware")


def lifespans_of(entries: Iterable[object]) -> tuple[Lifespan, ...]:
    """Return the lifespans that the setting lists; names are imported.

    Raises: ConfigError for what is none, or can't be imported.
    """
    return tuple(map(_one_lifespan, entries))


def _one_lifespan(entry: object) -> Lifespan:
    found = _named(entry, "lifespan") if isinstance(entry, str) else entry
    check_lifespan(found)
    function = cast("Callable[[], Any]", found)
    name = entry if isinstance(entry, str) else _name_of(function)
    if inspect.isasyncgenfunction(function):
        return Lifespan(name, asynccontextmanager(cast("Callable[[], AsyncGenerator[object]]", function)))
    return Lifespan(name, function)


def _name_of(function: Callable[[], Any]) -> str:
    qualname: str | None = getattr(function, "__qualname__", None)
    return "" if qualname is None else task_name(function.__module__, qualname)


def check_lifespan(entry: object) -> None:
    """Raise ConfigError unless it is a function that needs no arguments and may return a context manager."""
    if not callable(entry) or inspect.iscoroutinefunction(entry):
        raise ConfigError(
            f"lifespan: {entry!r} is none; write an `async def` function without parameters that yields once, or one "
            "that returns an asynchronous context manager"
        )


def given_resources(values: object) -> tuple[Lifespan, ...]:
    """Return lifespans that yield these objects and do nothing else: one object, or a tuple of them."""
    objects = cast("tuple[object, ...]", values) if isinstance(values, tuple) else (values,)
    return tuple(Lifespan("", functools.partial(nullcontext, value)) for value in objects)


def _named(name: str, setting: str) -> object:
    module_name, _, qualname = name.partition(":")
    if not module_name or not qualname:
        raise ConfigError(f"{setting}: {name!r} is no name of an object; write package.module:name")
    try:
        found: object = importlib.import_module(module_name)
        for part in qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{setting}: {name!r} can't be imported: {error}") from error
    return found
