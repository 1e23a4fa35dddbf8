"""What a dispatch returns: the task's id, a string like any other, that can be asked for result and status."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from asynctasq.errors import ResultNotKept
from asynctasq.tasks.dispatching import Dispatcher, current_dispatcher
from asynctasq.tasks.options import Duration, seconds
from asynctasq.tasks.task_status import TaskStatus

if TYPE_CHECKING:
    from asynctasq.tasks.cancellation import Cancellation

__all__ = ["TaskHandle", "cancel", "cancel_sync", "result", "result_sync", "status", "status_sync"]

T_co = TypeVar("T_co", covariant=True)


class TaskHandle(str, Generic[T_co]):
    """The id of a dispatched task. It is compared, hashed, pickled and encoded as the string that it is.

    It remembers where the task went; its copies and what is unpickled are plain strings.
    """

    __slots__ = ("_dispatcher", "_keeps_result", "_task")

    _dispatcher: Dispatcher[Any]
    _task: Any
    _keeps_result: bool

    def __new__(cls, task_id: str, task: type[Any], dispatcher: Dispatcher[Any], *, keeps_result: bool) -> Self:
        """Return the handle of a message that `dispatcher` has stored for an instance of `task`."""
        self = super().__new__(cls, task_id)
        self._dispatcher, self._task, self._keeps_result = dispatcher, task, keeps_result
        return self

    async def result(self, *, timeout: Duration | None = None) -> T_co:
        """Wait until the task has ended and return what it returned.

        `timeout` is in seconds, or a timedelta; None waits without end, 0 not at all.

        Raises: TaskFailedError if it became a dead letter; ResultTimeoutError, a TimeoutError, that says in which state
        it was; TaskCancelledError if it was cancelled; TaskNotFoundError if its result is not kept any longer;
        ResultNotKept at once for a task without `keep_result`; DriverError.
        """
        self._check_kept()
        value = await self._dispatcher.result(self, task=self._task, timeout_s=timeout_s(timeout))
        return cast("T_co", value)

    def result_sync(self, *, timeout: Duration | None = None) -> T_co:
        """Do `result` from code that has no event loop."""
        self._check_kept()
        limit_s, dispatcher = timeout_s(timeout), self._dispatcher
        value = dispatcher.call_sync(lambda: dispatcher.result(self, task=self._task, timeout_s=limit_s))
        return cast("T_co", value)

    async def status(self) -> TaskStatus:
        """Return what is known of the task now.

        Raises: TaskNotFoundError if it has ended and nothing of it is kept; UnsupportedFeature if the driver can't look
        at its messages; DriverError.
        """
        return await self._dispatcher.status(self, task=self._task)

    def status_sync(self) -> TaskStatus:
        """Do `status` from code that has no event loop."""
        dispatcher = self._dispatcher
        return dispatcher.call_sync(lambda: dispatcher.status(self, task=self._task))

    async def cancel(self) -> "Cancellation":
        """Let the task not run, or not run on; return what it was doing.

        What waits is removed at once. Of what runs the attempt is cancelled as soon as its worker learns of it, and
        whatever comes of it is discarded. A task that has ended is left as it is: `Cancellation.NOTHING`, which is
        false. Repeating it gives the same answer for an hour.

        Raises: UnsupportedFeature if the driver can't; DriverError, after which the task may or may not be cancelled.
        """
        return await self._dispatcher.cancel(self, task=self._task)

    def cancel_sync(self) -> "Cancellation":
        """Do `cancel` from code that has no event loop."""
        dispatcher = self._dispatcher
        return dispatcher.call_sync(lambda: dispatcher.cancel(self, task=self._task))

    def _check_kept(self) -> None:
        if not self._keeps_result:
            name = self._task._task_name  # noqa: SLF001 - as `definition_of` reads it
            raise ResultNotKept(
                f"{name} was dispatched without keep_result, so nothing of what it returns is kept; set keep_result on "
                "the class, or dispatch it .with_options(keep_result=True)"
            )

    def __reduce_ex__(self, protocol: object, /) -> tuple[Callable[[str], str], tuple[str]]:
        return str, (str(self),)


def timeout_s(timeout: Duration | None) -> float | None:
    """Return a time limit in seconds; raise ValueError if it is none."""
    return None if timeout is None else seconds(timeout, "timeout", above_zero=False)


async def result(task_id: str, *, timeout: Duration | None = None, task: Any = None) -> Any:
    """Do `TaskHandle.result` for an id.

    `task` is its class or function; without it the default driver is asked, and the class is the one that the result
    names if it needs one. Of a task without `keep_result` that has ended, nothing is known: TaskNotFoundError.

    Raises: what `TaskHandle.result` raises; UnknownTask if the result is of a class that is not imported here.
    """
    return await current_dispatcher().result(task_id, task=class_of(task), timeout_s=timeout_s(timeout))


def result_sync(task_id: str, *, timeout: Duration | None = None, task: Any = None) -> Any:
    """Do `result` from code that has no event loop."""
    dispatcher, limit_s = current_dispatcher(), timeout_s(timeout)
    return dispatcher.call_sync(lambda: dispatcher.result(task_id, task=class_of(task), timeout_s=limit_s))


async def status(task_id: str, *, task: Any = None) -> TaskStatus:
    """Do `TaskHandle.status` for an id; `task` as in `result`."""
    return await current_dispatcher().status(task_id, task=class_of(task))


def status_sync(task_id: str, *, task: Any = None) -> TaskStatus:
    """Do `status` from code that has no event loop."""
    dispatcher = current_dispatcher()
    return dispatcher.call_sync(lambda: dispatcher.status(task_id, task=class_of(task)))


async def cancel(task_id: str, *, task: Any = None) -> "Cancellation":
    """Do `TaskHandle.cancel` for an id; `task` as in `result`.

    Raises: TypeError for an id that is no str.
    """
    return await current_dispatcher().cancel(_checked_id(task_id), task=class_of(task))


def cancel_sync(task_id: str, *, task: Any = None) -> "Cancellation":
    """Do `cancel` from code that has no event loop."""
    dispatcher, checked = current_dispatcher(), _checked_id(task_id)
    return dispatcher.call_sync(lambda: dispatcher.cancel(checked, task=class_of(task)))


def _checked_id(task_id: str) -> str:
    if not isinstance(task_id, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users' input
        raise TypeError(f"cancel() takes the id of a task, a str as dispatch() returned it, not {task_id!r}")
    return task_id


def class_of(task: Any) -> Any:
    """Return the class of a task that is given as class or as `@task` function."""
    return getattr(task, "task_class", task)
