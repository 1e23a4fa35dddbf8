"""Where the project is, and which of its files may be believed: nothing that another user can put there."""

import os
import stat
import sys
from pathlib import Path

from asynctasq.errors import ConfigError

__all__ = ["is_placed_by_others", "main_module_name", "project_file", "project_root"]

_MARKERS = ("pyproject.toml", "setup.cfg", "setup.py", ".git")
ROOT_UID = 0


def project_root(start: Path | None = None) -> Path:
    """Return the nearest folder at or above `start` (default: here) that holds a project file, else `start`.

    Not above a folder of another user, one that others may write to, or a border of file systems.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if folder != start and not _is_one_project(folder, start):
            break
        if any((folder / marker).exists() for marker in _MARKERS):
            return folder
    return start


def main_module_name() -> str:
    """Return the name by which the program that runs can be imported; `__main__` in an interactive session."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    if file is None:
        return "__main__"
    path = Path(file).resolve()
    root = project_root()
    inside = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    return ".".join(inside.with_suffix("").parts)


def _is_one_project(folder: Path, start: Path) -> bool:
    """Return whether nobody can have put a project file into `folder` who could not have put it into `start`."""
    try:
        above, here = folder.stat(), start.stat()
    except OSError:
        return False
    owners = (_user(), here.st_uid)
    writable_by_others = stat.S_IWOTH if above.st_uid in owners else stat.S_IWOTH | stat.S_IWGRP
    return (
        above.st_dev == here.st_dev and above.st_uid in (*owners, ROOT_UID) and not above.st_mode & writable_by_others
    )


def project_file(root: Path, name: str) -> Path | None:
    """Return the file of that name in the project root, None if there is none.

    Raises: ConfigError if it is another user's, in a folder that everybody may write to.
    """
    path = root / name
    if not path.is_file():
        return None
    if is_placed_by_others(path):
        raise ConfigError(
            f"{path} belongs to another user, in a folder that everybody may write to, so it is not read; "
            "remove it, or start in a folder of your own"
        )
    return path


def is_placed_by_others(path: Path) -> bool:
    """Return whether another user has put this file into a folder that everybody may write to."""
    if not path.parent.stat().st_mode & stat.S_IWOTH:
        return False
    return not {path.lstat().st_uid, path.stat().st_uid} <= {_user(), ROOT_UID}


def _user() -> int:
    return os.geteuid() if sys.platform != "win32" else ROOT_UID
