"""What was dispatched, and assertions over it whose failures show what was dispatched instead."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from asynctasq.tasks.base import BaseTask
from asynctasq.testing.fake_queue.argument_names import check_argument_names
from asynctasq.testing.fake_queue.expectation import Dispatched, Expectation
from asynctasq.testing.parameters import TaskReference, task_class_of

__all__ = ["Captured", "Dispatched", "Recording", "listed"]

SHOWN_MAX = 8


class Recording:
    """Dispatches in order, and what can be asserted of them. A FakeQueue is one, and so is what a block captured."""

    def __init__(self) -> None:
        self._recorded: list[Dispatched] = []
        self._listeners: list[Callable[[Dispatched], None]] = []

    @property
    def _records(self) -> list[Dispatched]:
        return self._recorded

    def _add(self, record: Dispatched) -> None:
        self._recorded.append(record)
        for listener in self._listeners:
            listener(record)

    @contextmanager
    def captures(self) -> "Generator[Captured]":
        """Collect what the block dispatches, and only that; what was collected so far can be asked for in the block."""
        self._look()
        captured = Captured(self)
        collect = captured._add  # noqa: SLF001 - of its own kind
        self._listeners.append(collect)
        try:
            yield captured
            self._look()
        finally:
            self._listeners.remove(collect)

    def _look(self) -> None:
        """Record what a transaction has committed meanwhile."""

    def _pending_ids(self) -> frozenset[str]:
        """Return the ids that are still to be run; a mere recording runs nothing."""
        return frozenset(record.task_id for record in self._records)

    def _context_text(self) -> str:
        """Return what else a failure should show."""
        return ""

    def _check_faked(self, task: type[BaseTask[Any]]) -> None:
        """Raise ValueError for a task whose dispatches go to the configured queue."""

    def _class_asked(self, task: TaskReference) -> type[BaseTask[Any]]:
        """Return the class of a task that something is asked of."""
        cls = task_class_of(task)
        self._check_faked(cls)
        return cls

    def _expect(
        self,
        task: TaskReference | None,
        arguments: Mapping[str, object] | None,
        kwargs: Mapping[str, object],
        **rest: Any,
    ) -> Expectation:
        """Return what is looked for; refuse what could never be."""
        self._look()
        cls = None if task is None else self._class_asked(task)
        wanted = _merge_arguments(arguments, kwargs)
        if cls is not None:
            check_argument_names(cls, wanted)
        return Expectation(task=cls, arguments=wanted, **rest)

    def dispatched(self, task: TaskReference | None = None) -> list[Dispatched]:
        """Return what was dispatched, in order; of one task, or all."""
        wanted = None if task is None else self._class_asked(task)
        self._look()
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

        Raises: TypeError for an argument that the task does not have.
        """
        expectation = self._expect(task, arguments, kwargs, on_queue=on_queue, delay=delay, where=where)
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
        delay: float | timedelta | None = None,
        where: Callable[[Dispatched], bool] | None = None,
        **kwargs: object,
    ) -> None:
        """Assert that no such dispatch was made; with `ever=False`, that none is still waiting to be run.

        What makes a dispatch such a one is said as for `assert_dispatched`.

        Raises: TypeError for an argument that the task does not have.
        """
        expectation = self._expect(task, arguments, kwargs, on_queue=on_queue, delay=delay, where=where)
        pending = None if ever else self._pending_ids()
        matches = [
            record
            for record in self._records
            if not expectation.differences(record) and (pending is None or record.task_id in pending)
        ]
        if matches:
            what = "dispatched" if ever else "waiting to be run"
            raise AssertionError(f"expected no {expectation} to be {what}, but:{listed(matches)}{self._context_text()}")

    def assert_nothing_dispatched(self, *, ever: bool = True) -> None:
        """Assert that nothing at all was dispatched; with `ever=False`, that nothing is waiting to be run.

        What a FakeQueue passes to the configured queue (`only=`, `except_=`) is not counted: it is not recorded.
        """
        self.assert_not_dispatched(ever=ever)

    def assert_dispatched_in_order(self, *expected: TaskReference | tuple[TaskReference, Mapping[str, object]]) -> None:
        """Assert that these were dispatched in this order, whatever was dispatched between them.

        Each is a task, or a pair of a task and the arguments it was given.
        """
        if not expected:
            raise TypeError(
                "assert_dispatched_in_order() was given no tasks; for none at all: assert_nothing_dispatched()"
            )
        left = iter(self._records)
        for position, item in enumerate(expected):
            nothing: Mapping[str, object] = {}
            task, arguments = item if isinstance(item, tuple) else (item, nothing)
            expectation = self._expect(task, arguments, nothing)
            if not any(not expectation.differences(record) for record in left):
                text = f"expected {expectation} as number {position + 1} of {len(expected)}"
                raise AssertionError(self._explain(text, expectation, 0, in_order=True))

    def _explain(self, text: str, expectation: Expectation, matched: int, *, in_order: bool = False) -> str:
        """Return the text of a failure: what was expected, the nearest dispatch and its differences, the others."""
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
                if label == "nearest":
                    lines += [f"    {said}" for said in expectation.contrasts(record)]
        if total > SHOWN_MAX:
            lines.append(f"  ... {total} in all")
        return "\n".join(lines) + self._context_text()


class Captured(Recording):
    """What one block dispatched; waiting and virtual time are those of the FakeQueue it was dispatched to."""

    def __init__(self, origin: Recording) -> None:
        super().__init__()
        self._origin = origin

    def _look(self) -> None:
        self._origin._look()  # noqa: SLF001 - of its own kind

    def _pending_ids(self) -> frozenset[str]:
        return self._origin._pending_ids()  # noqa: SLF001 - of its own kind

    def _context_text(self) -> str:
        return self._origin._context_text()  # noqa: SLF001 - of its own kind

    def _check_faked(self, task: type[BaseTask[Any]]) -> None:
        self._origin._check_faked(task)  # noqa: SLF001 - of its own kind


def listed(records: Sequence[object]) -> str:
    """Return dispatches as lines, of many the first and how many there are."""
    more = f"\n  ... {len(records)} in all" if len(records) > SHOWN_MAX else ""
    return "".join(f"\n  {record}" for record in records[:SHOWN_MAX]) + more


def _merge_arguments(arguments: Mapping[str, object] | None, kwargs: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments of the mapping and those given by name; one that is in both is ambiguous."""
    if arguments is None:
        return dict(kwargs)
    if not isinstance(arguments, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - users' input
        raise TypeError(f"give arguments by name or as a mapping from names to values, not {arguments!r}")
    twice = [name for name in arguments if name in kwargs]
    if twice:
        raise TypeError(f"argument {twice[0]!r} is in the mapping and given by name, too; give it once")
    return {**arguments, **kwargs}


def _distance(expectation: Expectation, record: Dispatched) -> tuple[bool, int]:
    differs = expectation.differences(record)
    return ("task" in differs, len(differs))
