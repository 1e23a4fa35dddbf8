"""What simulated workers need of the application under test: where its tasks are, and how its models are loaded."""

import sys
import sysconfig
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from asynctasq.queue import background_loop
from asynctasq.tasks.application import Application

__all__ = ["application_under_test", "load_in_real_loop"]

Rows = Mapping[tuple[object, ...], object]


def application_under_test(*, real_executors: bool) -> Application:
    """Return what may hold tasks: what is imported, and with child processes all they need to import it themselves.

    pytest puts the folders of tests on `sys.path`; a fresh child process has no pytest to do so.
    """
    return Application(path=_own_folders()) if real_executors else Application()


async def load_in_real_loop(make: Callable[[], Coroutine[Any, Any, Rows]]) -> Rows:
    """Load models in the event loop of a background thread and wait: a simulated loop has no sockets or threads.

    Blocks the simulation: virtual time stands still, and nothing else runs meanwhile, so every run is the same.
    """
    return background_loop.run(make)


def _own_folders() -> tuple[str, ...]:
    """Return the entries of `sys.path` that belong to neither Python nor an installation."""
    paths = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    installed = [Path(path) for path in paths if path]
    entries = dict.fromkeys(Path(entry).resolve() for entry in sys.path)
    own = [entry for entry in entries if entry.is_dir() and not any(entry.is_relative_to(path) for path in installed)]
    return tuple(str(entry) for entry in own)
