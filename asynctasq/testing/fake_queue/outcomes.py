"""Assertions on what became of dispatches that ran; their failures show each task's history."""

from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar, overload

from asynctasq.kernel.ledger import Entry
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.functions import TaskFunction
from asynctasq.testing.fake_queue.history import History, histories
from asynctasq.testing.fake_queue.recording import Captured, Recording
from asynctasq.testing.parameters import TaskReference, task_class_of

__all__ = ["Outcomes"]

R = TypeVar("R")


class Outcomes(Recording):
    """A recording whose dispatches run. A task is named by its class or function, or one dispatch of it by its id."""

    def __init__(self) -> None:
        super().__init__()
        skipped = Captured(self)
        self._add_skipped = skipped._add  # noqa: SLF001 - of its own kind
        self.skipped: Recording = skipped
        """What was dispatched and not stored, since another task held its unique key; it counts as not dispatched."""

    @property
    def ledger(self) -> Sequence[Entry]:
        """Everything that happened."""
        raise NotImplementedError

    @overload
    def history(self, task_id: str) -> History: ...
    @overload
    def history(self, task_id: type[BaseTask[R]]) -> History[R]: ...
    @overload
    def history(self, task_id: TaskFunction[..., R]) -> History[R]: ...
    def history(self, task_id: TaskReference | str) -> History[Any]:
        """Return the executions of one task: start times, outcomes, values, exceptions, hooks.

        It is named by the id that dispatch returned, or by its class or function if that was dispatched once.

        Raises: KeyError if there is none, ValueError if there are several.
        """
        if isinstance(task_id, str):
            try:
                return histories(self.ledger)[task_id]
            except KeyError:
                raise KeyError(f"no task {task_id!r} was dispatched here") from None
        found = self._histories(task_id)
        if not found:
            raise KeyError(f"{_name(task_id)} was not dispatched here")
        if len(found) > 1:
            raise ValueError(f"{_name(task_id)} was dispatched {len(found)} times; say which by the id of a dispatch")
        return found[0]

    def assert_completed(self, task: TaskReference | str, *, times: int | None = None) -> None:
        """Assert that a dispatch of this task ended well; or exactly `times` of them."""
        done = [history for history in self._histories(task) if history.completed]
        if (times is None and not done) or (times is not None and len(done) != times):
            wanted = "to complete" if times is None else f"to complete {times} times"
            self._fail(f"expected {_name(task)} {wanted}; {len(done)} did", task)

    def assert_failed(
        self, task: TaskReference | str, *, with_: type[BaseException] | None = None, attempts: int | None = None
    ) -> None:
        """Assert that a dispatch of this task became a dead letter: `with_` this exception, after so many attempts.

        A crash is no attempt, as it is none for `max_attempts`: what ran again after one is counted once.
        """
        for history in self._histories(task):
            fits = with_ is None or isinstance(history.exception, with_)
            if history.failed and fits and attempts in (None, history.attempts_made):
                return
        wanted = f" with {with_.__name__}" if with_ else ""
        counted = f" after {attempts} attempts" if attempts is not None else ""
        self._fail(f"expected {_name(task)} to fail for good{wanted}{counted}", task)

    def assert_expired(self, task: TaskReference | str, *, times: int | None = None) -> None:
        """Assert that a dispatch of this task became a dead letter since it was too old; or exactly `times` of them."""
        expired = [history for history in self._histories(task) if history.expired]
        if (times is None and not expired) or (times is not None and len(expired) != times):
            wanted = "to expire" if times is None else f"to expire {times} times"
            self._fail(f"expected {_name(task)} {wanted}; {len(expired)} did", task)

    def assert_cancelled(self, task: TaskReference | str, *, times: int | None = None) -> None:
        """Assert that a dispatch of this task was cancelled, while it waited or while it ran; or exactly `times`."""
        cancelled = [history for history in self._histories(task) if history.cancelled]
        if (times is None and not cancelled) or (times is not None and len(cancelled) != times):
            wanted = "to be cancelled" if times is None else f"to be cancelled {times} times"
            self._fail(f"expected {_name(task)} {wanted}; {len(cancelled)} were", task)

    def assert_retried_at(self, seconds: Sequence[float], *, task: TaskReference | str | None = None) -> None:
        """Assert when it ran again, retried or after a snooze, in virtual seconds since the dispatch.

        Of the one task that was retried, or of `task`: a task that was dispatched once, or the id of a dispatch. What
        ran again after a crash is no retry; the crashed attempt counts from its first start.
        """
        retried = [history for history in self._histories(task) if history.retried_at_s]
        if len(retried) > 1:
            which = (
                "say which with task=" if task is None else "say which by its id, task=TASK_ID, as dispatch returned it"
            )
            what = "tasks were" if task is None else f"dispatches of {_name(task)} were"
            self._fail(f"{len(retried)} {what} retried; {which}", task)
        actual = retried[0].retried_at_s if retried else []
        if not self._same_times([round(float(second), 6) for second in seconds], actual):
            self._fail(f"expected retries at {list(seconds)} s after the dispatch, they were at {actual}", task)

    def _same_times(self, wanted: Sequence[float], actual: Sequence[float]) -> bool:
        return wanted == actual

    def assert_failed_hook(self, task: TaskReference | str, *, times: int = 1) -> None:
        """Assert how often the `failed` hook of this task ran, over all its dispatches."""
        ran = sum(history.hooks.count("failed") for history in self._histories(task))
        if ran != times:
            self._fail(f"expected failed() of {_name(task)} to run {times} times; it ran {ran} times", task)

    def _histories(self, task: TaskReference | str | None) -> list[History[Any]]:
        if isinstance(task, str):
            return [self.history(task)]
        found = histories(self.ledger).values()
        if task is None:
            return list(found)
        wanted = {record.task_id for record in self.dispatched(task)}
        return [history for history in found if history.task_id in wanted]

    def _fail(self, text: str, task: TaskReference | str | None) -> NoReturn:
        lines = "".join(f"\n{history}" for history in self._histories(task)) or "\nnothing of it was dispatched"
        raise AssertionError(f"{text}{lines}{self._context_text()}")


def _name(task: TaskReference | str) -> str:
    return f"task {task}" if isinstance(task, str) else task_class_of(task).__qualname__
