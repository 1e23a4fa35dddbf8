"""Tasks that are cancelled in a FakeQueue and in simulations."""

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

import asynctasq
from asynctasq import AsyncTask, SyncTask, task
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.errors import DriverUnavailable, TaskCancelledError, UnsupportedFeature
from asynctasq.kernel.messages import State
from asynctasq.queue import Queue
from asynctasq.tasks.cancellation import Cancellation
from asynctasq.tasks.dispatching import set_default_dispatcher
from asynctasq.testing import FakeQueue, Simulation, simulate
from tests.patience import SOON_S, wait_until

RUNS = threading.Event()


class Exports(AsyncTask[str]):
    keep_result = True

    async def execute(self) -> str:
        await asyncio.sleep(100)
        return "exported"

    async def cancelled(self) -> None:
        await asyncio.sleep(1)


class Cancels(AsyncTask[str]):
    keep_result = True
    victim: str

    async def execute(self) -> str:
        await asyncio.sleep(5)
        return (await asynctasq.cancel(self.victim)).value


class Flagged(SyncTask[None]):
    def execute(self) -> None:
        RUNS.set()
        wait_until(lambda: self.is_cancelled, within_s=SOON_S)


@task
def cancels_in_thread(victim: str) -> str:
    return asynctasq.cancel_sync(victim).value


@task
async def cancels_at_once(victim: str) -> None:
    await asyncio.to_thread(RUNS.wait, SOON_S)
    await asynctasq.cancel(victim)


@task
async def fails() -> None:
    raise ValueError("no")


async def test_a_running_task_is_cancelled_by_another_one() -> None:
    async with FakeQueue() as queue:
        victim = await Exports().dispatch()
        canceller = await Cancels(victim=victim).dispatch()
        result = asyncio.create_task(victim.result())

        await queue.run_until_idle()

        assert await canceller.result() == "running"
        assert (await victim.status()).state is State.CANCELLED
        with pytest.raises(TaskCancelledError):
            await result
        queue.assert_cancelled(Exports, times=1)
        [attempt] = queue.history(victim).attempts
        assert (attempt.outcome, attempt.settlement, attempt.hooks) == ("interrupted", "cancelled", ["cancelled"])
        assert queue.clock.monotonic() < 10


def test_what_waits_is_cancelled_from_synchronous_code() -> None:
    with FakeQueue() as queue:
        ready, later = Exports().dispatch_sync(), Exports().delay(60).dispatch_sync()

        assert [ready.cancel_sync(), asynctasq.cancel_sync(later, task=Exports)] == [Cancellation.QUEUED] * 2
        assert later.cancel_sync() is Cancellation.QUEUED
        assert queue.drain_sync().succeeded == 0

        queue.assert_cancelled(ready)
        queue.assert_cancelled(Exports, times=2)
        assert not queue.history(ready).attempts


def test_a_thread_of_a_simulation_cancels_what_waits() -> None:
    with FakeQueue() as queue:
        victim = Exports().delay(60).dispatch_sync()
        handle = cancels_in_thread(victim).with_options(keep_result=True).dispatch_sync()

        queue.drain_sync()

        assert handle.result_sync() == "queued"


async def test_a_thread_beside_the_tests_loop_is_flagged() -> None:
    async with FakeQueue() as queue:
        victim = await Flagged().dispatch()
        await cancels_at_once(victim).dispatch()

        await queue.drain()

        queue.assert_cancelled(Flagged)


async def test_a_retry_that_waits_never_runs() -> None:
    async with FakeQueue() as queue:
        handle = await fails().retry_after(60).dispatch()
        await queue.drain(errors="collect")

        assert await handle.cancel() is Cancellation.QUEUED

        await queue.advance(hours=1)
        assert len(queue.history(handle).attempts) == 1
        queue.assert_cancelled(fails)


async def test_what_has_ended_or_never_was_is_no_error() -> None:
    async with FakeQueue() as queue:
        done, dead = await Exports().dispatch(), await fails().with_options(max_attempts=1).dispatch()
        await queue.drain(errors="collect")

        found = [await done.cancel(), await dead.cancel(), await asynctasq.cancel("never was")]

        assert found == [Cancellation.NOTHING] * 3
        assert await done.result() == "exported"
        with pytest.raises(AssertionError, match=r"expected Exports to be cancelled; 0 were"):
            queue.assert_cancelled(Exports)
        with pytest.raises(AssertionError, match=r"expected Exports to be cancelled 2 times; 0 were"):
            queue.assert_cancelled(Exports, times=2)


@pytest.mark.parametrize("wrong", [None, 7, b"id", Exports])
async def test_an_id_is_a_text(wrong: object) -> None:
    async with FakeQueue():
        with pytest.raises(TypeError, match="takes the id of a task, a str"):
            await asynctasq.cancel(wrong)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match="takes the id of a task, a str"):
            asynctasq.cancel_sync(wrong)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def test_what_the_real_driver_lacks_is_refused() -> None:
    async with FakeQueue(like="sqs"):
        handle = await fails().dispatch()

        with pytest.raises(UnsupportedFeature, match=r"SQS in .* can't cancel tasks by their ids"):
            await handle.cancel()


async def test_cancel_sync_would_block_the_loop() -> None:
    async with FakeQueue():
        handle = await fails().dispatch()

        with pytest.raises(RuntimeError, match=r"await result\(\), status\(\) or cancel\(\) here"):
            handle.cancel_sync()


async def test_a_task_that_is_let_through_is_cancelled_where_it_went() -> None:
    real = MemoryDriver()
    set_default_dispatcher(lambda: Queue(real))
    try:
        async with FakeQueue(except_=[Exports]):
            handle = await Exports().dispatch()

            assert await handle.cancel() is Cancellation.QUEUED
            assert await real.find(handle) is None
    finally:
        import importlib

        set_default_dispatcher(lambda: importlib.import_module("asynctasq.core.setup").default_queue())


async def test_the_message_of_an_open_transaction_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"

    class Commits(AsyncTask[str]):
        async def execute(self) -> str:
            connection = sqlite3.connect(path, isolation_level=None)
            connection.execute("BEGIN IMMEDIATE")
            async with self.complete_in(connection):
                pass
            try:
                await asynctasq.cancel(self.task_id)
            except DriverUnavailable as error:
                said.append(str(error))
            connection.execute("COMMIT")
            said.append((await asynctasq.cancel(self.task_id)).value)
            connection.close()
            return "done"

    said: list[str] = []
    async with FakeQueue(like=SQLiteDriver(path)) as queue:
        await Commits().dispatch()

        await queue.drain()

        assert said == ["the message is locked by a transaction that is still open", "nothing"]
        queue.assert_completed(Commits)


@simulate(runs=50, workers=2, faults=())
async def test_cancelling_is_an_operation_of_a_scenario(sim: Simulation) -> None:
    handle = await Exports().dispatch()
    running = asyncio.create_task(sim.settle())
    await asyncio.sleep(50)

    assert await handle.cancel() is Cancellation.RUNNING

    await running
    sim.queue.assert_cancelled(Exports, times=1)
    assert sim.queue.history(handle).hooks == ["cancelled"]
