"""asynctasq: a task queue that people can test.

Importing it opens nothing and reads no configuration.
"""

import importlib
from typing import TYPE_CHECKING, Any

from asynctasq.tasks import (
    AsyncProcessTask,
    AsyncTask,
    SyncProcessTask,
    SyncTask,
    Task,
    dispatch_many,
    dispatch_many_sync,
    task,
)
from asynctasq.tasks.dispatching import Dispatcher, set_default_dispatcher

if TYPE_CHECKING:
    from asynctasq.core.current_task import current_task as current_task
    from asynctasq.core.setup import close as close
    from asynctasq.core.setup import init as init
    from asynctasq.core.worker import Worker as Worker
    from asynctasq.errors import AsyncTasqError as AsyncTasqError
    from asynctasq.errors import Reject as Reject
    from asynctasq.errors import Retry as Retry
    from asynctasq.errors import Snooze as Snooze
    from asynctasq.errors import TaskTimeoutError as TaskTimeoutError

__version__ = "0.1.0"

_LAZY = {
    "AsyncTasqError": "asynctasq.errors",
    "Reject": "asynctasq.errors",
    "Retry": "asynctasq.errors",
    "Snooze": "asynctasq.errors",
    "TaskTimeoutError": "asynctasq.errors",
    "Worker": "asynctasq.core.worker",
    "close": "asynctasq.core.setup",
    "current_task": "asynctasq.core.current_task",
    "init": "asynctasq.core.setup",
}
"""Names whose modules are imported when first used, so that `import asynctasq` stays fast."""

__all__ = [
    "AsyncProcessTask",
    "AsyncTask",
    "AsyncTasqError",
    "Reject",
    "Retry",
    "Snooze",
    "SyncProcessTask",
    "SyncTask",
    "Task",
    "TaskTimeoutError",
    "Worker",
    "close",
    "current_task",
    "dispatch_many",
    "dispatch_many_sync",
    "init",
    "task",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'asynctasq' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def _default_dispatcher() -> Dispatcher[Any]:
    from asynctasq.core.setup import default_queue

    return default_queue()


set_default_dispatcher(_default_dispatcher)
