"""What was dispatched, and assertions over it whose failures show what was dispatched instead."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

from asynctasq.codec.arguments import unpack_arguments
from asynctasq.codec.envelope import decode_envelope
from asynctasq.codec.references import with_references
from asynctasq.kernel.messages import Message
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.definition import definition_of
from asynctasq.tasks.functions import TaskFunction

__all__ = ["Captured", "Dispatched", "Recording", "TaskReference", "task_class_of"]

TaskReference = type[BaseTask[Any]] | TaskFunction[..., Any]
"""A task as tests name it: the class, or the decorated function."""

SHOWN_MAX = 8


@dataclass(frozen=True, kw_only=True)
class Dispatched:
    """One recorded dispatch. `at_s` is in virtual seconds since the FakeQueue was opened."""

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
    def size(self) -> int:
        """The bytes that a backend would store and send."""
        return self.message.size

    @cached_property
    def arguments(self) -> Mapping[str, object]:
        """The constructor's arguments as they came through the codec, defaults filled in; decoded when first asked for.

        Models are `ModelReference`s.
        """
        envelope, signature = decode_envelope(self.message.body), definition_of(self.task).signature
        return _with_defaults(self.task, unpack_arguments(envelope.arguments, signature.annotations))

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        delay = f" delay={self.delay_s:g}s" if self.delay_s else ""
        return f"{self.task.__qualname__}({arguments}) on queue {self.queue!r}{delay}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What an assertion looks for; None means: whatever."""

    task: type[BaseTask[Any]] | None = None
    arguments: Mapping[str, object]
    on_queue: str | None = None
    delay: float | timedelta | None = None
    where: Callable[[Dispatched], bool] | None = None

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
        if not found and self.where is not None and not self.where(record):
            found.append("where")
        return found

    def __str__(self) -> str:
        name = "any task" if self.task is None else self.task.__qualname__
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        parts = [f"{name}({arguments})"]
        if self.on_queue is not None:
            parts.append(f"on queue {self.on_queue!r}")
        if self.delay is not None:
            parts.append(f"delay={_seconds(self.delay):g}s")
        if self.where is not None:
            parts.append(f"where {getattr(self.where, '__name__', 'the predicate')} holds")
        return " ".join(parts)


def _fits(wanted: object, found: object) -> bool:
    """Say whether an argument is what was wanted; a model fits the reference to it."""
    return bool(wanted == found) or bool(with_references(wanted) == found)


class Recording:
    """Dispatches in order, and what can be asserted of them. A FakeQueue is one, and so is what a block captured."""

    def __init__(self) -> None:
        self._records: list[Dispatched] = []
        self._listeners: list[Callable[[Dispatched], None]] = []

    def _add(self, record: Dispatched) -> None:
        self._records.append(record)
        for listener in self._listeners:
            listener(record)

    @contextmanager
    def captures(self) -> "Generator[Captured]":
        """Collect what the block dispatches, and only that; what was collected so far can be asked for in the block."""
        captured = Captured(self)
        collect = captured._add  # noqa: SLF001 - of its own kind
        self._listeners.append(collect)
        try:
            yield captured
        finally:
            self._listeners.remove(collect)

    def _pending_ids(self) -> frozenset[str]:
        """Return the ids that are still to be run; a mere recording runs nothing."""
        return frozenset(record.task_id for record in self._records)

    def _circumstances(self) -> str:
        """Return what else a failure should show."""
        return ""

    def dispatched(self, task: TaskReference | None = None) -> list[Dispatched]:
        """Return what was dispatched, in order; of one task, or all."""
        wanted = None if task is None else task_class_of(task)
        return [record for record in self._records if wanted is None or issubclass(record.task, wanted)]

    def assert_dispatched(
        self,
        task: TaskReference,
        arguments: Mapping[str, object] | None = None,
        /,
        *,
        on_queue: str | None = None,
        delay: float | timedelta | None = None,
        times: int | None = None,
        where: Callable[[Dispatched], bool] | None = None,
        **kwargs: object,
    ) -> list[Dispatched]:
        """Assert that a task was dispatched at least once, or exactly `times`; return the matches.

        Arguments are compared by `wanted == actual`, so matcher objects work; give them by name, or as a
        mapping where a name is also a keyword of this method. `delay` is in seconds or a timedelta.
        """
        expectation = Expectation(
            task=task_class_of(task),
            arguments={**(arguments or {}), **kwargs},
            on_queue=on_queue,
            delay=delay,
            where=where,
        )
        matches = [record for record in self._records if not expectation.differences(record)]
        if (times is None and not matches) or (times is not None and len(matches) != times):
            wanted = "at least once" if times is None else f"{times} times"
            raise AssertionError(self._explain(f"expected {expectation} {wanted}", expectation, len(matches)))
        return matches

    def assert_not_dispatched(
        self,
        task: TaskReference | None = None,
        arguments: Mapping[str, object] | None = None,
        /,
        *,
        ever: bool = True,
        on_queue: str | None = None,
        where: Callable[[Dispatched], bool] | None = None,
        **kwargs: object,
    ) -> None:
        """Assert that no such dispatch was made; with `ever=False`, that none is still waiting to be run."""
        expectation = Expectation(
            task=None if task is None else task_class_of(task),
            arguments={**(arguments or {}), **kwargs},
            on_queue=on_queue,
            where=where,
        )
        pending = None if ever else self._pending_ids()
        matches = [
            record
            for record in self._records
            if not expectation.differences(record) and (pending is None or record.task_id in pending)
        ]
        if matches:
            what = "dispatched" if ever else "waiting to be run"
            lines = "".join(f"\n  {record}" for record in matches[:SHOWN_MAX])
            raise AssertionError(f"expected no {expectation} to be {what}, but:{lines}{self._circumstances()}")

    def assert_nothing_dispatched(self, *, ever: bool = True) -> None:
        """Assert that nothing at all was dispatched; with `ever=False`, that nothing is waiting to be run."""
        self.assert_not_dispatched(ever=ever)

    def assert_dispatched_in_order(self, *expected: TaskReference | tuple[TaskReference, Mapping[str, object]]) -> None:
        """Assert that these were dispatched in this order, whatever was dispatched between them.

        Each is a task, or a pair of a task and the arguments it was given.
        """
        left = iter(self._records)
        for position, item in enumerate(expected):
            nothing: Mapping[str, object] = {}
            task, arguments = item if isinstance(item, tuple) else (item, nothing)
            expectation = Expectation(task=task_class_of(task), arguments=arguments)
            if not any(not expectation.differences(record) for record in left):
                text = f"expected {expectation} as number {position + 1} of {len(expected)}"
                raise AssertionError(self._explain(text, expectation, 0, in_order=True))

    def _explain(self, text: str, expectation: Expectation, matched: int, *, in_order: bool = False) -> str:
        """Return the failure: what was wanted, what came nearest and differs where, what else there was."""
        total = len(self._records)
        lines = [f"{text}; {matched} of {total} dispatches match"]
        if in_order:
            lines += [f"  {number + 1}: {record}" for number, record in enumerate(self._records[:SHOWN_MAX])]
        else:
            ranked = sorted(self._records, key=lambda record: _distance(expectation, record))
            for label, record in zip(["nearest", *["other"] * SHOWN_MAX], ranked, strict=False):
                differs = expectation.differences(record)
                mark = f"  <- differs: {', '.join(differs)}" if differs else "  <- matches"
                lines.append(f"  {label}: {record}{mark}")
        if total > SHOWN_MAX:
            lines.append(f"  ... {total} in all")
        return "\n".join(lines) + self._circumstances()


class Captured(Recording):
    """What one block dispatched; waiting and virtual time are those of the FakeQueue it was dispatched to."""

    def __init__(self, origin: Recording) -> None:
        super().__init__()
        self._origin = origin

    def _pending_ids(self) -> frozenset[str]:
        return self._origin._pending_ids()  # noqa: SLF001 - of its own kind

    def _circumstances(self) -> str:
        return self._origin._circumstances()  # noqa: SLF001 - of its own kind


def task_class_of(task: TaskReference) -> type[BaseTask[Any]]:
    """Return the class of a task named by class or by decorated function.

    Raises: TypeError for anything else, an instance for one.
    """
    if isinstance(task, TaskFunction):
        return task.task_class
    if isinstance(task, type) and issubclass(task, BaseTask):  # pyright: ignore[reportUnnecessaryIsInstance] - users' input
        return task
    raise TypeError(f"expected a task class or a @task function, not {task!r}")


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


def _distance(expectation: Expectation, record: Dispatched) -> tuple[bool, int]:
    differs = expectation.differences(record)
    return ("task" in differs, len(differs))


def _seconds(value: float | timedelta) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)
