"""Functions as tasks: four modes, calls checked against the function's signature."""

import asyncio
from typing import Any

import pytest

from asynctasq import current_task
from asynctasq.errors import AsyncTasqError
from asynctasq.tasks import AsyncProcessTask, AsyncTask, SyncProcessTask, SyncTask, TaskFunction, task
from asynctasq.tasks.definition import definition_of, options_of
from asynctasq.tasks.mode import Mode
from asynctasq.testing import FakeQueue

SEEN: list[Any] = []


@task
async def in_loop(number: int, *, times: int = 2) -> int:
    """Multiply."""
    return number * times


@task
def in_thread(number: int, *, times: int = 2) -> int:
    return number * times


@task(process=True)
async def in_async_process(number: int, *, times: int = 2) -> int:
    return number * times


@task(process=True)
def in_process(number: int, *, times: int = 2) -> int:
    return number * times


ALL = [in_loop, in_thread, in_async_process, in_process]


@pytest.mark.parametrize(
    ("function", "mode", "base"),
    [
        (in_loop, Mode.LOOP, AsyncTask),
        (in_thread, Mode.THREAD, SyncTask),
        (in_async_process, Mode.ASYNC_PROCESS, AsyncProcessTask),
        (in_process, Mode.SYNC_PROCESS, SyncProcessTask),
    ],
)
def test_the_decorator_picks_one_of_four_modes(function: TaskFunction[..., Any], mode: Mode, base: type) -> None:
    assert definition_of(function.task_class).mode is mode
    assert issubclass(function.task_class, base)


@pytest.mark.parametrize("function", ALL)
async def test_a_function_of_every_mode_runs(function: TaskFunction[..., int]) -> None:
    with FakeQueue() as queue:
        performed = queue.perform_sync(function(21))

    assert performed.completed


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2), {}), ((1,), {"tmes": 3}), ((), {"times": 3}), ((1,), {"number": 1})],
)
def test_a_call_that_does_not_fit_the_signature_is_refused(
    function: TaskFunction[..., int], args: Any, kwargs: Any
) -> None:
    with pytest.raises(TypeError):
        function(*args, **kwargs)


def test_what_was_decorated_is_still_there() -> None:
    assert in_thread.function(4, times=3) == 12
    assert asyncio.run(in_loop.function(4)) == 8
    assert (in_loop.__name__, in_loop.__doc__) == ("in_loop", "Multiply.")


def test_a_function_is_dispatched_by_call_and_dispatch_or_in_one_go() -> None:
    with FakeQueue() as queue:
        in_thread(1, times=5).dispatch_sync()
        in_thread.dispatch_sync(1, times=5)

    first, second = queue.dispatched(in_thread)
    assert first.task_id != second.task_id
    assert first.message.body[:3] == second.message.body[:3]
    queue.assert_dispatched(in_thread, times=2, number=1)


async def test_a_function_is_dispatched_with_await() -> None:
    async with FakeQueue() as queue:
        await in_loop.dispatch(3)
        await in_loop(3).delay(5).on_queue("bulk").dispatch()

    assert [sent.message.queue for sent in queue.dispatched()] == ["default", "bulk"]


@task
async def outer(left: int) -> None:
    SEEN.append(left)
    if left:
        await outer(left - 1).dispatch()


@task
def outer_blocking(left: int) -> None:
    SEEN.append(left)
    if left:
        outer_blocking(left - 1).dispatch_sync()


def test_a_running_task_may_dispatch_itself() -> None:
    SEEN.clear()
    with FakeQueue() as queue:
        outer(3).dispatch_sync()
        queue.drain_sync()

    assert SEEN == [3, 2, 1, 0]


@task(queue="mail", max_attempts=7, retry_delay=[1, 2], timeout=3, max_crashes=5, keep_result=60, process=True)
def with_settings() -> None: ...


def test_the_decorators_settings_are_the_classs() -> None:
    options = options_of(with_settings())

    assert (options.queue, options.max_attempts, options.timeout_s) == ("mail", 7, 3.0)
    assert (options.max_crashes, options.keep_result_s) == (5, 60.0)


@task
async def knows_itself() -> None:
    running = current_task()
    SEEN.append((running.task_id, running.attempt))


def test_a_function_learns_its_id_and_attempt_from_the_current_task() -> None:
    SEEN.clear()
    with FakeQueue() as queue:
        task_id = knows_itself().dispatch_sync()
        queue.drain_sync()

    assert [(task_id, 1)] == SEEN


def test_outside_of_a_task_there_is_no_current_task() -> None:
    with pytest.raises(AsyncTasqError, match="no task is running here"):
        current_task()


class Shop:
    @staticmethod
    @task
    async def sell(item: str) -> None:
        SEEN.append(item)


def test_a_static_method_may_be_a_task() -> None:
    SEEN.clear()
    with FakeQueue() as queue:
        Shop.sell("pen").dispatch_sync()
        queue.drain_sync()

    assert SEEN == ["pen"]
