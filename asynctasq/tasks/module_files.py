"""Which file of a folder a module is, and its import from that file alone."""

import importlib.util
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

from asynctasq.tasks.project import is_placed_by_others

__all__ = ["INSTALLED", "WrongFile", "files_of_module", "folder_of_module", "import_from", "may_hold_tasks"]

_PART = re.compile(r"[\w-]+")
"""One part of a module's name; a script may be called `send-emails.py`."""
INSTALLED = frozenset({"site-packages", "dist-packages"})
"""Folders of what is installed: no application, so nothing in them is imported because a payload names it."""
NOT_OF_TASKS = frozenset({"setup", "conftest"})
INIT = "__init__.py"


class WrongFile(Exception):
    """`sys.path` leads to another file than the one that was checked."""


def may_hold_tasks(module: str) -> bool:
    """Return whether each part of the name may be that of a package or module of tasks.

    Never `__main__` and its like, `setup`, `conftest`, `test*`, however they are written, or a name that Python's own
    `import` would read as another.
    """
    return all(map(_may_be_part, module.split(".")))


def _may_be_part(part: str) -> bool:
    if _PART.fullmatch(part) is None or unicodedata.normalize("NFKC", part) != part:
        return False
    folded = part.casefold()
    if folded in INSTALLED or folded in NOT_OF_TASKS or folded.startswith("test"):
        return False
    return not (part.startswith("__") and part.endswith("__"))


def files_of_module(module: str, folder: Path) -> list[Path] | None:
    """Return, of each package of the module and of itself, the file that runs; None if the module is not in the folder.

    A package without `__init__.py` is its folder. All are free of links, and in `folder` themselves: not by a link that
    leads out of it, nor placed by another user.
    """
    parts = module.split(".")
    packages = [folder.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)]
    files = [package / INIT if os.path.isfile(package / INIT) else package for package in packages]
    if files[-1] == packages[-1]:
        files[-1] = packages.pop().with_name(f"{parts[-1]}.py")
    if not os.path.isfile(files[-1]) or any(map(is_placed_by_others, (*packages, *files))):
        return None
    resolved, folder = [file.resolve() for file in files], folder.resolve()
    inside = all(file.is_relative_to(folder) for file in resolved)
    if not inside or any(INSTALLED.intersection(file.relative_to(folder).parts) for file in resolved):
        return None
    return resolved


def folder_of_module(module: str, file: Path) -> Path:
    """Return the folder from which a module of that name is this file."""
    above = module.count(".") + (file.name == INIT)
    return file.parents[min(above, len(file.parents) - 1)]


def import_from(module: str, files: Sequence[Path], load: Callable[[str], None]) -> None:
    """Import a module and its packages by `load`, each only from the file that `files_of_module` has told.

    To find a module, Python imports its packages; so each is found and compared before the next.

    Raises: WrongFile, and what `load` raises.
    """
    parts = module.split(".")
    for count, file in enumerate(files, 1):
        name = ".".join(parts[:count])
        try:
            spec = importlib.util.find_spec(name)
        except ValueError:  # it is imported, and by no import system
            spec = None
        if spec is None or not _is_of(spec, file):
            origin = "nothing" if spec is None else spec.origin or "a folder without __init__.py"
            raise WrongFile(f"for {name!r} sys.path leads to {origin}, not to {file}")
        load(name)


def _is_of(spec: ModuleSpec, file: Path) -> bool:
    if spec.has_location and spec.origin is not None:
        return Path(spec.origin).resolve() == file
    return file in [Path(location).resolve() for location in spec.submodule_search_locations or ()]
