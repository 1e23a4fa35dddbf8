"""A FakeQueue on the test's own loop: what is real there, what is virtual, and how it ends."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import anyio
import pytest

from asynctasq import AsyncTask, SyncTask, task
from asynctasq.testing import FakeQueue
from asynctasq.testing.errors import LimitExceeded
from tests.testing.fake_queue.shared_loop import Runs, code, in_the_world, run, seen

BOTH_LOOPS = True
pytestmark = pytest.mark.usefixtures("nothing_is_left")


# -- sleep -----------------------------------------------------------------------------------------


async def test_a_sleep_of_an_hour_is_virtual() -> None:
    started = time.perf_counter()

    assert await run(lambda: asyncio.sleep(3600, "slept")) == 3600
    assert seen == ["slept"]
    assert time.perf_counter() - started < 30


async def test_anyios_sleep_is_virtual_too() -> None:
    assert await run(lambda: anyio.sleep(3600)) == 3600


async def test_real_work_takes_no_virtual_time() -> None:
    assert await run(in_the_world) == 0
    assert seen == ["real"]


async def test_real_work_is_done_before_the_clock_jumps_over_a_sleep_beside_it() -> None:
    async def both() -> Any:
        order: list[str] = []

        async def work() -> None:
            order.append(await in_the_world())

        async def sleep() -> None:
            await asyncio.sleep(5)
            order.append("slept")

        await asyncio.gather(sleep(), work())
        return order

    assert await run(both) == 5
    assert seen == [["real", "slept"]]


async def test_the_tasks_time_is_the_queues() -> None:
    async def ask() -> float:
        loop = asyncio.get_running_loop()
        before = loop.time()
        await asyncio.sleep(90)
        await in_the_world()
        return loop.time() - before

    assert await run(ask) == 90
    assert seen == [90]


async def test_the_tests_own_time_stays_real_while_a_task_sleeps() -> None:
    loop = asyncio.get_running_loop()
    before = loop.time()

    await run(lambda: asyncio.sleep(86_400))

    assert loop.time() - before < 60


async def test_call_later_of_the_application_is_virtual() -> None:
    async def later() -> None:
        done = asyncio.Event()
        asyncio.get_running_loop().call_later(60, done.set)
        await done.wait()

    assert await run(later) == 60


# -- deadlines -------------------------------------------------------------------------------------


async def expects_timeout(what: Callable[[], Any]) -> str:
    try:
        await what()
    except TimeoutError:
        return "timed out"
    return "ended"


async def timeout_of(seconds: float, what: Callable[[], Any]) -> None:
    async with asyncio.timeout(seconds):
        await what()


DEADLINES: dict[str, Callable[[float, Callable[[], Any]], Any]] = {
    "timeout": timeout_of,
    "wait_for": lambda seconds, what: asyncio.wait_for(what(), seconds),
}


@pytest.mark.parametrize("kind", DEADLINES)
async def test_a_deadline_counts_virtual_seconds_of_a_sleep(kind: str) -> None:
    assert await run(lambda: expects_timeout(lambda: DEADLINES[kind](5, lambda: asyncio.sleep(10)))) == 5
    assert seen == ["timed out"]


@pytest.mark.parametrize("kind", DEADLINES)
async def test_a_deadline_counts_real_seconds_of_real_work(kind: str) -> None:
    never = asyncio.get_running_loop().create_future  # nobody in the loop sets it

    await run(lambda: expects_timeout(lambda: DEADLINES[kind](0.05, never)))

    assert seen == ["timed out"]


@pytest.mark.parametrize("kind", DEADLINES)
async def test_a_deadline_is_not_up_while_real_work_is_quicker(kind: str) -> None:
    assert await run(lambda: expects_timeout(lambda: DEADLINES[kind](30, in_the_world))) == 0
    assert seen == ["ended"]


async def test_wait_returns_what_is_done_at_its_virtual_deadline() -> None:
    async def wait() -> tuple[int, int]:
        short, long = asyncio.create_task(asyncio.sleep(1)), asyncio.create_task(asyncio.sleep(100))
        done, pending = await asyncio.wait([short, long], timeout=10)
        long.cancel()
        return len(done), len(pending)

    assert await run(wait) == 10
    assert seen == [(1, 1)]


class TimesOut(AsyncTask[None]):
    timeout = 5
    max_attempts = 2
    retry_delay = 3600

    async def execute(self) -> None:
        await code[-1]()


async def test_a_tasks_timeout_counts_virtual_seconds_of_a_sleep() -> None:
    code.append(lambda: asyncio.sleep(3600))
    async with FakeQueue() as queue:
        await TimesOut().dispatch()
        await queue.run_until_idle()

        queue.assert_failed(TimesOut, attempts=2)
        queue.assert_retried_at([3605])
        assert queue.clock.elapsed == timedelta(seconds=3610)


async def test_a_tasks_timeout_counts_real_seconds_where_the_world_does_not_answer() -> None:
    class Hangs(AsyncTask[None]):
        timeout = 0.05
        max_attempts = 1

        async def execute(self) -> None:
            await asyncio.get_running_loop().create_future()

    async with FakeQueue() as queue:
        await Hangs().dispatch()
        await queue.run_until_idle()

        queue.assert_failed(Hangs, attempts=1)


# -- tasks of tasks --------------------------------------------------------------------------------


async def test_a_task_group_runs_side_by_side_in_virtual_time() -> None:
    async def group() -> tuple[str, str, str]:
        async with asyncio.TaskGroup() as tasks:
            first, second = tasks.create_task(asyncio.sleep(7, "a")), tasks.create_task(asyncio.sleep(9, "b"))
            third = tasks.create_task(in_the_world())
        return first.result(), second.result(), third.result()

    assert await run(group) == 9
    assert seen == [("a", "b", "real")]


async def test_a_failure_in_a_task_group_cancels_its_siblings() -> None:
    async def group() -> str:
        async def fail() -> None:
            await asyncio.sleep(3)
            raise ValueError

        with suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as tasks:
                sibling = tasks.create_task(asyncio.sleep(100))
                tasks.create_task(fail())
        return "cancelled" if sibling.cancelled() else "ran on"

    assert await run(group) == 3
    assert seen == ["cancelled"]


@pytest.mark.parametrize("what", [lambda: asyncio.sleep(60, "x"), in_the_world], ids=["sleep", "real"])
async def test_what_is_shielded_is_waited_for(what: Callable[[], Any]) -> None:
    await run(lambda: asyncio.shield(asyncio.create_task(what())))

    assert len(seen) == 1


async def test_an_event_that_a_sibling_sets_is_waited_for_in_virtual_time() -> None:
    async def event() -> str:
        happened = asyncio.Event()

        async def sibling() -> None:
            await asyncio.sleep(60)
            happened.set()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sibling())
            await happened.wait()
        return "set"

    assert await run(event) == 60


async def test_an_event_that_the_test_sets_is_waited_for_in_real_time() -> None:
    happened = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, happened.set)

    assert await run(happened.wait) == 0


@pytest.mark.parametrize("kind", ["queue", "lock", "semaphore", "condition", "anyio"])
async def test_each_primitive_that_a_sibling_serves_lets_virtual_time_pass(kind: str) -> None:
    async def by_queue() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(after_an_hour(lambda: queue.put(1)))
            await queue.get()

    async def by(lock: Any) -> None:
        async def hold() -> None:
            async with lock:
                await asyncio.sleep(3600)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(hold())
            await asyncio.sleep(0)
            async with lock:
                pass

    async def by_condition() -> None:
        condition = asyncio.Condition()

        async def notify() -> None:
            async with condition:
                condition.notify_all()

        async with asyncio.TaskGroup() as tasks, condition:
            tasks.create_task(after_an_hour(notify))
            await condition.wait()

    async def by_anyio() -> None:
        event = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(after_an_hour, lambda: asyncio.sleep(0, event.set()))
            await event.wait()

    async def after_an_hour(what: Callable[[], Any]) -> None:
        await asyncio.sleep(3600)
        await what()

    choices: dict[str, Callable[[], Any]] = {
        "queue": by_queue,
        "lock": lambda: by(asyncio.Lock()),
        "semaphore": lambda: by(asyncio.Semaphore(1)),
        "condition": by_condition,
        "anyio": by_anyio,
    }
    assert await run(choices[kind]) == 3600


async def test_blocking_code_runs_in_a_thread_and_leaves_the_loop_free() -> None:
    class Blocks(SyncTask[int]):
        def execute(self) -> int:
            return asyncio.run_coroutine_threadsafe(asyncio.sleep(0, 5), loop).result(20)

    loop = asyncio.get_running_loop()
    async with FakeQueue() as queue:
        await Blocks().dispatch()
        await queue.run_until_idle()

        queue.assert_completed(Blocks)


# -- the test goes on meanwhile --------------------------------------------------------------------


async def test_a_server_in_the_tests_loop_answers_its_own_task() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello\n")
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return line

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        assert await run(ask) == 0
    finally:
        server.close()
        await server.wait_closed()
    assert seen == [b"HELLO\n"]


async def test_a_blocking_client_in_a_thread_is_answered_by_a_server_in_the_tests_loop() -> None:
    import urllib.request

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    @task
    def fetch(url: str) -> str:
        with urllib.request.urlopen(url, timeout=20) as response:
            return str(response.read())

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        async with FakeQueue() as queue:
            await fetch(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/").dispatch()
            await queue.run_until_idle()
            queue.assert_completed(fetch)
    finally:
        server.close()
        await server.wait_closed()


async def test_a_timeout_of_the_test_reaches_a_run_that_waits_for_the_world() -> None:
    cancelled: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.append("cancelled")
            raise

    code.append(wait)
    async with FakeQueue() as queue:
        await Runs().dispatch()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await queue.run_until_idle()

    assert cancelled == ["cancelled"]


async def test_cancelling_the_test_cancels_what_runs_for_it_and_what_that_has_started() -> None:
    began = asyncio.Event()

    async def wait() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(forever())
            began.set()

    async def forever() -> None:
        await asyncio.Event().wait()

    async def test() -> None:
        async with FakeQueue() as queue:
            await Runs().dispatch()
            await queue.run_until_idle()

    code.append(wait)
    running = asyncio.create_task(test())
    await began.wait()
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_task_that_was_left_running_in_the_background_is_cancelled_at_the_end() -> None:
    left: list[asyncio.Task[None]] = []

    async def leave() -> None:
        left.append(asyncio.create_task(asyncio.sleep(3600)))
        await asyncio.sleep(0)

    code.append(leave)
    async with FakeQueue() as queue:
        await Runs().dispatch()
        await queue.run_due()

    assert left[0].cancelled()


# -- what never ends -------------------------------------------------------------------------------


async def waits_for_ever() -> None:
    await asyncio.get_running_loop().create_future()  # the line


async def test_a_wait_that_never_ends_is_given_up_and_names_its_line() -> None:
    code.append(waits_for_ever)
    async with FakeQueue(real_s_max=0.1) as queue:
        await Runs().dispatch()

        with pytest.raises(LimitExceeded, match=r"0\.1 s of real time") as caught:
            await queue.run_until_idle()

    assert "test_shared_loop.py" in str(caught.value)
    assert "waits_for_ever" in str(caught.value)


async def test_a_real_limit_counts_from_the_last_task_that_began_or_ended() -> None:
    @task
    async def short() -> None:
        await asyncio.to_thread(time.sleep, 0.15)

    async with FakeQueue(real_s_max=0.6, concurrency=1) as queue:
        for _ in range(6):
            await short().dispatch()
        await queue.run_until_idle()

        queue.assert_completed(short, times=6)


async def test_a_task_that_closes_the_loop_fails_alone() -> None:
    async def close() -> None:
        asyncio.get_running_loop().close()

    code.append(close)
    async with FakeQueue() as queue:
        await Runs().dispatch()
        await queue.run_until_idle()

        queue.assert_failed(Runs, with_=RuntimeError, attempts=1)
