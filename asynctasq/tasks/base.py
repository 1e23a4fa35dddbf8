"""The four classes that users derive from: what a task is, says of itself, and can be asked to do."""

from collections.abc import Awaitable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import replace
from datetime import datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, cast, dataclass_transform, final

from asynctasq.drivers.base import Driver
from asynctasq.errors import DispatchError, TaskDefinitionError
from asynctasq.kernel.messages import check_queue_name, checked_progress
from asynctasq.kernel.retry import Exponential, Fixed
from asynctasq.tasks.class_checks import (
    check_driver_override,
    check_execute,
    check_fair_key,
    check_limits,
    check_overrides,
    check_parameters,
    check_schedules,
    check_settings,
    check_validate,
    has_execute,
)
from asynctasq.tasks.completing import completing, completing_sync, running_completion
from asynctasq.tasks.dispatching import current_dispatcher
from asynctasq.tasks.handle import TaskHandle
from asynctasq.tasks.metadata import TaskMetadata
from asynctasq.tasks.mistaken_calls import NOTHING, not_awaitable
from asynctasq.tasks.mode import Mode
from asynctasq.tasks.options import (
    SETTINGS,
    Duration,
    ExceptionTypes,
    FairKey,
    Missing,
    Options,
    Priority,
    RetryStrategy,
    changed_options,
    class_options,
    instant,
    seconds,
)
from asynctasq.tasks.registry import register, task_name
from asynctasq.tasks.signatures import Signature, field_names, signature_of, signature_of_fields

if TYPE_CHECKING:
    from uuid import UUID

    from asynctasq.tasks.limits import Limit
    from asynctasq.tasks.schedules import Schedule
    from asynctasq.tasks.unique import Unique
else:  # imported when they are used, so that `import asynctasq` stays fast
    Limit = Schedule = Unique = UUID = object

__all__ = [
    "RESERVED",
    "AsyncProcessTask",
    "AsyncTask",
    "BaseTask",
    "SyncProcessTask",
    "SyncTask",
    "Task",
]

T_co = TypeVar("T_co", covariant=True)

_settings = attrgetter(*SETTINGS)


@dataclass_transform(kw_only_default=True)
class BaseTask(TaskMetadata, Generic[T_co]):
    """What the four kinds of task share. Derive from one of them, not from this.

    A class without a constructor has one that takes its annotated fields by name, as type checkers see it, too.
    """

    queue: ClassVar[str] = "default"
    max_attempts: ClassVar[int] = 3
    """Executions at most, the first included. 0 and 1 both mean: run once."""
    retry_delay: ClassVar[Duration | Sequence[Duration]] = 60
    """Seconds (or timedelta) before a retry, or one delay per retry."""
    retry_strategy: ClassVar[RetryStrategy] = "fixed"
    retry_delay_max: ClassVar[Duration] = 3600
    """The cap of the exponential strategy."""
    timeout: ClassVar[Duration | None] = None
    """Seconds that one attempt may execute, more than 0; None for no limit."""
    expires: ClassVar[Duration | None] = None
    """How long after its dispatch an attempt may still start, more than 0 seconds; None for ever."""
    max_crashes: ClassVar[int] = 3
    """After how many crashes of its worker or child the message is given up."""
    keep_result: ClassVar[bool | Duration] = False
    """Keep what `execute` returns: True for a day, or for how long."""
    missing: ClassVar[Missing] = "retry"
    """When a model it was dispatched with is not in the database: "retry" as any failure, "fail" at once, or "none"
    to run with None in its place."""
    priority: ClassVar[Priority] = "normal"
    """Which messages of a queue run first: those of level "high", then "normal", then "low"."""
    fair_key: ClassVar[FairKey | None] = None
    """Whose work it is: the name of an argument or attribute, or a function of the task. Keys of a queue take turns."""
    retry_on: ClassVar[ExceptionTypes | None] = None
    """Retry a failure only if it is one of these; None for any. `should_retry` is asked about these alone."""
    give_up_on: ClassVar[ExceptionTypes | None] = None
    """Never retry a failure that is one of these, whatever `retry_on` says; `should_retry` is not asked."""
    unique: ClassVar[Unique | bool] = False
    """Of dispatches with one key store one at a time: a `Unique`, or True for the key of its arguments."""
    validate: ClassVar[bool] = False
    """Check the arguments against their annotations with pydantic, at the dispatch and before the task is built."""
    _driver_override: ClassVar[str | Driver | None] = None
    schedule: ClassVar[Schedule | Sequence[Schedule]]
    """When workers run it by themselves; of the class's own body only, a subclass inherits none."""
    limits: ClassVar[Sequence[Limit]] = ()
    """How many attempts there may be at once, or start in a time, across all workers."""

    _mode: ClassVar[Mode] = Mode.LOOP
    _task_name: ClassVar[str] = ""
    _options_of_class: ClassVar[Options]
    _settings_read: ClassVar[tuple[object, ...]]
    _definition: ClassVar[object] = None
    """Where `definition_of` keeps what it has made of the class."""
    _runnable: ClassVar[bool] = False

    _arguments_given: tuple[tuple[object, ...], dict[str, object]]
    _options: Options

    _arguments_become_attributes: ClassVar[bool] = True
    _has_constructor: ClassVar[bool] = False
    _signature_of_fields: ClassVar[Signature | None] = None
    _transformed: ClassVar[set[str]]
    """The arguments that the constructor is known not to keep as they are."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._task_name = task_name(cls.__module__, cls.__qualname__)
        if cls.__module__ == __name__:  # the four kinds themselves
            return
        cls._has_constructor = cls.__init__ is not cast("Any", BaseTask).__init__
        cls._signature_of_fields = None
        cls._transformed = set()
        cls._runnable = has_execute(cls, KINDS)
        check_overrides(cls, BaseTask)
        check_driver_override(cls, cls._driver_override)
        check_validate(cls, cls.validate)
        check_execute(cls, cls._mode)
        check_settings(cls, BaseTask)
        if cls._has_constructor and cls._arguments_become_attributes:
            check_parameters(cls, cls._signature().names, RESERVED)
        elif not cls._has_constructor:
            check_parameters(cls, field_names(cls, _is_ours), RESERVED.difference(SETTINGS))
        cls._read_settings()
        if isinstance(cls.fair_key, str):
            check_fair_key(cls, cls._signature().names, of_function=not cls._arguments_become_attributes)
        check_schedules(cls)
        if cls.limits:
            check_limits(cls, cls._signature().names, of_function=not cls._arguments_become_attributes)
        register(cls._task_name, cls)

    def __new__(cls, /, *args: Any, **kwargs: Any) -> Self:
        if not cls._runnable:
            kind = "async def" if cls._mode.is_async else "def"
            raise TaskDefinitionError(f"{cls.__qualname__} has no execute(); add `{kind} execute(self)`")
        self = super().__new__(cls)
        self._arguments_given = (args, kwargs)
        return self

    def __init__(self, /, **kwargs: Any) -> None:
        """Take the arguments that no constructor of a subclass took: they become attributes.

        Raises: TypeError for names that the class or its constructor does not declare, for fields without a value, and
        for names that would hide the API or, in a class without fields, what the class itself has.
        """
        cls = type(self)
        if not cls._has_constructor:
            cls._signature().check(kwargs)
        elif kwargs:
            takes = ", ".join(cls._signature().names)
            raise TypeError(f"{cls.__qualname__}({takes}) got unexpected arguments: {', '.join(kwargs)}")
        for name, value in kwargs.items():
            setattr(self, name, value)
        self._options = cls._options_now()

    # -- chaining ---------------------------------------------------------------------------------

    @final
    def on_queue(self, name: str) -> Self:
        """Send this task to another queue than its class says."""
        return self._change(queue=check_queue_name(name))

    @final
    def delay(self, delay: Duration) -> Self:
        """Run it no sooner than `delay` (seconds or timedelta, 0 or more) after the dispatch."""
        return self._change(delay_s=seconds(delay, "delay", above_zero=False), at=None)

    @final
    def at(self, when: datetime) -> Self:
        """Run it no sooner than `when`, which must have a time zone; what has passed at the dispatch means now."""
        return self._change(at=instant(when, "at"), delay_s=0.0)

    @final
    def retry_after(self, delay: Duration) -> Self:
        """Wait `delay` (seconds or timedelta, 0 or more) before a retry; an exponential strategy starts from it."""
        delay_s = seconds(delay, "retry_after", above_zero=False)
        retry = self._current_options().retry
        changed = replace(retry, base_s=delay_s) if isinstance(retry, Exponential) else Fixed(delay_s=delay_s)
        return self._change(retry=changed)

    @final
    def with_options(  # noqa: PLR0913 - one keyword per setting
        self,
        *,
        max_attempts: int | None = None,
        timeout: Duration | None = None,
        expires: Duration | None = None,
        max_crashes: int | None = None,
        keep_result: bool | Duration | None = None,
        missing: Missing | None = None,
        priority: Priority | None = None,
        fair_key: FairKey | None = None,
        task_id: str | UUID | None = None,
        unique: "Unique | bool | None" = None,
    ) -> Self:
        """Override what has no chain method of its own; None leaves a setting as it is.

        `task_id` is the idempotency key: while a message with it lives, dispatching again stores nothing, whatever
        `unique` says.
        """
        changes = changed_options(
            max_attempts=max_attempts,
            timeout=timeout,
            expires=expires,
            max_crashes=max_crashes,
            keep_result=keep_result,
            missing=missing,
            priority=priority,
            fair_key=fair_key,
            task_id=task_id,
        )
        if unique is not None:
            changes["unique"] = _unique_setting(unique)
        return self._change(**changes)

    # -- dispatching ------------------------------------------------------------------------------

    @final
    async def dispatch(self, *, connection: Any = None) -> TaskHandle[T_co]:
        """Store one message that runs this task; return its id, a UUID string that can be asked for the result.

        Each call stores a new message. With `connection` it is part of that connection's transaction.

        Raises: UnserializableValue, BodyTooLarge, DriverError; nothing was stored then.
        """
        dispatcher = current_dispatcher()
        [task_id] = await dispatcher.dispatch([self], connection=connection)
        return TaskHandle(task_id, type(self), dispatcher, keeps_result=self._options.keep_result_s is not None)

    @final
    def dispatch_sync(self, *, connection: Any = None) -> TaskHandle[T_co]:
        """Do `dispatch` from code that has no event loop.

        Raises: RuntimeError inside a running event loop, where it would block it.
        """
        dispatcher = current_dispatcher()
        [task_id] = dispatcher.dispatch_sync([self], connection=connection)
        return TaskHandle(task_id, type(self), dispatcher, keeps_result=self._options.keep_result_s is not None)

    # -- completing inside a transaction ----------------------------------------------------------

    @final
    def complete_in(self, connection: Any, *, result: object = None) -> AbstractAsyncContextManager[None]:
        """Settle the running attempt at the end of the block, as part of the transaction open on `connection`.

        Commit makes the block's writes and the completion durable together, rollback neither. The lease is not
        renewed from the end of the block on, so commit soon. With `keep_result`, `result` is what is kept.

        Raises: LeaseLost if another worker may have the message; UnsupportedFeature if the driver can't, or the
        connection is to another database; AsyncTasqError outside of the attempt, in a child process, or when the
        attempt was completed before.
        """
        return completing(self, connection, result, in_process=self._mode.in_process)

    @final
    def complete_in_sync(self, connection: Any, *, result: object = None) -> AbstractContextManager[None]:
        """Do `complete_in` for a connection that is used from synchronous code."""
        return completing_sync(self, connection, result, in_process=self._mode.in_process)

    @final
    def report_progress(self, done: float, total: float, text: str = "") -> Awaitable[None]:
        """Say how far this execution is, for `status`; with or without `await`. Without effect in a child process.

        The latest report is stored, about once a second. That it can't be is logged, and no error of the task.

        Raises: ValueError unless `done` is from 0 to `total`, or if `text` has more than 200 characters.
        """
        progress, running = checked_progress(done, total, text), running_completion.get()
        if running is not None and running.task is self:
            running.report(progress)
        return NOTHING

    if not TYPE_CHECKING:  # to type checkers a task is not awaitable

        def __await__(self) -> None:
            raise not_awaitable(self)

    # -- hooks ------------------------------------------------------------------------------------

    def failed(self, exception: Exception) -> Any:  # noqa: ARG002 - a hook
        """React to the final failure, before the dead letter is written; override as `def` or `async def`."""
        return NOTHING

    def should_retry(self, exception: Exception) -> bool | Awaitable[bool]:  # noqa: ARG002 - a hook
        """Say whether `exception` deserves another attempt; asked only while attempts remain.

        Override as `def` or `async def`.
        """
        return True

    def cancelled(self) -> Any:
        """React to having been cancelled while an attempt was running; override as `def` or `async def`.

        It is called once the attempt has ended, at most once, and not at all if its worker dies first.
        """
        return NOTHING

    # -- for the dispatcher and the worker --------------------------------------------------------

    @classmethod
    def _options_now(cls) -> Options:
        """Return the settings that the class has now: a test, or the application's own set-up, may assign others."""
        if cls._settings_read != _settings(cls):
            cls._read_settings()
        return cls._options_of_class

    @classmethod
    def _read_settings(cls) -> None:
        try:
            options = class_options(cls)
            cls._options_of_class = (
                options if cls.unique is False else replace(options, unique=_unique_setting(cls.unique))
            )
        except ValueError as error:
            raise TaskDefinitionError(f"{cls.__qualname__}: {error}") from error
        cls._settings_read = _settings(cls)

    def _change(self, **changes: Any) -> Self:
        self._options = replace(self._current_options(), **changes)
        return self

    def _current_options(self) -> Options:
        try:
            return self._options
        except AttributeError:
            raise DispatchError(
                f"{type(self).__qualname__}.__init__ did not call super().__init__(**kwargs); add that line"
            ) from None

    @classmethod
    def _return_annotation(cls) -> object:
        execute = getattr(cls, "execute", None)
        return None if execute is None else signature_of(execute, bound=True).annotations.get("return")

    @classmethod
    def _signature(cls) -> Signature:
        if cls._has_constructor:
            return signature_of(cls.__init__, bound=True)
        if cls._signature_of_fields is None:
            cls._signature_of_fields = signature_of_fields(cls, _is_ours, RESERVED)
        return cls._signature_of_fields


class AsyncTask(BaseTask[T_co]):
    """A task whose `async def execute(self)` runs in the worker's event loop."""

    _mode = Mode.LOOP

    async def execute(self) -> T_co:
        """Do the work; what it returns is the result."""
        raise NotImplementedError


class SyncTask(BaseTask[T_co]):
    """A task whose `def execute(self)` runs in a thread of the worker."""

    _mode = Mode.THREAD

    def execute(self) -> T_co:
        """Do the work; what it returns is the result."""
        raise NotImplementedError


class AsyncProcessTask(BaseTask[T_co]):
    """A task whose `async def execute(self)` runs in the event loop of a child process."""

    _mode = Mode.ASYNC_PROCESS

    async def execute(self) -> T_co:
        """Do the work; what it returns is the result and must be serializable."""
        raise NotImplementedError


class SyncProcessTask(BaseTask[T_co]):
    """A task whose `def execute(self)` runs in a child process."""

    _mode = Mode.SYNC_PROCESS

    def execute(self) -> T_co:
        """Do the work; what it returns is the result and must be serializable."""
        raise NotImplementedError


Task = AsyncTask

KINDS: tuple[type[BaseTask[Any]], ...] = (AsyncTask, SyncTask, AsyncProcessTask, SyncProcessTask)
RESERVED = frozenset(name for kind in KINDS for name in dir(kind) if not name.startswith("_"))
"""Names that a constructor parameter or an instance attribute may not have."""


def _is_ours(cls: type[object]) -> bool:
    return cls is BaseTask or cls in KINDS


def _unique_setting(value: object) -> "Unique | None":
    from asynctasq.tasks.unique import unique_setting  # few tasks are unique

    return unique_setting(value)
