"""Under which name a task class travels, and which classes are known. Names are `module:qualname`; imports nothing."""

import sys
from pathlib import Path
from typing import Any

__all__ = ["known_names", "project_root", "register", "registered", "task_name"]

_MARKERS = ("pyproject.toml", "setup.cfg", "setup.py", ".git")
_tasks: dict[str, type[Any]] = {}


def register(name: str, task: type[Any]) -> None:
    """Make `task` known under `name`; a later definition of the same name replaces the earlier."""
    _tasks[name] = task


def registered(name: str) -> type[Any] | None:
    """Return the task of that name, if its module has been imported."""
    return _tasks.get(name)


def known_names() -> list[str]:
    """Return the names of all tasks that are known."""
    return list(_tasks)


def project_root(start: Path | None = None) -> Path:
    """Return the nearest folder at or above `start` (default: here) that holds a project file, else `start`."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if any((folder / marker).exists() for marker in _MARKERS):
            return folder
    return start


def task_name(module: str, qualname: str) -> str:
    """Return the name under which a definition travels; `__main__` becomes the name it can be imported by."""
    return f"{_main_module_name() if module == '__main__' else module}:{qualname}"


def _main_module_name() -> str:
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
