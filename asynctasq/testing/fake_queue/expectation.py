"""What an assertion looks for among the dispatches, how far one is from it, and in which words."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

from asynctasq.codec.arguments import unpack_arguments
from asynctasq.codec.envelope import decode_envelope
from asynctasq.codec.orm.references import with_references
from asynctasq.kernel.messages import Message
from asynctasq.kernel.priority import NORMAL, Priority
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.definition import definition_of
from asynctasq.testing.fake_queue.wording import contrast, short

__all__ = ["Dispatched", "Expectation"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Dispatched:
    """One recorded dispatch. `at_s` is in virtual seconds since the queue was opened.

    `task` is `BaseTask` itself for a message that was stored by the driver's own `enqueue` and names no task.
    """

    task: type[BaseTask[Any]]
    message: Message
    at_s: float

    @property
    def task_id(self) -> str:
        """The id of its message."""
        return self.message.id

    @property
    def queue(self) -> str:
        """The queue it went to."""
        return self.message.queue

    @property
    def delay_s(self) -> float:
        """Seconds from the dispatch to the first attempt, at the earliest."""
        return self.message.delay_s

    @property
    def priority(self) -> Priority:
        """The level it was dispatched with."""
        return self.message.priority

    @property
    def fair_key(self) -> str:
        """The fair key it was dispatched with, "" for none."""
        return self.message.fair_key

    @property
    def size(self) -> int:
        """The bytes that a backend would store and send."""
        return self.message.size

    @property
    def headers(self) -> Mapping[str, str]:
        """What middleware put into the headers of its message."""
        return decode_envelope(self.message.body).headers

    @cached_property
    def arguments(self) -> Mapping[str, object]:
        """The constructor's arguments as they came through the codec, defaults filled in; decoded when first asked for.

        Models are `ModelReference`s.
        """
        if self.task is BaseTask:
            return {}
        envelope, signature = decode_envelope(self.message.body), definition_of(self.task).signature
        return _with_defaults(self.task, unpack_arguments(envelope.arguments, signature.annotations))

    def __str__(self) -> str:
        delay = f" delay={self.delay_s:g}s" if self.delay_s else ""
        what = f"{self.task.__qualname__}({_listed(self.arguments)})"
        if self.task is BaseTask:
            what = f"a message of no known task, {self.size} bytes,"
        level = "" if self.priority == NORMAL else f" priority={self.priority}"
        key = f" fair_key={self.fair_key}" if self.fair_key else ""
        return f"{what} on queue {self.queue!r}{delay}{level}{key}"

    def __repr__(self) -> str:
        return f"<Dispatched {self}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What an assertion looks for; None means: whatever."""

    task: type[BaseTask[Any]] | None = None
    arguments: Mapping[str, object]
    on_queue: str | None = None
    delay: float | timedelta | None = None
    where: Callable[[Dispatched], bool] | None = None

    def __post_init__(self) -> None:
        if inspect.iscoroutinefunction(self.where):
            raise _awaitable_predicate(self.where)

    def differences(self, record: Dispatched) -> list[str]:
        """Return the names of what does not fit; "task" first."""
        found: list[str] = []
        if self.task is not None and not issubclass(record.task, self.task):
            found.append("task")
        for name, wanted in self.arguments.items():
            if name not in record.arguments or not _fits(wanted, record.arguments[name]):
                found.append(name)
        if self.on_queue is not None and self.on_queue != record.queue:
            found.append("queue")
        if self.delay is not None and abs(_seconds(self.delay) - record.delay_s) > 1e-6:
            found.append("delay")
        if not found and self.where is not None and not self._holds(self.where, record):
            found.append("where")
        return found

    def _holds(self, where: Callable[[Dispatched], bool], record: Dispatched) -> bool:
        answer: object = where(record)
        if inspect.iscoroutine(answer):
            answer.close()  # else Python warns that it was never awaited
        if inspect.isawaitable(answer):
            raise _awaitable_predicate(where)
        return bool(answer)

    def contrasts(self, record: Dispatched) -> list[str]:
        """Say of each difference what was wanted and what it was; nothing where it is another task altogether."""
        differs = self.differences(record)
        if "task" in differs:
            return []
        said = [
            f"{name}: {contrast(with_references(self.arguments[name]), record.arguments[name])}"
            if name in record.arguments
            else f"{name}: wanted {short(with_references(self.arguments[name]))}, was not given"
            for name in self.arguments
            if name in differs
        ]
        if self.on_queue is not None and self.on_queue != record.queue:
            said.append(f"queue: {contrast(self.on_queue, record.queue)}")
        if self.delay is not None and "delay" in differs:
            said.append(f"delay: wanted {_seconds(self.delay):g}s, was {record.delay_s:g}s")
        return said

    def __str__(self) -> str:
        arguments = _listed(self.arguments)
        if self.task is None:
            parts = [f"task with {arguments}" if arguments else "task"]
        else:
            parts = [f"{self.task.__qualname__}({arguments})"]
        if self.on_queue is not None:
            parts.append(f"on queue {self.on_queue!r}")
        if self.delay is not None:
            parts.append(f"delay={_seconds(self.delay):g}s")
        if self.where is not None:
            parts.append(f"where {_name_of(self.where)} holds")
        return " ".join(parts)


def _awaitable_predicate(where: object) -> TypeError:
    return TypeError(
        f"where={_name_of(where)} returns an awaitable, which is never false; give a plain function that returns a bool"
    )


def _name_of(where: object) -> str:
    return str(getattr(where, "__name__", "the predicate"))


def _listed(arguments: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={short(with_references(value))}" for name, value in arguments.items())


def _fits(wanted: object, found: object) -> bool:
    """Say whether an argument is what was wanted; a model fits the reference to it."""
    return bool(wanted == found) or bool(with_references(wanted) == found)


def _seconds(value: float | timedelta) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def _with_defaults(task: type[BaseTask[Any]], arguments: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments with the constructor's defaults filled in, in the constructor's order."""
    signature = definition_of(task).signature
    args, kwargs = signature.unbind(arguments)
    bound = signature.inspected.bind(*args, **kwargs)
    bound.apply_defaults()
    filled = dict(bound.arguments)
    for name, parameter in signature.inspected.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            filled.update(filled.pop(name, {}))
    return filled
