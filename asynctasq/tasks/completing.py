"""How a running task settles itself in a transaction of its own: the `Completion` port. Knows no driver."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from asynctasq.errors import AsyncTasqError
from asynctasq.kernel.messages import Progress

__all__ = ["Completion", "completing", "completing_sync", "running_completion"]


class Completion(Protocol):
    """The right of one attempt to end itself as completed, once."""

    task: Any
    """The task that the attempt runs."""

    def report(self, progress: Progress) -> None:
        """Store how far the attempt is, soon, if that is possible; may be called from any thread, never fails."""
        ...

    def begin(self) -> None:
        """Check that the attempt may still do so, and let no other block of it begin.

        Raises: AsyncTasqError when it was done before, UnsupportedFeature if the driver can't.
        """
        ...

    def end(self) -> None:
        """Let another block begin, unless the attempt was settled in this one."""
        ...

    async def settle_in(self, connection: Any, result: object) -> None:
        """Settle the attempt on the caller's connection; commits nothing.

        Raises: LeaseLost, UnsupportedFeature, DriverError; the caller's transaction is to be rolled back.
        """
        ...

    def settle_in_sync(self, connection: Any, result: object) -> None:
        """Do `settle_in` for a connection that is used from synchronous code."""
        ...


running_completion: ContextVar[Completion | None] = ContextVar("asynctasq_running_completion", default=None)
"""The one of the attempt that runs here; None outside of attempts and in child processes."""


@asynccontextmanager
async def completing(task: object, connection: Any, result: object, *, in_process: bool) -> AsyncGenerator[None]:
    """Settle the attempt of `task` when the block has ended without an exception."""
    with _begun(task, in_process=in_process) as completion:
        yield
        await completion.settle_in(connection, result)


@contextmanager
def completing_sync(task: object, connection: Any, result: object, *, in_process: bool) -> Generator[None]:
    """Do `completing` for synchronous connections."""
    with _begun(task, in_process=in_process) as completion:
        yield
        completion.settle_in_sync(connection, result)


@contextmanager
def _begun(task: object, *, in_process: bool) -> Generator[Completion]:
    completion = _completion_of(task, in_process=in_process)
    completion.begin()
    try:
        yield completion
    finally:
        completion.end()


def _completion_of(task: object, *, in_process: bool) -> Completion:
    name = type(task).__qualname__
    if in_process:
        raise AsyncTasqError(
            f"{name} runs in a child process, which holds no lease and can't settle its attempt; "
            "derive from AsyncTask or SyncTask to use complete_in"
        )
    completion = running_completion.get()
    if completion is None or completion.task is not task:
        raise AsyncTasqError(
            f"no attempt of this {name} is running here, so there is nothing to complete; "
            "use complete_in inside its own execute(), on self or on current_task()"
        )
    return completion
