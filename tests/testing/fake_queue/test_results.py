"""Results and states of tasks that were dispatched to a FakeQueue."""

import asyncio

import pytest

import asynctasq
from asynctasq import AsyncTask, SyncTask, dispatch_many, task
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import Reject, ResultNotKept, ResultTimeoutError, TaskFailedError, TaskNotFoundError
from asynctasq.kernel.messages import State
from asynctasq.queue import Queue
from asynctasq.tasks.dispatching import set_default_dispatcher
from asynctasq.testing import FakeQueue, Simulation, simulate
from tests.patience import SOON_S


@task(keep_result=True)
async def double(number: int) -> int:
    await asyncio.sleep(1)
    return 2 * number


@task(keep_result=True)
async def at_once(number: int) -> int:
    return 2 * number


class Fails(AsyncTask[int]):
    keep_result = True

    async def execute(self) -> int:
        raise Reject("no")


class Sums(AsyncTask[int]):
    """Waits for the results of its children."""

    keep_result = True

    async def execute(self) -> int:
        children = await dispatch_many([double(number) for number in range(3)])
        return sum(await asyncio.gather(*(child.result(timeout=60) for child in children)))


class WaitsInThread(SyncTask[int]):
    keep_result = True

    def execute(self) -> int:
        return at_once.dispatch_sync(4).result_sync(timeout=SOON_S)


async def test_a_result_is_there_after_a_drain() -> None:
    async with FakeQueue() as queue:
        handle = await double.dispatch(4)
        assert (await handle.status()).state is State.READY

        await queue.drain()

        assert await handle.result() == await asynctasq.result(handle, task=double) == 8
        assert (await asynctasq.status(handle)).state is State.COMPLETED


def test_a_result_is_there_after_a_drain_from_synchronous_code() -> None:
    with FakeQueue() as queue:
        handle = double.dispatch_sync(4)

        queue.drain_sync()

        assert handle.result_sync() == asynctasq.result_sync(handle) == 8
        assert handle.status_sync().ended


async def test_nothing_is_waited_for_while_nothing_runs() -> None:
    async with FakeQueue():
        handle = await double.dispatch(4)

        with pytest.raises(ResultTimeoutError, match="it is ready in queue 'default'") as caught:
            await handle.result(timeout=3600)

    assert "await queue.drain()" in caught.value.__notes__[0]


async def test_a_task_waits_for_the_results_of_others() -> None:
    async with FakeQueue() as queue:
        handle = await Sums().dispatch()

        await queue.drain()

        assert await handle.result() == 6
        assert queue.clock.monotonic() == 1


async def test_who_waits_beside_a_drain_is_told() -> None:
    async with FakeQueue() as queue:
        handles = [await double.dispatch(1), await Fails().dispatch()]
        draining = asyncio.create_task(queue.drain(errors="collect"))
        await asyncio.sleep(0)

        good, bad = await asyncio.gather(*(handle.result() for handle in handles), return_exceptions=True)
        await draining

    assert good == 2
    assert isinstance(bad, TaskFailedError)


async def test_a_task_that_waits_too_long_gets_the_timeout() -> None:
    class Impatient(AsyncTask[str]):
        async def execute(self) -> str:
            handle = await double(1).delay(100).dispatch()
            try:
                await handle.result(timeout=10)
            except TimeoutError as error:
                return str(error)
            return "in time"

    async with FakeQueue() as queue:
        await Impatient().dispatch()
        await queue.drain()

        assert "not ended within 10 s; it is scheduled" in str(queue.history(Impatient).value)


async def test_a_task_in_a_thread_waits_for_another() -> None:
    async with FakeQueue() as queue:
        handle = await WaitsInThread().dispatch()
        await queue.drain()

        assert await handle.result() == 8


def test_synchronous_code_in_the_loop_of_a_simulation_can_not_wait() -> None:
    with FakeQueue() as queue:
        WaitsInThread().dispatch_sync()
        queue.drain_sync(errors="collect")

        error = queue.history(WaitsInThread).exception

    assert isinstance(error, ResultTimeoutError)
    assert "synchronous code runs in the loop of a simulation" in error.__notes__[0]


async def test_what_is_not_kept_or_not_there_is_told() -> None:
    class Drops(AsyncTask[int]):
        async def execute(self) -> int:
            return 1

    async with FakeQueue():
        handle = await Drops().dispatch()
        with pytest.raises(ResultNotKept):
            await handle.result()
        with pytest.raises(TaskNotFoundError, match="neither a message nor a result of task x"):
            await asynctasq.status("x")


async def test_a_task_that_is_let_through_is_asked_for_where_it_went() -> None:
    real = MemoryDriver()
    set_default_dispatcher(lambda: Queue(real))
    try:
        async with FakeQueue(except_=[Fails]):
            handle = await Fails().dispatch()

            assert (await handle.status()).state is State.READY
            assert await real.find(handle) is not None
    finally:
        import importlib

        set_default_dispatcher(lambda: importlib.import_module("asynctasq.core.setup").default_queue())


@simulate(runs=20, faults=(), workers=2)
async def test_parents_get_the_results_of_their_children_in_any_order(sim: Simulation) -> None:
    handles = await dispatch_many([Sums(), Sums()])

    assert await asyncio.gather(*(handle.result(timeout=600) for handle in handles)) == [6, 6]

    await sim.settle()


@simulate(runs=20, workers=2)
async def test_a_result_comes_despite_faults(sim: Simulation) -> None:
    handle = await double.dispatch(3)

    await sim.settle()

    assert await handle.result() == 6
