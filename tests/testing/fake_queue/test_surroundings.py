"""Middleware, lifespans and resources in tests: configured or given, in every kind of FakeQueue and in a RealQueue."""

import asyncio
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

import asynctasq
from asynctasq import AsyncTask, Resource, SyncTask, resource, task
from asynctasq.errors import ConfigError, LifespanError
from asynctasq.tasks import AsyncProcessTask, AttemptContext, DispatchContext, Middleware, SyncProcessTask
from asynctasq.tasks.resources import current_resources
from asynctasq.testing import (
    Crash,
    FakeQueue,
    RealQueue,
    Simulation,
    SimulationFailed,
    perform,
    resources,
    run_burst_worker,
    simulate,
)
from asynctasq.testing.simulation.run import RunOptions, RunParts, run_program
from asynctasq.testing.tape import Tape

SAID: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_said() -> Iterator[None]:
    SAID.clear()
    yield
    assert current_resources.get() is None


class Client:
    """What the lifespan yields. It belongs to the loop it was made in."""

    def __init__(self, name: str = "configured") -> None:
        self.name = name
        self.lock = asyncio.Lock()

    async def use(self) -> str:
        async with self.lock:
            await asyncio.sleep(1)
        return self.name


async def client() -> AsyncGenerator[Client]:
    SAID.append("entered")
    await asyncio.sleep(1)
    yield Client()
    SAID.append("left")


class InLoop(AsyncTask[str]):
    client = Resource(Client)

    async def execute(self) -> str:
        return await self.client.use()


class InThread(SyncTask[str]):
    def execute(self) -> str:
        return resource(Client).name


class InAsyncProcess(AsyncProcessTask[str]):
    async def execute(self) -> str:
        return await resource(Client).use()


class InProcess(SyncProcessTask[str]):
    def execute(self) -> str:
        return resource(Client).name


KINDS: list[type[Any]] = [InLoop, InThread, InAsyncProcess, InProcess]


class Tenancy(Middleware):
    def __init__(self, name: str) -> None:
        self.name = name

    @contextmanager
    def dispatching(self, context: DispatchContext) -> Generator[None]:
        context.headers["tenant"] = self.name
        yield

    @asynccontextmanager
    async def attempting(self, context: AttemptContext) -> AsyncGenerator[None]:
        SAID.append(f"{self.name}: {context.headers['tenant']}")
        yield


@pytest.fixture
def configured() -> None:
    asynctasq.init(driver="memory", middleware=[Tenancy("configured")], lifespan=[client])


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("kind", KINDS)
def test_a_fake_queue_has_what_the_application_has(kind: type[Any]) -> None:
    with FakeQueue() as queue:
        kind().dispatch_sync()
        kind().dispatch_sync()
        queue.run_until_idle_sync()
        assert SAID == ["entered", "configured: configured", "configured: configured"]

    assert SAID[-1] == "left"
    assert [record.headers for record in queue.dispatched()] == [{"tenant": "configured"}] * 2
    assert [queue.history(record.task_id).value for record in queue.dispatched()] == ["configured"] * 2


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("kind", KINDS)
async def test_on_the_loop_of_a_test_too(kind: type[Any]) -> None:
    loop = asyncio.get_running_loop()

    async def here() -> AsyncGenerator[Client]:
        assert asyncio.get_running_loop() is loop
        async for made in client():
            yield made
        assert asyncio.get_running_loop() is loop

    asynctasq.init(driver="memory", middleware=[Tenancy("configured")], lifespan=[here])
    async with FakeQueue() as queue:
        await kind().dispatch()
        await queue.run_until_idle()

    queue.assert_completed(kind)
    assert SAID == ["entered", "configured: configured", "left"]


@pytest.mark.usefixtures("configured")
def test_a_queue_that_runs_nothing_enters_nothing() -> None:
    with FakeQueue() as queue:
        InLoop().dispatch_sync()

    queue.assert_dispatched(InLoop)
    assert SAID == []


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_takes_its_place(kind: type[Any]) -> None:
    with FakeQueue(middleware=[Tenancy("given")], resources=Client("mine")) as queue:
        kind().dispatch_sync()
        queue.run_until_idle_sync()

    assert queue.history(kind).value == "mine"
    assert SAID == ["given: given"]


@pytest.mark.usefixtures("configured")
def test_no_middleware_is_a_choice() -> None:
    with FakeQueue(middleware=[], resources=(Client("mine"), 3)) as queue:
        InLoop().dispatch_sync()
        queue.run_until_idle_sync()

    assert queue.history(InLoop).value == "mine"
    assert (SAID, queue.dispatched()[0].headers) == ([], {})


@pytest.mark.usefixtures("configured")
async def test_resources_around_a_test_take_the_place_of_lifespans() -> None:
    with resources(Client("mine")):
        assert (await InLoop().execute(), InThread().execute()) == ("mine", "mine")
        assert (await perform(InLoop())).value == "mine"
        async with FakeQueue() as queue:
            await InLoop().dispatch()
            await queue.run_until_idle()

    assert queue.history(InLoop).value == "mine"
    assert "entered" not in SAID
    with pytest.raises(LifespanError, match=r"asynctasq\.testing\.resources"):
        await InLoop().execute()


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_performed_task_has_them_for_itself(kind: type[Any]) -> None:
    assert (await perform(kind())).value == "configured"

    assert SAID == ["entered", "configured: configured", "left"]


def test_what_is_no_middleware_is_refused_when_the_queue_is_made() -> None:
    with pytest.raises(ConfigError, match="no_such_module"):
        FakeQueue(middleware=["no_such_module:Name", object()])  # type: ignore[list-item] - a mistake
    with pytest.raises(ConfigError, match="is no Middleware"):
        FakeQueue(middleware=[object()])  # type: ignore[list-item] - a mistake


def test_a_lifespan_that_fails_fails_the_test() -> None:
    async def broken() -> AsyncGenerator[None]:
        raise ConnectionError("no database")
        yield

    asynctasq.init(driver="memory", lifespan=[broken])
    with FakeQueue() as queue:
        InLoop().dispatch_sync()
        with pytest.raises(LifespanError, match="no database"):
            queue.run_until_idle_sync()


@task
async def dispatches() -> None:
    await InThread().dispatch()


def test_a_dispatch_of_a_task_goes_through_it_too() -> None:
    with FakeQueue(middleware=[Tenancy("a")], resources=Client()) as queue:
        dispatches.dispatch_sync()
        queue.run_until_idle_sync()

    assert SAID == ["a: a", "a: a"]
    assert [record.headers["tenant"] for record in queue.dispatched()] == ["a", "a"]


# -- simulations -------------------------------------------------------------------------------------------


async def program(sim: Simulation) -> None:
    for _ in range(5):
        await InLoop().dispatch()
        await InAsyncProcess().dispatch()
    await sim.settle()
    sim.queue.assert_completed(InLoop, times=5)


@pytest.mark.usefixtures("configured")
def test_each_worker_of_a_simulation_enters_its_own_and_a_crash_leaves_none() -> None:
    @simulate(runs=20)
    async def explored(sim: Simulation) -> None:
        await program(sim)

    explored()

    assert SAID.count("entered") >= 60
    assert 0 < SAID.count("left") <= SAID.count("entered")


@pytest.mark.usefixtures("configured")
def test_runs_with_lifespans_and_middleware_repeat() -> None:
    async def parts(parts: RunParts) -> None:
        await program(Simulation(parts))

    faults = [Crash(at="mid_attempt", task=InLoop), Crash(at="before_settle")]
    runs = [run_program(parts, RunOptions(faults=faults), Tape(7), trace=True) for _ in range(2)]

    assert [run.failure for run in runs] == [None, None]
    assert runs[0].digest() == runs[1].digest()


def test_a_lifespan_that_needs_the_network_fails_a_simulation_in_words() -> None:
    async def connects() -> AsyncGenerator[None]:
        await asyncio.open_connection("127.0.0.1", 9)
        yield

    asynctasq.init(driver="memory", lifespan=[connects])

    @simulate(runs=1)
    async def explored(sim: Simulation) -> None:
        await program(sim)

    with pytest.raises(SimulationFailed, match="network"):
        explored()


# -- real drivers ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("configured")
async def test_a_real_queue_has_what_the_application_has(real_queue: RealQueue) -> None:
    await InThread().dispatch()
    await real_queue.run_until_idle()

    real_queue.assert_completed(InThread)
    assert [record.headers for record in real_queue.dispatched()] == [{"tenant": "configured"}]
    assert SAID[:2] == ["entered", "configured: configured"]
    assert SAID.count("entered") == SAID.count("left")


@pytest.mark.usefixtures("configured")
async def test_a_real_queue_takes_the_resources_around_it(real_queue: RealQueue) -> None:
    with resources(Client("mine")):
        await InThread().dispatch()
        await real_queue.run_until_idle()

    assert real_queue.history(InThread).value == "mine"
    assert "entered" not in SAID


async def test_a_burst_worker_is_a_worker() -> None:
    from asynctasq.drivers.memory_driver import MemoryDriver
    from asynctasq.queue import Queue

    asynctasq.init(driver="memory", lifespan=[client])
    driver = MemoryDriver()
    await Queue(driver).dispatch([InThread()])

    await run_burst_worker(driver)

    assert SAID == ["entered", "left"]
