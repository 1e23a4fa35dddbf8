"""`real_queue`: tests of applications on real drivers, with the assertions of a FakeQueue and time that is skipped."""

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from asynctasq import AsyncTask, Snooze, dispatch_many, task
from asynctasq.errors import DispatchError
from asynctasq.kernel.ledger import check
from asynctasq.queue import MessageFactory
from asynctasq.tasks import AsyncProcessTask, SyncProcessTask, SyncTask
from asynctasq.testing import FakeQueue, LimitExceeded, NestedFakeError, NotIdle, RealQueue, perform
from asynctasq.testing.conformance.selection import make_harness
from asynctasq.testing.servers import NotPossible
from tests.testing.simulation.failing import failure

DRIVERS = ("memory", "sqlite", "redis", "postgres", "mysql")
"""SQS, whose clock can't be moved, has tests of its own below."""

ran: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_has_run() -> None:
    ran.clear()


@task
async def note(what: str) -> str:
    ran.append(what)
    return what.upper()


@task(max_attempts=169, retry_delay=3_600)
async def hourly(times: int) -> int:
    ran.append("try")
    if len(ran) < times:
        raise ConnectionError("bank closed")
    return len(ran)


class Flaky(AsyncTask[str]):
    max_attempts = 3
    retry_delay = [10, 20]

    async def execute(self) -> str:
        raise ConnectionError("bank closed")

    async def failed(self, exception: Exception) -> None:
        ran.append(f"failed: {exception}")


class Aging(AsyncTask[None]):
    expires = 60
    retry_delay = [50, 10]

    async def execute(self) -> None:
        ran.append("try")
        raise ConnectionError("bank closed")

    async def failed(self, exception: Exception) -> None:
        ran.append(type(exception).__name__)


class Parent(AsyncTask[None]):
    async def execute(self) -> None:
        await note.dispatch("child")
        await note("later").delay(3_600).on_queue("later").dispatch()


class InThread(SyncTask[str]):
    def execute(self) -> str:
        note.dispatch_sync("from a thread")
        return threading.current_thread().name


class InProcess(SyncProcessTask[int]):
    def execute(self) -> int:
        note("from a process").delay(60).dispatch_sync()
        import os

        return os.getpid()


class InLoopOfProcess(AsyncProcessTask[str]):
    async def execute(self) -> str:
        return await note.dispatch("from the loop of a process")


class Sleepy(AsyncTask[None]):
    async def execute(self) -> None:
        if self.attempt == 1 and not ran:
            ran.append("snoozed")
            raise Snooze(86_400)
        ran.append("awake")


@task
async def again() -> None:
    ran.append("again")
    await again.dispatch()


@task
async def hangs() -> None:
    await asyncio.sleep(3_600)


# -- on every driver -------------------------------------------------------------------------------


@pytest.fixture(params=DRIVERS)
def real_queue(request: Any, conformance_servers: Any) -> Iterator[RealQueue]:
    """The plugin's own, on each driver in turn."""
    from asynctasq.testing.plugin import REAL_QUEUE

    with RealQueue(make_harness(request.param, conformance_servers)) as queue:
        request.node.stash[REAL_QUEUE] = queue
        yield queue


async def test_what_is_dispatched_is_recorded_and_runs_when_asked(real_queue: RealQueue) -> None:
    await note.dispatch("a")
    real_queue.assert_dispatched(note, what="a", times=1)
    assert ran == []

    result = await real_queue.run_until_idle()

    assert (ran, result.succeeded) == (["a"], 1)
    real_queue.assert_completed(note)
    assert real_queue.history(note).value == "A"
    real_queue.assert_not_dispatched(ever=False)


async def test_retries_hours_apart_run_without_waiting(real_queue: RealQueue) -> None:
    begin = time.monotonic()
    await hourly.dispatch(12)

    result = await real_queue.run_until_idle()

    assert (len(ran), result.retried, result.succeeded) == (12, 11, 1)
    assert timedelta(hours=11) <= real_queue.clock.elapsed < timedelta(hours=11, minutes=5)
    real_queue.assert_retried_at([3_600 * hour for hour in range(1, 12)])
    assert time.monotonic() - begin < 30
    assert check(real_queue.ledger) == []


async def test_a_task_that_fails_for_good_is_a_dead_letter(real_queue: RealQueue) -> None:
    task_id = await Flaky().dispatch()
    await real_queue.run_until_idle()

    real_queue.assert_failed(Flaky, with_=ConnectionError, attempts=3)
    real_queue.assert_retried_at([10, 30], task=task_id)
    real_queue.assert_failed_hook(Flaky)
    assert ran == ["failed: bank closed"]
    assert (await real_queue.driver.depth("default")).dead == 1
    assert "expected retries at [10, 3600]" in failure(real_queue.assert_retried_at, [10, 3_600])


async def test_what_has_expired_runs_no_more_until_it_is_driven_again(real_queue: RealQueue) -> None:
    await Aging().dispatch()

    result = await real_queue.run_until_idle()

    assert (result.expired, result.failed) == (1, 0)
    assert ran == ["try", "try", "TaskExpiredError"]
    real_queue.assert_expired(Aging, times=1)
    ran.clear()
    assert await real_queue.driver.redrive("default", limit=1) == 1
    await real_queue.run_due()
    assert ran == ["try"]


async def test_what_tasks_dispatch_lands_there_too_on_whatever_queue(real_queue: RealQueue) -> None:
    await Parent().dispatch()

    await real_queue.run_due()
    assert ran == ["child"]
    real_queue.assert_dispatched(note, what="later", on_queue="later", delay=3_600)
    real_queue.assert_not_dispatched(note, what="child", ever=False)

    await real_queue.run_until_idle()
    assert ran == ["child", "later"]


async def test_time_passes_only_when_asked(real_queue: RealQueue) -> None:
    await dispatch_many([note("now"), note("in an hour").delay(3_600), note("in two").delay(7_200)])

    await real_queue.run_due()
    assert ran == ["now"]
    await real_queue.advance(minutes=59)
    assert ran == ["now"]
    await real_queue.advance(minutes=1)
    assert ran == ["now", "in an hour"]
    result = await real_queue.advance(timedelta(hours=1))
    assert ran == ["now", "in an hour", "in two"]
    assert result.virtual_elapsed >= timedelta(hours=1)


async def test_what_comes_due_in_the_time_that_passes_runs_at_its_instant(real_queue: RealQueue) -> None:
    await Flaky().dispatch()

    result = await real_queue.advance(minutes=5)

    assert (result.retried, result.failed) == (2, 1)
    real_queue.assert_retried_at([10, 30])
    assert timedelta(minutes=5) <= real_queue.clock.elapsed < timedelta(minutes=6)


async def test_a_snooze_of_a_day_is_skipped(real_queue: RealQueue) -> None:
    await Sleepy().dispatch()

    result = await real_queue.run_until_idle()

    assert (ran, result.snoozed, result.succeeded) == (["snoozed", "awake"], 1, 1)


async def test_threads_are_a_workers_threads(real_queue: RealQueue) -> None:
    await InThread().dispatch()
    await real_queue.run_until_idle()

    assert real_queue.history(InThread).value != threading.main_thread().name
    assert ran == ["from a thread"]


def test_synchronous_tests_run_it_in_a_loop_of_its_own(real_queue: RealQueue) -> None:
    note.dispatch_sync("a")
    Flaky().delay(60).dispatch_sync()

    real_queue.run_due_sync()
    assert ran == ["a"]
    real_queue.advance_sync(minutes=1)
    assert len(real_queue.history(Flaky).attempts) == 1
    real_queue.run_until_idle_sync()

    real_queue.assert_failed(Flaky, attempts=3)
    assert real_queue.drain_sync().succeeded == 0


async def test_drain_raises_what_a_task_raised_and_stops_after_so_many_attempts(real_queue: RealQueue) -> None:
    await dispatch_many([note(str(number)) for number in range(5)])

    assert (await real_queue.drain(limit=2)).succeeded == 2
    assert len(ran) == 2
    assert (await real_queue.drain()).succeeded == 3
    await Flaky().dispatch()
    with pytest.raises(ConnectionError, match="bank closed") as caught:
        await real_queue.drain(scheduled=True)
    assert "attempt 1, at virtual second" in caught.value.__notes__[0]


async def test_each_is_empty_and_private(real_queue: RealQueue) -> None:
    real_queue.assert_nothing_dispatched()
    assert (await real_queue.driver.depth("default")).ready == 0


async def test_a_message_that_the_driver_is_given_is_a_dispatch(real_queue: RealQueue) -> None:
    message = MessageFactory().message(note("raw"))

    assert await real_queue.driver.enqueue([message, message]) == [message.id]
    await real_queue.run_until_idle()

    real_queue.assert_dispatched(note, what="raw", times=1)
    assert ran == ["raw"]


# -- child processes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("real_queue", [name for name in DRIVERS if name != "memory"], indirect=True)
async def test_what_a_child_process_dispatches_lands_there_too(real_queue: RealQueue) -> None:
    await InProcess().dispatch()
    await InLoopOfProcess().dispatch()

    await real_queue.run_until_idle()

    import os

    assert real_queue.history(InProcess).value not in (None, os.getpid())
    assert sorted(ran) == ["from a process", "from the loop of a process"]
    real_queue.assert_dispatched(note, times=2)


@pytest.mark.parametrize("real_queue", ["memory"], indirect=True)
async def test_where_no_other_process_reaches_the_driver_a_child_can_not_dispatch(real_queue: RealQueue) -> None:
    await InLoopOfProcess().with_options(max_attempts=1).dispatch()

    await real_queue.run_until_idle()

    error = real_queue.history(InLoopOfProcess).exception
    assert isinstance(error, DispatchError)
    assert "no other process reaches" in str(error)


# -- transactions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("real_queue", ["postgres", "mysql", "sqlite"], indirect=True)
async def test_a_dispatch_in_a_transaction_is_one_if_that_is_committed(real_queue: RealQueue) -> None:
    rolled_back = await real_queue._store.begin()  # type: ignore[attr-defined]
    await note("no").dispatch(connection=rolled_back.connection)
    await rolled_back.rollback()
    real_queue.assert_nothing_dispatched()

    with real_queue.captures() as captured:
        committed = await real_queue._store.begin()  # type: ignore[attr-defined]
        await note("yes").dispatch(connection=committed.connection)
        if "sqlite" not in str(real_queue.driver):
            real_queue.assert_nothing_dispatched()
        await committed.commit()
    captured.assert_dispatched(note, what="yes", times=1)

    await real_queue.run_until_idle()
    assert ran == ["yes"]
    real_queue.assert_dispatched(note, times=1)


# -- what is refused, and how it ends -------------------------------------------------------------------

SQLITE = pytest.mark.parametrize("real_queue", ["sqlite"], indirect=True)


@SQLITE
async def test_a_fake_queue_and_a_real_one_do_not_nest(real_queue: RealQueue, conformance_servers: Any) -> None:
    with pytest.raises(NestedFakeError, match="open in this context already"):
        async with RealQueue(make_harness("sqlite", conformance_servers)):
            pass


async def test_one_that_is_opened_by_hand_closes_what_it_opened(conformance_servers: Any) -> None:
    async with RealQueue(make_harness("sqlite", conformance_servers)) as queue:
        await note.dispatch("a")
        await queue.run_until_idle()

    queue.assert_completed(note)
    assert queue.history(note).value == "A"
    with pytest.raises(RuntimeError, match="this RealQueue is closed"):
        await queue.run_due()
    with pytest.raises(NestedFakeError, match="opened already"):
        async with queue:
            pass
    async with FakeQueue():
        pass


@pytest.mark.parametrize("task_", [again, hangs], ids=["dispatches itself", "sleeps"])
async def test_one_that_never_ends_is_bounded_in_real_time_and_named(task_: Any, conformance_servers: Any) -> None:
    async with RealQueue(make_harness("sqlite", conformance_servers), real_s_max=1.0) as queue:
        await task_.dispatch()
        with pytest.raises(LimitExceeded, match=r"this does not end: it took 1 s of real time") as caught:
            await queue.run_until_idle()
    if task_ is hangs:
        assert "test_real_queue.py:" in str(caught.value)


@SQLITE
async def test_cancelling_the_test_cancels_what_runs_and_hands_it_back(real_queue: RealQueue) -> None:
    await hangs.dispatch()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await real_queue.run_until_idle()

    depth = await real_queue.driver.depth("default")
    assert (depth.ready, depth.reserved) == (1, 0)
    assert [other for other in asyncio.all_tasks() if "hangs" in str(other)] == []
    assert real_queue.history(hangs).attempts[0].settlement == "hand back"


@SQLITE
async def test_one_task_can_be_performed_alone_beside_it(real_queue: RealQueue) -> None:
    performed = await perform(note("alone"))
    await note.dispatch("after it")

    assert performed.value == "ALONE"
    real_queue.assert_dispatched(note, what="after it", times=1)


@SQLITE
async def test_two_calls_at_once_are_refused(real_queue: RealQueue) -> None:
    results = await asyncio.gather(real_queue.run_due(), real_queue.run_due(), return_exceptions=True)

    assert any("one call after the other" in str(result) for result in results)


@SQLITE
async def test_a_sync_method_inside_a_loop_is_refused(real_queue: RealQueue) -> None:
    with pytest.raises(RuntimeError, match="await the method without _sync"):
        real_queue.run_due_sync()


async def test_work_in_a_queue_that_is_not_served_is_told(conformance_servers: Any) -> None:
    async with RealQueue(make_harness("sqlite", conformance_servers), queues="emails") as queue:
        await note.dispatch("a")
        with pytest.raises(NotIdle, match=r"work is left \(1 on 'default'\)"):
            await queue.run_until_idle()


@SQLITE
async def test_work_that_is_due_later_than_allowed_is_told(real_queue: RealQueue) -> None:
    await note("a").delay(3_600).dispatch()

    with pytest.raises(NotIdle, match="due later than allowed"):
        await real_queue.run_until_idle(virtual_s_max=60)


@SQLITE
async def test_a_queue_that_others_have_written_to_is_served(real_queue: RealQueue) -> None:
    message = MessageFactory().message(note("theirs").on_queue("theirs"))
    driver = real_queue._store.create()
    await driver.enqueue([message])
    await driver.close()

    await real_queue.run_until_idle()

    assert ran == ["theirs"]
    real_queue.assert_dispatched(note, what="theirs", on_queue="theirs")


@SQLITE
async def test_a_failing_assertion_shows_where_and_when(real_queue: RealQueue) -> None:
    await note.dispatch("a")

    text = failure(real_queue.assert_dispatched, note, what="b")

    assert "what: wanted 'b', was 'a'" in text
    assert "after the start, on" in text
    assert "dispatched" in real_queue.timeline()


async def test_its_store_is_removed_with_it(conformance_servers: Any) -> None:
    async with RealQueue(make_harness("sqlite", conformance_servers)) as queue:
        await note.dispatch("a")
        path = Path(queue.url.removeprefix("sqlite:///"))
        assert path.exists()

    assert not path.parent.exists()


# -- SQS -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("real_queue", ["sqs"], indirect=True)
async def test_on_sqs_what_is_due_runs_and_its_clock_is_not_moved(real_queue: RealQueue) -> None:
    await note.dispatch("a")
    await real_queue.run_due()
    assert ran == ["a"]

    await note("b").delay(600).dispatch()
    with pytest.raises(NotPossible, match="clock can't be moved"):
        await real_queue.advance(minutes=10)
    with pytest.raises(NotIdle, match="clock can't be moved"):
        await real_queue.run_until_idle()
