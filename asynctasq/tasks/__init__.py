"""Floor 2: what users write. Four classes, one decorator, and how a dispatch leaves the task."""

from asynctasq.kernel.messages import Progress
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
from asynctasq.tasks.handle import TaskHandle
from asynctasq.tasks.middleware import AttemptContext, DispatchContext, Middleware
from asynctasq.tasks.mode import Mode
from asynctasq.tasks.task_status import TaskStatus

__all__ = [
    "AsyncProcessTask",
    "AsyncTask",
    "AttemptContext",
    "BaseTask",
    "DispatchContext",
    "Dispatcher",
    "Middleware",
    "Mode",
    "Progress",
    "SyncProcessTask",
    "SyncTask",
    "Task",
    "TaskFunction",
    "TaskHandle",
    "TaskStatus",
    "dispatch_many",
    "dispatch_many_sync",
    "task",
]
