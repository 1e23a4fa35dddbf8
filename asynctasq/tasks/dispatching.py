"""How a task reaches a queue: the `Dispatcher` port. This floor never imports the one that implements it."""

import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from asynctasq.errors import DispatchError
from asynctasq.tasks.task_status import TaskStatus

if TYPE_CHECKING:
    from asynctasq.tasks.cancellation import Cancellation

__all__ = ["Dispatcher", "current_dispatcher", "set_default_dispatcher", "set_outside_fakes"]

T = TypeVar("T")
Task_contra = TypeVar("Task_contra", contravariant=True)


class Dispatcher(Protocol[Task_contra]):
    """What turns tasks into stored messages, and knows what became of them."""

    async def dispatch(self, tasks: Sequence[Task_contra], *, connection: Any = None) -> list[str]:
        """Store one message per task, in one round trip per driver; return their ids in order."""
        ...

    def dispatch_sync(self, tasks: Sequence[Task_contra], *, connection: Any = None) -> list[str]:
        """Do `dispatch` from code that has no event loop."""
        ...

    async def result(self, task_id: str, *, task: Any, timeout_s: float | None) -> Any:
        """Wait for the end of a task and return what it returned; `task` is its class, None if that is not known."""
        ...

    async def status(self, task_id: str, *, task: Any) -> TaskStatus:
        """Return what is known of a task."""
        ...

    async def cancel(self, task_id: str, *, task: Any) -> "Cancellation":
        """Cancel a task, and return what it was doing."""
        ...

    def call_sync(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a call of this dispatcher from code that has no event loop."""
        ...


scoped_dispatcher: ContextVar[Dispatcher[Any] | None] = ContextVar("asynctasq_dispatcher", default=None)
"""A dispatcher for this context alone (FakeQueue); None outside."""

_faking: Counter[int] = Counter()
"""The threads in which a fake is open, and how many."""
_faking_lock = threading.Lock()

_default: Callable[[], Dispatcher[Any]] | None = None


_outside_fakes: Callable[[], Dispatcher[Any] | None] | None = None


def set_outside_fakes(
    provide: Callable[[], Dispatcher[Any] | None] | None,
) -> Callable[[], Dispatcher[Any] | None] | None:
    """Say what a dispatch without a scoped dispatcher gets in place of the default, and return what said so before.

    `provide` returns None for the default, and may raise: a test tool refuses dispatches that nobody expects.
    """
    global _outside_fakes
    before, _outside_fakes = _outside_fakes, provide
    return before


def set_default_dispatcher(provide: Callable[[], Dispatcher[Any]] | None) -> None:
    """Say where dispatches go when no scoped dispatcher is active."""
    global _default  # noqa: PLW0603 - the application's one default
    _default = provide


def current_dispatcher() -> Dispatcher[Any]:
    """Return the dispatcher of this context, or the application's default.

    Raises: DispatchError in a thread that knows nothing of a FakeQueue that is open in another one.
    """
    scoped = scoped_dispatcher.get()
    if scoped is not None:
        return scoped
    if _faking and threading.get_ident() not in _faking:
        raise DispatchError(
            "a FakeQueue is open, but not in this thread, and this dispatch would reach the real queue; start the "
            "thread in the test's context: threading.Thread(target=contextvars.copy_context().run, args=(function,))"
        )
    return (_outside_fakes and _outside_fakes()) or default_dispatcher()


def default_dispatcher() -> Dispatcher[Any]:
    """Return the application's own dispatcher, whatever this context has."""
    if _default is None:
        raise DispatchError("no queue is set up; import asynctasq (the package) before dispatching")
    return _default()


def fake_opened(thread_id: int) -> None:
    """Note that a fake is open in this thread: others must not dispatch past it without a word."""
    with _faking_lock:
        _faking[thread_id] += 1


def fake_closed(thread_id: int) -> None:
    """Note that one of the fakes of this thread was closed."""
    with _faking_lock:
        _faking[thread_id] -= 1
        if not _faking[thread_id]:
            del _faking[thread_id]
