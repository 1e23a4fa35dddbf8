"""Under which name a task class travels, and which classes are known. Names are `module:qualname`; imports nothing."""

import sys
import threading
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["known_names", "register", "registered", "source_file", "task_name"]


@dataclass(frozen=True, slots=True)
class _Registered:
    """A task class, whether an import defines it that may still fail, and in which thread."""

    task: type[Any]
    by_import: bool
    thread: int

    @property
    def is_importing(self) -> bool | None:
        """Whether its module is still being imported; None if that has failed after the class statement."""
        module = sys.modules.get(self.task.__module__)
        if module is None:
            return None
        return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


_tasks: dict[str, _Registered] = {}


def register(name: str, task: type[Any]) -> None:
    """Make `task` known under `name`; a later definition of the same name replaces the earlier."""
    _tasks[name] = _Registered(task, task.__module__ in sys.modules, threading.get_ident())


def registered(name: str) -> type[Any] | None:
    """Return the task of that name, if its module has been imported, to its end."""
    found = _tasks.get(name)
    if found is None or not found.by_import:
        return None if found is None else found.task
    match found.is_importing:
        case None:
            return None
        case True:
            return found.task if found.thread == threading.get_ident() else None
        case False:
            _tasks[name] = replace(found, by_import=False)  # done with, and not looked at again
            return found.task


def source_file(task: type[Any]) -> str | None:
    """Return the file that the task was defined in, if it was defined in one."""
    return getattr(sys.modules.get(task.__module__), "__file__", None)


def known_names() -> list[str]:
    """Return the names of all tasks that are known."""
    return list(_tasks)


def task_name(module: str, qualname: str) -> str:
    """Return the name under which a definition travels; `__main__` becomes the name it can be imported by."""
    if module == "__main__":
        from asynctasq.tasks.project import main_module_name  # pathlib, which it needs, is slow to import

        module = main_module_name()
    return f"{module}:{qualname}"
