"""`Unique`, for the setting `unique` of a task: of dispatches with one key, one is stored at a time."""

from asynctasq.tasks.unique import Unique

__all__ = ["Unique"]
