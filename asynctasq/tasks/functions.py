"""Functions as tasks: `@task` makes a task class whose arguments are the function's own."""
# pyright: reportPrivateUsage=false
# The functions below are methods of the class that is made here.

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from asynctasq.drivers.base import Driver
from asynctasq.errors import TaskDefinitionError
from asynctasq.tasks.base import RESERVED, AsyncProcessTask, AsyncTask, BaseTask, SyncProcessTask, SyncTask
from asynctasq.tasks.handle import TaskHandle
from asynctasq.tasks.mistaken_calls import no_attribute
from asynctasq.tasks.options import (
    SETTINGS,
    Duration,
    ExceptionTypes,
    FairKey,
    Missing,
    Priority,
    RetryStrategy,
    nearest_setting,
)
from asynctasq.tasks.signatures import Signature, signature_of

if TYPE_CHECKING:
    from asynctasq.tasks.limits import Limit
    from asynctasq.tasks.schedules import Schedule
    from asynctasq.tasks.unique import Unique

__all__ = ["TaskFunction", "task"]

P = ParamSpec("P")
R = TypeVar("R")

_BASES: dict[tuple[bool, bool], type[BaseTask[Any]]] = {
    (True, False): AsyncTask,
    (False, False): SyncTask,
    (True, True): AsyncProcessTask,
    (False, True): SyncProcessTask,
}
"""(is async, in a process) -> the class to derive from."""


class TaskFunction(Generic[P, R]):
    """A function that can be dispatched: calling it builds a task, checked against its signature.

    `function` is what was decorated; `task_class` the class that runs it.
    """

    def __init__(self, function: Callable[..., Any], settings: Mapping[str, object], *, process: bool) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.task_class = _task_class(function, settings, process=process)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> BaseTask[R]:
        """Build a task with these arguments; dispatch it with `.dispatch()`.

        Raises: TypeError if they do not fit the function's signature.
        """
        return cast("BaseTask[R]", self.task_class(*args, **kwargs))

    async def dispatch(self, /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]:
        """Build and dispatch in one call; return the id."""
        return await self(*args, **kwargs).dispatch()

    def dispatch_sync(self, /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]:
        """Do `dispatch` from code that has no event loop."""
        return self(*args, **kwargs).dispatch_sync()

    if not TYPE_CHECKING:  # to type checkers it has no other attributes

        def __getattr__(self, name: str) -> None:
            function = self.__dict__.get("__qualname__", "?")
            raise no_attribute(function, name, of_task=name in RESERVED)


class _Decorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> TaskFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> TaskFunction[P, R]: ...


@overload
def task(function: Callable[P, Coroutine[Any, Any, R]], /) -> TaskFunction[P, R]: ...
@overload
def task(function: Callable[P, R], /) -> TaskFunction[P, R]: ...
@overload
def task(
    *,
    queue: str = ...,
    max_attempts: int = ...,
    retry_delay: Duration | Sequence[Duration] = ...,
    retry_strategy: RetryStrategy = ...,
    retry_delay_max: Duration = ...,
    timeout: Duration | None = ...,
    expires: Duration | None = ...,
    max_crashes: int = ...,
    keep_result: bool | Duration = ...,
    missing: Missing = ...,
    priority: Priority = ...,
    fair_key: FairKey | None = ...,
    retry_on: ExceptionTypes | None = ...,
    give_up_on: ExceptionTypes | None = ...,
    unique: "Unique | bool" = ...,
    validate: bool = ...,
    driver: str | Driver | None = ...,
    process: bool = ...,
    schedule: "Schedule | Sequence[Schedule]" = ...,
    limits: "Sequence[Limit]" = ...,
) -> _Decorator: ...
def task(function: Callable[..., Any] | None = None, /, *, process: bool = False, **settings: Any) -> Any:
    """Make a function a task: `@task`, or `@task(queue="emails", process=True)`.

    `async def` runs in the worker's event loop, `def` in a thread; with `process`, in a child process.
    The other settings are the class attributes of the same names; `driver` is `_driver_override`.

    Raises: TaskDefinitionError for a setting that could not work.
    """
    unknown = settings.keys() - _SETTINGS
    if unknown:
        nearest = ", ".join(repr(name) for name in map(nearest_setting, sorted(unknown)) if name)
        hint = f"; did you mean {nearest}?" if nearest else ""
        raise TaskDefinitionError(
            f"@task has no setting {', '.join(sorted(unknown))}; known: {', '.join(_SETTINGS)}{hint}"
        )

    def decorate(decorated: Callable[..., Any]) -> TaskFunction[..., Any]:
        return TaskFunction(decorated, settings, process=process)

    return decorate if function is None else decorate(function)


_SETTINGS = ("driver", "validate", "schedule", "limits", *SETTINGS)


def _task_class(function: Callable[..., Any], settings: Mapping[str, object], *, process: bool) -> type[BaseTask[Any]]:
    if not inspect.isfunction(function):
        raise TaskDefinitionError(f"@task decorates functions; for {function!r} derive from AsyncTask or SyncTask")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TaskDefinitionError(f"@task function {function.__qualname__} yields; a task must return")
    is_async = inspect.iscoroutinefunction(function)
    signature = signature_of(function, bound=False)

    def initialise(self: BaseTask[Any], /, *args: Any, **kwargs: Any) -> None:
        if not signature.plain:
            signature.bind(args, kwargs)
        elif args or not signature.fits(kwargs):
            signature.inspected.bind(*args, **kwargs)
        self._options = self._options_now()

    def execute(self: BaseTask[Any]) -> Any:
        args, kwargs = self._arguments_given
        return function(*args, **kwargs)

    async def execute_async(self: BaseTask[Any]) -> Any:
        args, kwargs = self._arguments_given
        return await function(*args, **kwargs)

    def signature_of_function() -> Signature:
        return signature

    def return_annotation() -> object:
        return signature.annotations.get("return")

    namespace: dict[str, object] = {
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "__doc__": function.__doc__,
        "__init__": initialise,
        "execute": execute_async if is_async else execute,
        "_arguments_become_attributes": False,
        "_signature": staticmethod(signature_of_function),
        "_return_annotation": staticmethod(return_annotation),
        **{("_driver_override" if name == "driver" else name): value for name, value in settings.items()},
    }
    return type(function.__name__, (_BASES[is_async, process],), namespace)
