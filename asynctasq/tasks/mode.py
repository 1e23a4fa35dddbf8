"""Where the code of a task runs."""

import enum

__all__ = ["Mode"]


class Mode(enum.Enum):
    """The four ways to execute a task."""

    LOOP = "loop"
    THREAD = "thread"
    ASYNC_PROCESS = "async process"
    SYNC_PROCESS = "sync process"

    @property
    def is_async(self) -> bool:
        """Whether `execute` is `async def`."""
        return self in (Mode.LOOP, Mode.ASYNC_PROCESS)

    @property
    def in_process(self) -> bool:
        """Whether a child process runs it."""
        return self in (Mode.ASYNC_PROCESS, Mode.SYNC_PROCESS)
