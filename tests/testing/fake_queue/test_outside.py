"""Real I/O in a synchronous test, and what a test tool refuses: neither may look like something a task did."""

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, Generator
from datetime import timedelta

import pytest

from asynctasq import AsyncTask, task
from asynctasq.testing import FakeQueue, SimulationFailed, perform, simulate
from asynctasq.testing.errors import LimitExceeded, OtherLoopResource, RealWorldAccess
from asynctasq.testing.loop import SimulationLoop

patient_s = float

ECHOES: list[bytes] = []


@pytest.fixture
def port() -> Generator[int]:
    """A server in a thread that answers each line with itself."""
    ECHOES.clear()
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as file:
                for line in file:
                    ECHOES.append(line)
                    file.write(line)
                    file.flush()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(patient_s(10))


class Echo(AsyncTask[str]):
    max_attempts = 3
    retry_delay = 3600

    def __init__(self, port: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.port = port

    async def execute(self) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"attempt {self.attempt}\n".encode())
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(10)
        if self.attempt < 3:
            raise ConnectionError(line.decode())
        return line.decode()


class Swallows(AsyncTask[str]):
    """Asks for the network and handles whatever comes of it."""

    max_attempts = 3
    hooks: list[str] = []

    async def execute(self) -> str:
        try:
            await asyncio.open_connection("127.0.0.1", 1)
        except Exception:
            return "down"
        return "up"

    def should_retry(self, exception: Exception) -> bool:
        self.hooks.append("should_retry")
        return True

    def failed(self, exception: Exception) -> None:
        self.hooks.append("failed")


class Raises(Swallows):
    async def execute(self) -> str:
        await asyncio.open_connection("127.0.0.1", 1)
        return "up"


@task(max_attempts=3)
async def lock_of_another_loop() -> None:
    async with LOCKS[0]:
        pass


LOCKS: list[asyncio.Lock] = []


@task
async def run_command() -> int:
    process = await asyncio.create_subprocess_exec("true")
    return await process.wait()


@task
async def wait_for_nothing(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await reader.readline()
    finally:
        writer.transport.abort()


def test_a_socket_stops_virtual_time_and_retries_keep_their_instants(port: int) -> None:
    with FakeQueue() as queue:
        Echo(port).dispatch_sync()

        queue.run_until_idle_sync()

        queue.assert_completed(Echo)
        queue.assert_retried_at([3610, 7220])
        assert queue.clock.elapsed == timedelta(seconds=7230)
    assert ECHOES == [b"attempt 1\n", b"attempt 2\n", b"attempt 3\n"]


def test_a_child_process_is_waited_for() -> None:
    with FakeQueue() as queue:
        run_command().dispatch_sync()

        queue.run_until_idle_sync()

        queue.assert_completed(run_command)
        assert queue.clock.elapsed == timedelta()


def test_a_socket_that_stays_silent_is_given_up_by_its_line(port: int) -> None:
    with FakeQueue(real_s_max=0.2) as queue:
        wait_for_nothing(port).dispatch_sync()

        with pytest.raises(LimitExceeded, match=r"0\.2 s of real time(.*\n)*.*wait_for_nothing.*test_outside\.py"):
            queue.run_until_idle_sync()


@pytest.mark.parametrize("kind", [Swallows, Raises])
def test_a_refusal_fails_the_simulation_and_is_no_attempt(kind: type[Swallows]) -> None:
    Swallows.hooks.clear()

    @simulate(runs=2, faults=())
    async def program(sim: object) -> None:
        await kind().dispatch()
        await sim.settle()  # type: ignore[attr-defined]

    with pytest.raises(SimulationFailed) as caught:
        program()

    assert isinstance(caught.value.__cause__, RealWorldAccess)
    assert f"test_outside:{kind.__name__}" in str(caught.value.__cause__)
    assert "test_outside.py:" in str(caught.value.__cause__)
    assert Swallows.hooks == []


def test_a_swallowed_refusal_leaves_no_outcome_to_assert_on() -> None:
    async def program() -> None:
        async with FakeQueue() as queue:
            await Swallows().dispatch()
            with pytest.raises(RealWorldAccess):
                await queue.run_until_idle()
            with pytest.raises(AssertionError):
                queue.assert_completed(Swallows)
            with pytest.raises(AssertionError):
                queue.assert_failed(Swallows)

    SimulationLoop().run(program())


def test_a_task_may_get_the_refusal_where_the_test_wants_to_see_how_it_takes_it() -> None:
    async def program() -> None:
        async with FakeQueue(on_refusal="raise_in_task") as queue:
            await Swallows().dispatch()
            await queue.run_until_idle()
            queue.assert_completed(Swallows)

    SimulationLoop().run(program())


def test_a_resource_of_another_loop_is_an_error_of_the_test() -> None:
    async def contend() -> asyncio.Lock:
        lock = asyncio.Lock()
        await lock.acquire()
        waiting = asyncio.ensure_future(lock.acquire())
        await asyncio.sleep(0)
        waiting.cancel()
        return lock

    LOCKS[:] = [asyncio.run(contend())]
    with FakeQueue() as queue:
        lock_of_another_loop().dispatch_sync()

        with pytest.raises(OtherLoopResource, match=r"lock_of_another_loop.*another event loop.*test_outside\.py:\d+"):
            queue.run_until_idle_sync()

        with pytest.raises(AssertionError):
            queue.assert_failed(lock_of_another_loop)


def test_an_unknown_way_to_take_refusals_is_refused() -> None:
    with pytest.raises(ValueError, match="on_refusal must be one of fail_test, raise_in_task, not 'ignore'"):
        FakeQueue(on_refusal="ignore")  # type: ignore[arg-type]


async def test_perform_runs_one_attempt_on_the_loop_of_the_test(port: int) -> None:
    third = await perform(Echo(port), attempt=3)
    first = await perform(Echo(port))

    assert (third.completed, third.value) == (True, "attempt 3\n")
    assert (first.retry_in_s, str(first.exception)) == (3600, "attempt 1\n")


async def ticks() -> AsyncGenerator[int]:
    for number in range(3):
        await asyncio.sleep(100)
        yield number


@task
async def reads_ticks() -> int:
    return sum([number async for number in ticks()])


def test_sleep_in_an_asynchronous_generator_is_virtual_time() -> None:
    with FakeQueue(real_s_max=1) as queue:
        reads_ticks.dispatch_sync()
        queue.run_until_idle_sync()

    queue.assert_completed(reads_ticks)
    assert queue.clock.elapsed == timedelta(seconds=300)
