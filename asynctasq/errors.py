"""Every exception of asynctasq; imports nothing of ours, so that any floor may raise them."""

from typing import Protocol

__all__ = [
    "DELAY_S_MAX",
    "AsyncTasqError",
    "BadSignature",
    "BodyTooLarge",
    "CodecError",
    "ConfigError",
    "DispatchError",
    "DriverError",
    "DriverMisconfigured",
    "DriverUnavailable",
    "InvalidQueueName",
    "InvalidTransition",
    "LeaseLost",
    "LifespanError",
    "MissingExtra",
    "ModelNotFoundError",
    "Reject",
    "ResultNotKept",
    "ResultTimeoutError",
    "Retry",
    "Snooze",
    "TaskCancelledError",
    "TaskDefinitionError",
    "TaskExpiredError",
    "TaskFailedError",
    "TaskNotFoundError",
    "TaskSignal",
    "TaskTimeoutError",
    "UndecodableBody",
    "UniqueConflictError",
    "UnknownQueue",
    "UnknownTask",
    "UnserializableValue",
    "UnsupportedFeature",
    "UnsupportedVersion",
    "WorkerCrashedError",
]


CODEC_TEXT_CHARS_MAX = 1_500


class AsyncTasqError(Exception):
    """Base of every error that asynctasq raises."""


class ConfigError(AsyncTasqError):
    """A setting is unknown, wrong or missing."""


class MissingExtra(ConfigError, ImportError):
    """An optional dependency is not installed; the text names the extra to install."""


class TaskDefinitionError(AsyncTasqError, TypeError):
    """A task class or function is defined in a way that can't work."""


class DispatchError(AsyncTasqError):
    """A message was not accepted; nothing was stored."""


class UnknownQueue(DispatchError):
    """The driver has no such queue and may not create it."""


class InvalidQueueName(DispatchError, ValueError):
    """A queue name has characters or a length that no driver accepts."""


class BodyTooLarge(DispatchError):
    """The encoded body exceeds the limit of the codec or of the driver."""


class UniqueConflictError(DispatchError):
    """Another message holds the unique key of a task; nothing of the batch was stored. `task_id` is the holder's."""

    def __init__(self, text: str, *, task_id: str = "") -> None:
        super().__init__(text)
        self.task_id = task_id


class DriverError(AsyncTasqError):
    """The backend refused or could not do an operation."""


class DriverUnavailable(DriverError):
    """The backend can't be reached at the moment; trying again may help."""


class DriverMisconfigured(DriverError):
    """The backend answers, but is not set up for us; trying again will not help."""


class UnsupportedFeature(DriverError):
    """The driver does not claim this capability."""


class CodecError(AsyncTasqError):
    """Bytes can't be decoded, or values can't be encoded.

    The text may name what stands in a body, so of a long one only the beginning and the end are kept.
    """

    def __init__(self, text: object = "") -> None:
        if isinstance(text, str) and len(text) > CODEC_TEXT_CHARS_MAX:
            half = CODEC_TEXT_CHARS_MAX // 2
            text = f"{text[:half]} [...] {text[-half:]}"
        super().__init__(text)


class UnserializableValue(CodecError, TypeError):
    """A value would not be decoded equal and of the same type; the text names its path."""


class UndecodableBody(CodecError):
    """A body was not written by asynctasq, is damaged, or exceeds the limits."""


class UnknownTask(CodecError):
    """A body names a task that is neither registered nor part of the application."""


class BadSignature(CodecError):
    """The signature of a body is missing, wrong, or of a key that is not accepted."""


class UnsupportedVersion(CodecError):
    """A body has a wire format newer than this version reads."""


class ModelNotFoundError(AsyncTasqError, LookupError):
    """A row that a task was dispatched with does not exist: it was deleted, or is not committed yet.

    `model` is the class by name, `key` the primary key. `final` says that the task is not to be tried again.
    """

    def __init__(self, text: str, *, model: str = "", key: tuple[object, ...] = (), final: bool = False) -> None:
        super().__init__(text)
        self.model = model
        self.key = key
        self.final = final


class LeaseLost(AsyncTasqError):
    """The lease of an attempt ran out and another worker may have the message."""


class LifespanError(AsyncTasqError):
    """A lifespan of the application could not be entered, or none of them yields what a task asks for."""


class InvalidTransition(AsyncTasqError):
    """A message's state does not allow this transition: a bug in asynctasq or in a driver."""


class TaskTimeoutError(AsyncTasqError, TimeoutError):
    """An attempt ran longer than the task's `timeout`."""


class TaskExpiredError(AsyncTasqError):
    """A message was given up because no attempt of it could start within `expires` of its dispatch."""


class TaskFailedError(AsyncTasqError):
    """A task whose result was asked for has failed for good: it is a dead letter.

    `type`, `message` and `traceback` are the texts of its last exception, "" if there are none; `attempts` counts its
    executions, `reason` says why it was given up: "failed", "rejected", "crashed", or why it could not run.
    """

    def __init__(
        self,
        task_id: str,
        *,
        type: str,  # noqa: A002 - as the attribute
        message: str,
        traceback: str,
        attempts: int,
        reason: str,
    ) -> None:
        said = f": {type}: {message}" if type else ""
        super().__init__(f"task {task_id} is a dead letter ({reason}, {attempts} attempts counted){said}")
        self.task_id = task_id
        self.type = type
        self.message = message
        self.traceback = traceback
        self.attempts = attempts
        self.reason = reason


class TaskNotFoundError(AsyncTasqError, LookupError):
    """Nothing is stored of a task: it is unknown, was cancelled, or has completed and its result is not kept."""


class TaskCancelledError(TaskNotFoundError):
    """A task was cancelled, so there is no result of it; the store knows of that for an hour."""


class ResultNotKept(AsyncTasqError):
    """The result of a task was asked for that was dispatched without `keep_result`."""


class ResultTimeoutError(AsyncTasqError, TimeoutError):
    """A task had not ended when the time to wait for its result was over. `state` is the one it was in."""

    def __init__(self, text: str, *, state: str = "") -> None:
        super().__init__(text)
        self.state = state


class WorkerCrashedError(AsyncTasqError):
    """A message was given up because the workers that ran it died, `max_crashes` times."""


DELAY_S_MAX = 100 * 366 * 86_400.0
"""The longest duration, a hundred years. A longer one is taken for a mistake, and stores can't hold it."""


class _TimeDelta(Protocol):
    """A `datetime.timedelta`, which this module may not import."""

    def total_seconds(self) -> float: ...


class TaskSignal(Exception):
    """Base of what a task raises to say how its attempt is settled."""


class Retry(TaskSignal):
    """Raise to end the attempt as failed and try again, `after` so long (seconds or timedelta); less than 0 is at once.

    Without `after` the task's `retry_delay` decides. It counts as an attempt; when none remains the message is a dead
    letter.

    Raises: ValueError where it is made, if `after` is no such duration.
    """

    def __init__(self, reason: str = "retry requested", *, after: float | _TimeDelta | None = None) -> None:
        super().__init__(reason)
        self.after_s = None if after is None else _checked_delay_s(after, "Retry(after=...)")


class Snooze(TaskSignal):
    """Raise to run again after `delay` (seconds or timedelta), less than 0 means at once; not counted as an attempt.

    A message that was snoozed before waits a second at least: nothing else would end a loop of them.

    Raises: ValueError where it is made, if `delay` is no such duration.
    """

    def __init__(self, delay: float | _TimeDelta, reason: str = "snoozed") -> None:
        super().__init__(reason)
        self.delay_s = _checked_delay_s(delay, "Snooze(delay)")


class Reject(TaskSignal):
    """Raise to give up at once: no retry, whatever attempts remain."""

    def __init__(self, reason: str = "rejected") -> None:
        super().__init__(reason)


def _checked_delay_s(value: object, what: str) -> float:
    """Return a delay in seconds; the comparison is false for NaN as well."""
    total_seconds = getattr(value, "total_seconds", None)
    number: object = total_seconds() if callable(total_seconds) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not number <= DELAY_S_MAX:
        raise ValueError(f"{what} must be a number of seconds or a timedelta, a hundred years at most, not {value!r}")
    return max(0.0, float(number))
