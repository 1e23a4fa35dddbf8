"""A database that does not answer while a task's models are loaded takes no slot for ever."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from asynctasq.codec.orm import references
from asynctasq.codec.orm.references import register_adapter
from asynctasq.errors import TaskTimeoutError
from asynctasq.tasks import AsyncTask, SyncTask
from asynctasq.testing import FakeQueue

SLOW_S = 0.0
HOOKS: list[Any] = []


class Record:
    """A model of an ORM made up for this test; `SLOW_S` is how long its database takes."""

    def __init__(self, key: int) -> None:
        self.key = key


class MadeUp:
    name = "made-up"

    def is_model(self, cls: type) -> bool:
        return cls is Record

    def name_of(self, cls: type) -> str:
        return cls.__name__

    def find(self, model_name: str) -> Sequence[type]:
        return [Record]

    def reference(self, value: object) -> tuple[tuple[object, ...], str | None]:
        assert isinstance(value, Record)
        return (value.key,), None

    def needs_event_loop(self, model: type) -> bool:
        return False

    async def load(
        self, model: type, keys: Sequence[Any], database: str | None = None, *, foreign_loop: bool = False
    ) -> Mapping[Any, object]:
        await asyncio.sleep(SLOW_S)
        return {key: Record(*key) for key in keys}


@pytest.fixture(autouse=True)
def made_up() -> Iterator[None]:
    HOOKS.clear()
    register_adapter(MadeUp())
    yield
    del references._adapters[MadeUp.name]
    references._adapter_for.cache_clear()


class InLoop(AsyncTask[int]):
    record: Record
    timeout = 5
    retry_delay = 60
    max_attempts = 2

    async def execute(self) -> int:
        await asyncio.sleep(4)
        return self.record.key

    def failed(self, exception: Exception) -> None:
        HOOKS.append((type(exception), self.record))


class InThread(SyncTask[int]):
    record: Record
    timeout = 5
    retry_delay = 60
    max_attempts = 2

    def execute(self) -> int:
        return self.record.key

    def failed(self, exception: Exception) -> None:
        HOOKS.append((type(exception), self.record))


@pytest.mark.parametrize("kind", [InLoop, InThread])
async def test_loading_takes_no_longer_than_the_tasks_timeout(
    fake_queue: FakeQueue, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.SLOW_S", 3600)
    await kind(record=Record(7)).dispatch()

    await fake_queue.run_until_idle(virtual_s_max=300)

    fake_queue.assert_failed(kind, with_=TaskTimeoutError, attempts=2)
    fake_queue.assert_retried_at([65])  # the load's 5 s and the delay; nobody need be built to answer yes


@pytest.mark.parametrize("kind", [InLoop, InThread])
async def test_a_load_in_time_leaves_the_whole_timeout_to_the_task(
    fake_queue: FakeQueue, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.SLOW_S", 4)
    await kind(record=Record(7)).dispatch()

    await fake_queue.run_until_idle(virtual_s_max=300)

    fake_queue.assert_completed(kind)


async def test_hooks_get_none_for_what_does_not_come_within_their_own_limit(
    fake_queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.SLOW_S", 3600)
    await InLoop(record=Record(7)).dispatch()

    await fake_queue.run_until_idle(virtual_s_max=300)

    assert [(TaskTimeoutError, None)] == HOOKS
