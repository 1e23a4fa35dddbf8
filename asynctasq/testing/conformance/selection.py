"""Which drivers a run is for, and how a name becomes a harness."""

import importlib
import inspect
from typing import Any

import pytest

from asynctasq.testing.conformance.harness import DriverHarness
from asynctasq.testing.servers import Servers, ServerUnavailable

__all__ = ["BUILT_IN", "NotRun", "chosen_drivers", "make_harness"]

BUILT_IN = ("memory", "sqlite", "redis", "postgres", "mysql", "sqs")
HARNESSES = "asynctasq.testing.conformance.harnesses"


class NotRun(Exception):
    """The driver could not be tested at all; the text says why and what to do. A run with one fails."""


def chosen_drivers(config: pytest.Config, module: object) -> list[str]:
    """Return what `--asynctasq-driver` names, else the module's `CONFORMANCE_DRIVERS`, else the memory driver.

    A module that says `CONFORMANCE_PINNED` keeps its own whatever is asked for.

    Raises: UsageError for a name that is neither built in nor an import path.
    """
    pinned = getattr(module, "CONFORMANCE_PINNED", False)
    asked: list[str] = [] if pinned else config.getoption("asynctasq_driver") or []
    given = asked or list(getattr(module, "CONFORMANCE_DRIVERS", ("memory",)))
    names: list[str] = []
    for name in given:
        if name != "all" and name not in BUILT_IN and ":" not in name:
            raise pytest.UsageError(
                f"--asynctasq-driver={name}: no such driver; use one of {', '.join(BUILT_IN)}, all, "
                "or mypkg:make_harness"
            )
        names += BUILT_IN if name == "all" else [name]
    return list(dict.fromkeys(names))


def make_harness(name: str, servers: Servers) -> DriverHarness:
    """Return a new, empty store of the driver `name`.

    Raises: NotRun if its library or server is missing, or if the import path leads nowhere.
    """
    factory = _factory(name)
    try:
        harness: DriverHarness = factory(servers) if inspect.signature(factory).parameters else factory()
    except ServerUnavailable as error:
        raise NotRun(str(error)) from error
    return harness


def _factory(name: str) -> Any:
    path, _, attribute = name.partition(":") if ":" in name else (f"{HARNESSES}.{name}", "", "make_harness")
    try:
        factory = getattr(importlib.import_module(path), attribute)
    except (ImportError, AttributeError) as error:
        raise NotRun(f"no harness for driver {name!r}: {error}") from error
    if not callable(factory):
        raise NotRun(f"{name} is not callable; it must return a DriverHarness")
    return factory
