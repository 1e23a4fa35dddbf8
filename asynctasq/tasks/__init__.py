"""Floor 2: what users write. Four classes, one decorator, and how a dispatch leaves the task."""

from asynctasq.tasks.base import (
    AsyncProcessTask,
    AsyncTask,
    BaseTask,
    SyncProcessTask,
    SyncTask,
    Task,
)
from asynctasq.tasks.batches import dispatch_many, dispatch_many_sync
from asynctasq.tasks.dispatching import Dispatcher
from asynctasq.tasks.functions import TaskFunction, task
from asynctasq.tasks.middleware import AttemptContext, DispatchContext, Middleware
from asynctasq.tasks.mode import Mode

__all__ = [
    "AsyncProcessTask",
    "AsyncTask",
    "AttemptContext",
    "BaseTask",
    "DispatchContext",
    "Dispatcher",
    "Middleware",
    "Mode",
    "SyncProcessTask",
    "SyncTask",
    "Task",
    "TaskFunction",
    "dispatch_many",
    "dispatch_many_sync",
    "task",
]
