"""Which task a message's name means: only modules of the application are imported to find out."""

import importlib
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from asynctasq.errors import UnknownTask
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.registry import known_names, registered

__all__ = ["INSTALLED", "Application"]

_PART = re.compile(r"[\w-]+")
"""One part of a module's name; a script may be called `send-emails.py`."""
INSTALLED = frozenset({"site-packages", "dist-packages"})
"""Folders of what is installed: no application, so nothing in them is imported because a payload names it."""


class Application:
    """The modules that may hold tasks: the named ones, and what lies under `root` or `path` as source files.

    `path` are folders that a child process needs on `sys.path` to import them.
    """

    def __init__(self, modules: tuple[str, ...] = (), root: Path | None = None, *, path: tuple[str, ...] = ()) -> None:
        self.modules = modules
        self.root = root
        self.path = path

    def load(self) -> None:
        """Import the named modules, so that their tasks are known."""
        for module in self.modules:
            importlib.import_module(module)

    def resolve(self, name: str) -> type[BaseTask[Any]]:
        """Return the task called `name`, importing its module if that belongs to the application.

        Raises: UnknownTask, naming the nearest known task and what the worker was started with.
        """
        found = registered(name)
        if found is not None:
            return found
        module = name.partition(":")[0]
        if self._is_ours(module):
            try:
                importlib.import_module(module)
            except (Exception, SystemExit) as error:  # a module's code is the user's and may raise anything
                raise UnknownTask(
                    f"task {name!r}: its module can't be imported: {type(error).__name__}: {error}"
                ) from error
            found = registered(name)
            if found is not None:
                return found
        raise UnknownTask(self._explain(name))

    def _is_ours(self, module: str) -> bool:
        parts = module.split(".")
        if not all(_PART.fullmatch(part) and part not in INSTALLED for part in parts):
            return False
        if any(module == known or module.startswith(f"{known}.") for known in self.modules):
            return True
        folders = [Path(folder) for folder in self.path]
        if self.root is not None:
            folders.append(self.root)
        bases = [folder.joinpath(*parts) for folder in folders]
        return any(base.with_suffix(".py").is_file() or (base / "__init__.py").is_file() for base in bases)

    def _explain(self, name: str) -> str:
        nearest = get_close_matches(name, known_names(), 1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        modules = ", ".join(self.modules) or "none"
        return f"no task {name!r}{hint} (modules given with --app: {modules}; project root: {self.root or 'none'})"
