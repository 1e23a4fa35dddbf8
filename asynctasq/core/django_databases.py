"""Lets child processes use the databases that a test uses: Django's test runner gives them names of their own.

A fresh child reads the settings and would connect to the database that they name, which is the developer's own.
"""

import importlib
import sys
from collections.abc import Mapping
from typing import Any

from asynctasq.errors import ConfigError

__all__ = ["DatabaseSettings", "InMemoryDatabase", "current_databases", "use_databases"]

DatabaseSettings = Mapping[str, Mapping[str, str]]
"""Alias -> the settings that say where the database is."""

WHERE = ("NAME", "HOST", "PORT", "USER", "PASSWORD")


class InMemoryDatabase(ConfigError):
    """A task in a child process used a database that lies in the memory of its test's process."""


def current_databases() -> DatabaseSettings:
    """Return where Django connects to now, under a test runner too; nothing where Django is not set up."""
    connections = _connections()
    if connections is None:
        return {}
    return {
        alias: {name: str(settings[name]) for name in WHERE if settings.get(name) is not None}
        for alias, settings in connections.settings.items()
    }


def use_databases(databases: DatabaseSettings) -> None:
    """Connect to these from now on, in every thread of this process. Repeating it changes nothing."""
    connections = _connections()
    if connections is None:
        return
    in_memory: list[str] = []
    for alias, where in databases.items():
        if alias in connections.settings:
            settings = connections.settings[alias]
            if any(str(settings.get(name)) != value for name, value in where.items()):
                connections[alias].close()
            settings.update(where)
            if _is_in_memory(settings):
                in_memory.append(alias)
    if in_memory:
        _refuse_to_connect(in_memory)


def _connections() -> Any:
    """Return Django's connections where it is imported and set up, else None."""
    if "django.db" not in sys.modules or not sys.modules["django.conf"].settings.configured:
        return None
    return sys.modules["django.db"].connections


def _is_in_memory(settings: Mapping[str, Any]) -> bool:
    name = str(settings["NAME"])
    return settings["ENGINE"].endswith("sqlite3") and (":memory:" in name or "mode=memory" in name)


def _refuse_to_connect(aliases: list[str]) -> None:
    """Let whoever connects to these databases get an error: each process has an empty one of its own."""
    signal: Any = importlib.import_module("django.db.backends.signals").connection_created

    def refuse(*, connection: Any, **_: object) -> None:
        if connection.alias in aliases:
            opened, connection.connection = connection.connection, None
            opened.close()
            raise InMemoryDatabase(
                f"the test's database {connection.alias!r} is in the memory of the test's process, where no child "
                f'process can use it; give it a file, DATABASES["{connection.alias}"]["TEST"] = {{"NAME": '
                '"test.sqlite3"}, or run process tasks in the test, without real_executors=True'
            )

    signal.connect(refuse, weak=False, dispatch_uid="asynctasq in-memory databases")
