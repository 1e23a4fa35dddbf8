"""Blocking tasks in a simulation find what they find in a thread or a child process: no running event loop."""

import asyncio

import pytest

from asynctasq import SyncProcessTask, SyncTask
from asynctasq.testing import FakeQueue


async def answer() -> int:
    await asyncio.sleep(0)
    return 42


class InThread(SyncTask[int]):
    keep_result = True

    def execute(self) -> int:
        return asyncio.run(answer())


class InChild(SyncProcessTask[int]):
    keep_result = True

    def execute(self) -> int:
        return asyncio.run(answer())


class Fails(SyncTask[None]):
    seen: "list[str]" = []

    def execute(self) -> None:
        raise ValueError("to be told to failed()")

    def failed(self, exception: BaseException) -> None:
        self.seen.append(str(asyncio.run(answer())))


@pytest.mark.parametrize("task", [InThread, InChild])
async def test_a_blocking_task_may_run_an_event_loop_of_its_own(task: type[InThread] | type[InChild]) -> None:
    async with FakeQueue() as queue:
        await task().dispatch()

        await queue.run_until_idle()

        queue.assert_completed(task)


async def test_a_blocking_failed_hook_may_run_an_event_loop_of_its_own() -> None:
    Fails.seen.clear()
    async with FakeQueue() as queue:
        await Fails().dispatch()

        await queue.run_until_idle()

        queue.assert_failed(Fails, with_=ValueError)
    assert Fails.seen == ["42"]


async def test_the_simulation_goes_on_in_its_own_loop_afterwards() -> None:
    async with FakeQueue() as queue:
        outer = asyncio.get_running_loop()
        await InThread().delay(60).dispatch()

        await queue.run_until_idle()

        assert asyncio.get_running_loop() is outer
        queue.assert_completed(InThread)
