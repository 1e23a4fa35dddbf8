"""Which dispatches a FakeQueue sees: its context's, of chosen tasks, in threads, loops, fixtures and parallel runs."""

import asyncio
import subprocess
import sys
import threading
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from asynctasq.core.setup import Setup, install
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.tasks import AsyncTask, dispatch_many_sync, task
from asynctasq.tasks.dispatching import scoped_dispatcher
from asynctasq.testing import FakeQueue, NestedFakeError
from tests.patience import SOON_S, patient_s


@task
async def mail(to: str) -> None:
    return None


@task
async def audit(what: str) -> None:
    return None


class Overridden(AsyncTask[None]):
    _driver_override = "redis://no.such.host.invalid"

    async def execute(self) -> None:
        return None


async def ready(driver: MemoryDriver) -> int:
    return (await driver.depth("default")).ready


# -- which tasks -----------------------------------------------------------------------------------


async def test_everything_is_faked_whatever_driver_is_configured_or_overridden(outside: MemoryDriver) -> None:
    async with FakeQueue() as queue:
        await mail.dispatch("a")
        await Overridden().dispatch()

        assert len(queue.dispatched()) == 2

    assert await ready(outside) == 0


async def test_only_fakes_some_and_lets_the_rest_through(outside: MemoryDriver) -> None:
    async with FakeQueue(only=[mail]) as queue:
        await mail.dispatch("a")
        await audit.dispatch("b")

        assert [record.task for record in queue.dispatched()] == [mail.task_class]

    assert await ready(outside) == 1


async def test_except_lets_some_through_and_fakes_the_rest(outside: MemoryDriver) -> None:
    async with FakeQueue(except_=[mail]) as queue:
        await mail.dispatch("a")
        await audit.dispatch("b")

        assert [record.task for record in queue.dispatched()] == [audit.task_class]

    assert await ready(outside) == 1


async def test_only_nothing_lets_everything_through(outside: MemoryDriver) -> None:
    async with FakeQueue(only=[]) as queue:
        await mail.dispatch("a")
        queue.assert_nothing_dispatched()

    assert await ready(outside) == 1


def test_a_mixed_batch_returns_ids_in_order(outside: MemoryDriver) -> None:
    with FakeQueue(only=[mail]) as queue:
        ids = dispatch_many_sync([mail("a"), audit("b"), mail("c")])

        assert [record.task_id for record in queue.dispatched()] == [ids[0], ids[2]]
        assert len(set(ids)) == 3


def test_only_and_except_together_are_refused() -> None:
    with pytest.raises(ValueError, match="not both"):
        FakeQueue(only=[mail], except_=[audit])


# -- opening and closing ---------------------------------------------------------------------------


def test_two_in_one_context_are_an_error() -> None:
    with FakeQueue(), pytest.raises(NestedFakeError, match="open in this context already"), FakeQueue():
        pass


async def test_two_in_one_context_are_an_error_in_async_code_too() -> None:
    async with FakeQueue():
        with pytest.raises(NestedFakeError):
            async with FakeQueue():
                pass


def test_one_that_failed_to_open_leaves_the_open_one_in_place() -> None:
    with FakeQueue() as queue:
        with pytest.raises(NestedFakeError), FakeQueue():
            pass
        mail.dispatch_sync("a")

        queue.assert_dispatched(mail, times=1)


def test_a_queue_is_opened_once() -> None:
    queue = FakeQueue()
    with queue:
        pass

    with pytest.raises(NestedFakeError, match="make a new one"), queue:
        pass


def test_one_after_the_other_share_nothing() -> None:
    with FakeQueue():
        mail.dispatch_sync("a")
    with FakeQueue() as second:
        second.assert_nothing_dispatched()


def test_an_unopened_queue_says_how_to_open_it() -> None:
    with pytest.raises(RuntimeError, match="use it in a `with` or `async with` statement"):
        _ = FakeQueue().clock


def test_after_the_end_dispatches_go_elsewhere_and_the_record_stays() -> None:
    with FakeQueue() as queue:
        mail.dispatch_sync("a")

    assert scoped_dispatcher.get() is None
    queue.assert_dispatched(mail, times=1)


def test_work_left_is_fine_unless_strict() -> None:
    with FakeQueue():
        mail.dispatch_sync("a")

    with (
        pytest.raises(AssertionError, match=r"1 tasks were dispatched and not run to their end:\n  mail\(to='a'\)"),
        FakeQueue(strict=True),
    ):
        mail.dispatch_sync("a")


async def test_strict_is_content_when_all_has_run() -> None:
    async with FakeQueue(strict=True) as queue:
        await mail.dispatch("a")
        await queue.run_until_idle()


def test_strict_does_not_hide_the_failure_of_the_test() -> None:
    with pytest.raises(ZeroDivisionError), FakeQueue(strict=True):
        mail.dispatch_sync("a")
        _ = 1 / 0


# -- contexts, threads, loops ----------------------------------------------------------------------


def test_two_threads_have_their_own() -> None:
    counts: dict[int, int] = {}
    together = threading.Barrier(2, timeout=SOON_S)

    def run(number: int) -> None:
        with FakeQueue() as queue:
            together.wait()
            for _ in range(number):
                mail.dispatch_sync("a")
            together.wait()
            queue.run_until_idle_sync()
            counts[number] = len(queue.dispatched())

    threads = [threading.Thread(target=run, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert counts == {1: 1, 2: 2}


async def test_two_asyncio_tasks_have_their_own() -> None:
    both_open = asyncio.Barrier(2)

    async def run(number: int) -> int:
        async with FakeQueue() as queue:
            await both_open.wait()
            for _ in range(number):
                await mail.dispatch("a")
            await both_open.wait()
            await queue.run_due()
            return len(queue.dispatched())

    assert await asyncio.gather(run(1), run(2)) == [1, 2]


async def test_asyncio_tasks_and_to_thread_inherit_it(fake_queue: FakeQueue) -> None:
    await asyncio.create_task(mail.dispatch("from a task"))
    await asyncio.to_thread(mail.dispatch_sync, "from a thread")

    assert [record.arguments["to"] for record in fake_queue.dispatched()] == ["from a task", "from a thread"]


def test_a_plain_thread_is_another_context_unless_it_is_given_this_one(fake_queue: FakeQueue) -> None:
    seen: list[Any] = []
    plain = threading.Thread(target=lambda: seen.append(scoped_dispatcher.get()))
    given = threading.Thread(target=copy_context().run, args=(mail.dispatch_sync, "a"))
    for thread in (plain, given):
        thread.start()
        thread.join()

    assert seen == [None]
    fake_queue.assert_dispatched(mail, times=1)


async def test_many_threads_at_once_lose_nothing(fake_queue: FakeQueue) -> None:
    await asyncio.gather(*(asyncio.to_thread(mail.dispatch_sync, str(number)) for number in range(50)))

    assert {record.arguments["to"] for record in fake_queue.dispatched()} == {str(number) for number in range(50)}


async def test_sync_code_must_not_dispatch_inside_a_running_loop_here_neither(fake_queue: FakeQueue) -> None:
    with pytest.raises(RuntimeError, match="would block the running event loop"):
        mail.dispatch_sync("a")

    fake_queue.assert_nothing_dispatched()


def test_an_async_task_must_not_dispatch_like_sync_code(fake_queue: FakeQueue) -> None:
    @task
    async def careless() -> None:
        mail.dispatch_sync("a")

    careless.dispatch_sync()

    [error] = fake_queue.drain_sync(errors="collect", retries="never").errors
    assert "use `await task.dispatch()` here" in str(error)


def test_a_loop_of_its_own_inside_a_sync_test_is_fine(fake_queue: FakeQueue) -> None:
    async def main() -> None:
        await mail.dispatch("a")
        await fake_queue.run_due()

    asyncio.run(main())

    fake_queue.assert_completed(mail)


def test_install_of_another_setup_changes_nothing_for_an_open_one(outside: MemoryDriver) -> None:
    from asynctasq.config import load_settings

    with FakeQueue() as queue:
        install(Setup(load_settings({"driver": "memory"})))
        mail.dispatch_sync("a")

        queue.assert_dispatched(mail)


# -- fixtures and parallel runs --------------------------------------------------------------------

PROJECT = """
import pytest
from asynctasq import task

@task
async def mail(to: str) -> None: ...

@pytest.fixture
def signed_up(fake_queue):
    mail.dispatch_sync("from a fixture")

@pytest.fixture(params=["asyncio"])
def anyio_backend(request):
    return request.param

def test_a_dispatch_in_a_fixture_is_seen(signed_up, fake_queue):
    fake_queue.assert_dispatched(mail, to="from a fixture", times=1)

@pytest.mark.asyncio
async def test_pytest_asyncio(signed_up, fake_queue):
    await mail.dispatch("a")
    await fake_queue.run_until_idle()
    fake_queue.assert_completed(mail, times=2)

@pytest.mark.anyio
async def test_anyio(signed_up, fake_queue):
    await mail.dispatch("a")
    await fake_queue.run_until_idle()
    fake_queue.assert_completed(mail, times=2)

@pytest.mark.parametrize("number", range(8))
def test_alone(number, fake_queue):
    fake_queue.assert_nothing_dispatched()
    mail.dispatch_sync(str(number))
    fake_queue.assert_dispatched(mail, times=1)
"""


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=["plain", "xdist"])
def test_the_fixture_serves_sync_async_and_anyio_tests_also_in_parallel(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "test_shop.py").write_text(PROJECT)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = strict\n")

    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=patient_s(60))

    assert "11 passed" in done.stdout, done.stdout + done.stderr
