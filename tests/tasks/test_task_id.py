"""What a task knows of its id: none before its dispatch, one in all attempts and hooks, in every mode."""

from typing import TYPE_CHECKING, Any

import pytest

from asynctasq import AsyncProcessTask, AsyncTask, SyncProcessTask, SyncTask, task
from asynctasq.errors import AsyncTasqError
from asynctasq.tasks import BaseTask
from asynctasq.testing import FakeQueue

SEEN: list[str] = []


class Notes:
    """Notes its id in every attempt and hook."""

    max_attempts = 2

    if TYPE_CHECKING:  # an annotation would make it a field

        @property
        def task_id(self) -> str: ...

    def should_retry(self, exception: Exception) -> bool:
        SEEN.append(self.task_id)
        return True

    def failed(self, exception: Exception) -> None:
        SEEN.append(self.task_id)

    def note(self) -> None:
        SEEN.append(self.task_id)
        raise ConnectionError


class InLoop(Notes, AsyncTask[None]):
    async def execute(self) -> None:
        self.note()


class InThread(Notes, SyncTask[None]):
    def execute(self) -> None:
        self.note()


class InLoopOfProcess(Notes, AsyncProcessTask[None]):
    async def execute(self) -> None:
        self.note()


class InProcess(Notes, SyncProcessTask[None]):
    def execute(self) -> None:
        self.note()


@pytest.mark.parametrize("kind", [InLoop, InThread, InLoopOfProcess, InProcess])
def test_it_is_that_of_the_dispatch_in_every_attempt_and_hook(kind: type[BaseTask[Any]]) -> None:
    SEEN.clear()
    with FakeQueue() as queue:
        task_id = kind().dispatch_sync()

        queue.run_until_idle_sync()

    assert [task_id] * 4 == SEEN


def test_a_dispatched_task_has_the_id_of_its_latest_dispatch() -> None:
    sent = InLoop()
    with FakeQueue():
        first = sent.dispatch_sync()
        assert sent.task_id == first

        second = sent.dispatch_sync()
        assert sent.task_id == second != first


def test_a_task_that_was_not_dispatched_has_none() -> None:
    with pytest.raises(AsyncTasqError, match="this InLoop has no id: it was not dispatched"):
        _ = InLoop().task_id


def test_it_cannot_be_set() -> None:
    with pytest.raises(AttributeError):
        InLoop().task_id = "mine"  # type: ignore[misc]


@task
async def close(task_id: str) -> None:
    SEEN.append(task_id)


def test_a_function_may_have_an_argument_of_that_name() -> None:
    SEEN.clear()
    with FakeQueue() as queue:
        close("theirs").dispatch_sync()

        queue.run_until_idle_sync()

    assert SEEN == ["theirs"]
