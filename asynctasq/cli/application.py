"""Prepares what a command does with an application: settings, import path, Django, and its modules."""

import importlib
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asynctasq.cli.early_signals import stop_requested
from asynctasq.config import Settings, load_settings
from asynctasq.core.orms import set_up_django
from asynctasq.core.setup import Setup, install
from asynctasq.errors import ConfigError
from asynctasq.tasks.application import Application
from asynctasq.tasks.project import project_root

__all__ = ["PreparedApplication", "prepare_application"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedApplication:
    """An application whose named modules are imported."""

    root: Path
    settings: Settings
    setup: Setup
    application: Application


def prepare_application(given: Mapping[str, Any], folders: tuple[str, ...] = ()) -> PreparedApplication:
    """Read the settings, make them the process's, and import the modules that they name.

    Raises: ConfigError.
    """
    root = project_root()
    path = _import_path(root, folders)
    settings = load_settings(given, root=root)
    setup = Setup(settings)
    install(setup, pin=True)
    set_up_django()
    application = Application(settings.app, root, path=path)
    _load(application)
    return PreparedApplication(root=root, settings=settings, setup=setup, application=application)


def _import_path(root: Path, folders: tuple[str, ...]) -> tuple[str, ...]:
    """Put the given folders first on `sys.path`, the current one and the project root last; return them.

    Last, so that no file beside a project takes the place of an installed library.
    """
    path = tuple(dict.fromkeys([*folders, str(Path.cwd()), str(root)]))
    sys.path[:] = [*folders, *(entry for entry in sys.path if entry not in folders)]
    sys.path += [entry for entry in path if entry not in sys.path]
    return path


def _load(application: Application) -> None:
    for module in application.modules:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:
            if stop_requested():
                raise
            if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
                text = f"there is no module {error.name!r} in {', '.join(application.path)} or installed"
            else:
                text = f"it can't be imported\n{traceback.format_exc()}"
            raise ConfigError(f"--app {module}: {text}") from error
