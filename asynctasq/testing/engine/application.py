"""Where a simulation's child processes find the tasks of the code under test."""

import sys
import sysconfig
from pathlib import Path

from asynctasq.tasks.application import Application

__all__ = ["application_under_test"]


def application_under_test(*, real_executors: bool) -> Application:
    """Return what may hold tasks: what is imported, and with child processes all they need to import it themselves.

    pytest puts the folders of tests on `sys.path`; a fresh child process has no pytest to do so.
    """
    return Application(path=_own_folders()) if real_executors else Application()


def _own_folders() -> tuple[str, ...]:
    """Return the entries of `sys.path` that belong to neither Python nor an installation."""
    installed = [Path(folder) for name in ("stdlib", "platstdlib", "purelib", "platlib") if (folder := _folder(name))]
    entries = dict.fromkeys(Path(entry).resolve() for entry in sys.path)
    own = [entry for entry in entries if entry.is_dir() and not any(entry.is_relative_to(path) for path in installed)]
    return tuple(str(entry) for entry in own)


def _folder(name: str) -> str | None:
    return sysconfig.get_path(name)
