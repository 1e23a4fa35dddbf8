"""`manage.py asynctasq_worker`: the command `asynctasq worker`, with the project's settings and tasks."""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from django.apps import apps  # type: ignore[import-untyped]  # no stubs
from django.core.management.base import BaseCommand  # type: ignore[import-untyped]  # no stubs
from django.utils.module_loading import module_has_submodule  # type: ignore[import-untyped]  # no stubs
from typer.main import get_command

from asynctasq.cli.app import app
from asynctasq.cli.exit_codes import exit_on_error
from asynctasq.config import load_settings
from asynctasq.tasks.module_files import INSTALLED

__all__ = ["Command"]

TASKS = "tasks"
"""The module of an installed app that is imported when the worker starts."""


class Command(BaseCommand):  # type: ignore[misc]  # no stubs
    """Takes the options of `asynctasq worker` and runs that; exit codes are the same, too."""

    help = "Run tasks until stopped. Without --app, the module `tasks` of each installed app is imported."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the worker's options beside Django's own."""
        for option in _worker().params:
            kind: dict[str, Any] = {"action": "store_true"} if option.is_flag else {"metavar": _metavar(option)}
            if option.multiple:
                kind["action"] = "append"
            parser.add_argument(*option.opts, dest=option.name, help=_help(option), **kind)

    def handle(self, *_: object, **options: Any) -> None:
        """Run the worker; return when it was stopped, else exit with the code that says why."""
        options["apps"] = options.get("apps") or _modules()
        folders = _folders(options.get("pythonpath"))
        try:
            _worker().main(args=list(_arguments(options)), prog_name="manage.py asynctasq_worker", obj=folders)
        except SystemExit as end:
            if end.code:
                raise


def _worker() -> Any:
    """Return the command as typer has built it; which library its class is from differs between versions."""
    return cast("Any", get_command(app)).commands["worker"]


def _metavar(option: Any) -> str:
    return cast("str", option.metavar or option.name.upper())


def _help(option: Any) -> str:
    return cast("str", option.help).replace("%", "%%")


def _modules() -> list[str]:
    """Return the modules that the configuration names, and those of the installed apps."""
    with exit_on_error():
        configured = load_settings().app
    installed = cast("Iterable[Any]", apps.get_app_configs())
    found = [f"{one.name}.{TASKS}" for one in installed if module_has_submodule(one.module, TASKS)]
    return list(dict.fromkeys([*configured, *found]))


def _folders(pythonpath: str | None) -> list[str]:
    """Return where Django imports the project from, whichever folder the command was started in.

    That is what stands on `sys.path` down to the folder of manage.py, which Python puts first: --pythonpath, manage.py
    itself and the settings may have put others before it. Where `django-admin` is installed, there is no project.
    """
    folders = [os.path.abspath(pythonpath)] if pythonpath else []
    script: str = getattr(sys.modules["__main__"], "__file__", None) or ""
    own = os.path.dirname(os.path.realpath(script)) if script else ""
    path = [os.path.abspath(entry) for entry in sys.path]
    ends = [position for position, entry in enumerate(path) if os.path.realpath(entry) == own]
    if ends:
        folders += path[: ends[0] + (Path(script).stem != "django-admin")]
    return [folder for folder in folders if not INSTALLED.intersection(Path(folder).parts)]


def _arguments(options: dict[str, Any]) -> Iterator[str]:
    """Spell the options out again; typer converts and checks the values."""
    for option in _worker().params:
        value, name = options.get(option.name), option.opts[0]
        if option.is_flag:
            if value:
                yield name
        elif value is not None:
            for one in value if option.multiple else [value]:
                yield f"{name}={one}"
