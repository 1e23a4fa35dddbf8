"""asynctasq, a task queue that people can test: use the names in `__all__`; importing it opens and reads nothing."""

import importlib
from typing import TYPE_CHECKING, Any

from asynctasq.tasks import AsyncProcessTask, AsyncTask, SyncProcessTask, SyncTask, Task, task
from asynctasq.tasks.batches import dispatch_many, dispatch_many_sync
from asynctasq.tasks.dispatching import set_default_dispatcher
from asynctasq.tasks.handle import cancel, cancel_sync, result, result_sync, status, status_sync

# Imported when first used, so that `import asynctasq` stays fast.
_NAMES_IN = {
    "core.current_task": "current_task",
    "core.setup": "close init",
    "core.worker": "Worker",
    "tasks.schedules": "Cron Every",
    "errors": "Reject Retry Snooze",
    "tasks.resources": "Resource resource",
}

if TYPE_CHECKING:
    from asynctasq.core.current_task import current_task
    from asynctasq.core.setup import close, init
    from asynctasq.core.worker import Worker
    from asynctasq.errors import Reject, Retry, Snooze
    from asynctasq.tasks.resources import Resource, resource
    from asynctasq.tasks.schedules import Cron, Every
else:

    def __getattr__(name: str) -> Any:
        module = next((module for module, names in _NAMES_IN.items() if name in names.split()), None)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        return value


set_default_dispatcher(lambda: importlib.import_module("asynctasq.core.setup").default_queue())

__version__ = "0.1.0"
__all__ = [
    "AsyncProcessTask", "AsyncTask", "Cron", "Every", "Reject", "Resource", "Retry", "Snooze", "SyncProcessTask",
    "SyncTask", "Task", "Worker", "cancel", "cancel_sync", "close", "current_task", "dispatch_many",
    "dispatch_many_sync", "init", "resource", "result", "result_sync", "status", "status_sync", "task",
]  # fmt: skip
