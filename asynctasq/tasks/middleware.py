"""What an application wraps around each dispatch and each attempt; this floor defines it, the next one calls it."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from asynctasq.tasks.base import BaseTask

__all__ = ["AttemptContext", "DispatchContext", "Middleware", "around_dispatch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchContext:
    """One dispatch: the task as it was built, where it goes, and the headers that travel with it.

    `headers` is for middleware to fill: texts by name, in all 64 of 16,384 characters at most. They are part of the
    message: the same in every attempt. `task_id` is the id that the message will have.
    """

    task: BaseTask[Any]
    task_id: str
    queue: str
    headers: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptContext:
    """One attempt in a worker: which task, which message, and the headers of its dispatch.

    `task` is None for a task of a child process, which builds it there. `attempt` counts from 1.
    """

    task_class: type[BaseTask[Any]]
    task: BaseTask[Any] | None
    task_id: str
    queue: str
    attempt: int
    headers: Mapping[str, str]


class Middleware:
    """Base of what is wrapped around dispatches and attempts: override one of the methods, or both.

    The first of a list is the outermost. One object serves all dispatches and attempts of its process at once, so
    what belongs to one of them goes into local or context variables.
    """

    def dispatching(self, context: DispatchContext) -> AbstractContextManager[None]:  # noqa: ARG002 - for overriding
        """Return what encoding and storing happen in; it may set headers, or raise to refuse the dispatch.

        It sees the error of a dispatch that fails. Not raising it again changes nothing: the caller gets it.
        """
        return nullcontext()

    def attempting(self, context: AttemptContext) -> AbstractAsyncContextManager[None]:  # noqa: ARG002 - for overriding
        """Return what `execute` runs in.

        It sees what `execute` raises, a cancellation included. Not raising it again changes nothing: the attempt ends
        as the task did. An exception of its own takes the place of the task's, and makes an attempt that returned a
        failed one.
        """
        return nullcontext()


@contextmanager
def around_dispatch(middleware: Sequence[Middleware], contexts: Sequence[DispatchContext]) -> Generator[None]:
    """Enter what each of `middleware` returns for each dispatch, outermost first; leave in reverse."""
    with ExitStack() as stack:
        for context in contexts:
            for each in middleware:
                scope = each.dispatching(context)
                scope.__enter__()
                stack.push(_Leave(scope))
        yield


@dataclass(frozen=True, slots=True)
class _Leave:
    """Leaves a context manager that may not swallow an error: a message that is not stored has no id to return."""

    scope: AbstractContextManager[None]

    def __call__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.scope.__exit__(kind, error, trace)
        return False
