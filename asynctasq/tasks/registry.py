"""Under which name a task class travels, and which classes are known. Names are `module:qualname`; imports nothing."""

import sys
import threading
from dataclasses import dataclass
from typing import Any

__all__ = ["known_names", "register", "registered", "source_file", "task_name"]


@dataclass(frozen=True, slots=True)
class _Registered:
    """A task class, whether an import has defined it, and in which thread."""

    task: type[Any]
    by_import: bool
    thread: int

    @property
    def is_usable(self) -> bool:
        """Whether its module did not fail after the class statement, and no other thread is still importing it."""
        if not self.by_import:
            return True
        module = sys.modules.get(self.task.__module__)
        if module is None:
            return False
        still_importing = getattr(getattr(module, "__spec__", None), "_initializing", False)
        return not still_importing or self.thread == threading.get_ident()


_tasks: dict[str, _Registered] = {}


def register(name: str, task: type[Any]) -> None:
    """Make `task` known under `name`; a later definition of the same name replaces the earlier."""
    _tasks[name] = _Registered(task, task.__module__ in sys.modules, threading.get_ident())


def registered(name: str) -> type[Any] | None:
    """Return the task of that name, if its module has been imported, to its end."""
    found = _tasks.get(name)
    return found.task if found is not None and found.is_usable else None


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
