"""The worker's lifespans: when they are entered and left, what fails, what hangs, what their tasks reach."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

import asynctasq
from asynctasq import AsyncTask, Resource, SyncTask, resource, task
from asynctasq.core.runtime import WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import ConfigError, DriverMisconfigured, DriverUnavailable, LifespanError
from asynctasq.kernel.messages import Lease
from asynctasq.queue import Queue
from asynctasq.tasks import BaseTask
from asynctasq.tasks.configured import Lifespan, lifespans_of
from asynctasq.tasks.resources import current_resources
from tests.patience import SOON_S, patient_s, until

SAID: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_said() -> Iterator[None]:
    SAID.clear()
    yield
    assert current_resources.get() is None


class Client:
    """A resource that says what is done with it."""

    def __init__(self, name: str = "client") -> None:
        self.name = name

    def use(self) -> None:
        SAID.append(f"{self.name} used")


class Engine(Client):
    """Another one."""


async def client() -> AsyncGenerator[Client]:
    SAID.append("client entered")
    await asyncio.sleep(0)
    yield Client()
    await asyncio.sleep(0)
    SAID.append("client left")


async def engine() -> AsyncGenerator[Engine]:
    SAID.append("engine entered")
    try:
        yield Engine("engine")
    finally:
        SAID.append("engine left")


async def nothing() -> AsyncGenerator[None]:
    SAID.append("nothing entered")
    yield
    SAID.append("nothing left")


class Uses(AsyncTask[None]):
    max_attempts = 1
    resources = Resource(Client)

    async def execute(self) -> None:
        self.resources.use()


class UsesInThread(SyncTask[None]):
    max_attempts = 2
    retry_delay = 0
    fails: bool = False

    def execute(self) -> None:
        resource(Client).use()
        if self.fails:
            raise ValueError

    def should_retry(self, exception: Exception) -> bool:
        resource(Client).use()
        return True

    async def failed(self, exception: Exception) -> None:
        resource(Client).use()


def worker_on(
    driver: MemoryDriver,
    *lifespans: Callable[[], Any],
    burst: bool = True,
    shutdown_timeout_s: float = 30.0,
    end_timeout_s: float = 1.2,
    start_s: float = 60.0,
    max_tasks: int | None = None,
) -> Worker:
    settings = WorkerSettings(
        handle_signals=False,
        burst=burst,
        shutdown_timeout_s=shutdown_timeout_s,
        end_timeout_s=end_timeout_s,
        lifespan_start_s=start_s,
        lifespans=lifespans_of(lifespans),
        middleware=(),
    )
    return Worker(driver, settings=settings, max_tasks=max_tasks)


async def driver_with(*tasks: BaseTask[Any]) -> MemoryDriver:
    driver = MemoryDriver()
    await Queue(driver).dispatch(tasks)
    return driver


async def run(worker: Worker) -> None:
    async with asyncio.timeout(SOON_S):
        await worker.start()


async def ready(driver: MemoryDriver) -> int:
    depth = await driver.depth("default")
    assert depth.reserved == 0
    return depth.ready


# -- in order ------------------------------------------------------------------------------------------


async def test_they_are_entered_once_before_the_first_attempt_and_left_in_reverse_after_the_last() -> None:
    driver = await driver_with(Uses(), Uses(), Uses())

    await run(worker_on(driver, nothing, client, engine_apart))

    assert [
        *["nothing entered", "client entered", "engine apart entered"],
        *["client used"] * 3,
        *["engine apart left", "client left", "nothing left"],
    ] == SAID


@asynccontextmanager
async def engine_apart() -> AsyncGenerator[dict[str, int]]:
    """A function that returns a context manager will do, too."""
    SAID.append("engine apart entered")
    yield {}
    SAID.append("engine apart left")


async def test_nothing_is_reserved_while_one_is_entered() -> None:
    driver, go = await driver_with(Uses()), asyncio.Event()

    async def slow() -> AsyncGenerator[Client]:
        SAID.append("waits")
        await go.wait()
        assert await ready(driver) == 1
        yield Client()

    running = asyncio.create_task(run(worker_on(driver, slow)))
    await until(lambda: SAID == ["waits"])
    assert await ready(driver) == 1
    go.set()
    await running

    assert SAID == ["waits", "client used"]


async def test_threads_and_hooks_reach_what_they_yield() -> None:
    driver = await driver_with(UsesInThread(fails=True))

    await run(worker_on(driver, client))

    assert SAID.count("client used") == 2 + 1 + 1  # two attempts, should_retry after the first, failed


async def test_a_worker_that_starts_again_enters_them_anew() -> None:
    driver = await driver_with(Uses(), Uses())
    worker = worker_on(driver, client, max_tasks=1)

    await run(worker)
    await run(worker)

    assert SAID == ["client entered", "client used", "client left"] * 2


async def test_each_worker_of_a_loop_has_its_own() -> None:
    driver = await driver_with(Uses())

    await asyncio.gather(run(worker_on(driver, client)), run(worker_on(driver, client)))

    assert SAID.count("client entered") == SAID.count("client left") == 2


async def test_it_may_hold_a_task_group_open() -> None:
    async def group() -> AsyncGenerator[Client]:
        async with asyncio.TaskGroup() as tasks, asyncio.timeout(SOON_S):
            background = tasks.create_task(asyncio.sleep(SOON_S))
            yield Client()
            background.cancel()
        SAID.append("group left")

    await run(worker_on(await driver_with(Uses()), group))

    assert SAID == ["client used", "group left"]


# -- the configuration -----------------------------------------------------------------------------------


async def test_a_worker_used_as_a_library_takes_those_of_init() -> None:
    asynctasq.init(driver="memory", lifespan=[client])

    await Worker(await driver_with(Uses()), max_tasks=1).start()

    assert SAID == ["client entered", "client used", "client left"]


async def test_or_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCTASQ_LIFESPAN", f"{__name__}:client")

    await Worker(await driver_with(Uses()), max_tasks=1).start()

    assert SAID == ["client entered", "client used", "client left"]


async def plain() -> None: ...


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (object(), "write an `async def` function without parameters that yields once"),
        (plain, "write an `async def` function without parameters that yields once"),
        ("shop", "write package.module:name"),
        ("no_such_module:name", "No module named"),
    ],
)
def test_what_is_no_lifespan_is_an_error_in_words(entry: object, why: str) -> None:
    with pytest.raises(ConfigError, match=f"^lifespan: .*{why}"):
        lifespans_of([entry])


def test_their_names_are_those_by_which_they_can_be_imported() -> None:
    assert [one.name for one in lifespans_of([client, f"{__name__}:engine"])] == [
        f"{__name__}:client",
        f"{__name__}:engine",
    ]


# -- failures at the start -------------------------------------------------------------------------------


def failing(error: BaseException) -> Callable[[], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def broken() -> AsyncGenerator[None]:
        raise error
        yield

    return broken


@pytest.mark.parametrize("error", [ConnectionError("no database"), SystemExit(3), asyncio.CancelledError()])
async def test_one_that_fails_ends_the_worker_and_leaves_those_before(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    driver = await driver_with(Uses())

    with pytest.raises(LifespanError, match=r"the lifespan .*broken failed at its start: ") as caught:
        await run(worker_on(driver, client, engine, failing(error), nothing))

    assert caught.value.__cause__ is error
    assert SAID == ["client entered", "engine entered", "engine left", "client left"]
    assert await ready(driver) == 1
    assert "Traceback" in caplog.text or caplog.records[0].exc_info


async def test_one_that_takes_too_long_ends_the_worker() -> None:
    async def hangs() -> AsyncGenerator[None]:
        try:
            await asyncio.sleep(600)
            yield
        finally:
            SAID.append("cut")

    driver = await driver_with(Uses())

    with pytest.raises(LifespanError, match=r"the lifespan .*hangs did not start within 0\.05 s"):
        await run(worker_on(driver, client, hangs, start_s=0.05))

    assert SAID == ["client entered", "cut", "client left"]
    assert await ready(driver) == 1


async def test_a_stop_while_one_is_entered_cancels_it_and_leaves_those_before() -> None:
    async def waits() -> AsyncGenerator[None]:
        SAID.append("waits")
        await asyncio.sleep(600)
        yield

    driver = await driver_with(Uses())
    worker = worker_on(driver, client, waits)
    running = asyncio.create_task(run(worker))
    await until(lambda: "waits" in SAID)

    worker.stop()
    await running

    assert SAID == ["client entered", "waits", "client left"]
    assert await ready(driver) == 1


async def test_what_returns_no_context_manager_is_told() -> None:
    def wrong() -> object:
        return object()

    with pytest.raises(LifespanError, match=r"wrong failed at its start: .*AttributeError"):
        await run(worker_on(MemoryDriver(), wrong))


async def test_a_driver_that_can_not_be_opened_enters_nothing() -> None:
    class Closed(MemoryDriver):
        async def open(self) -> None:
            raise DriverMisconfigured("no")

    with pytest.raises(DriverMisconfigured):
        await run(worker_on(Closed(), client))

    assert SAID == []


# -- the end ---------------------------------------------------------------------------------------------


class Long(AsyncTask[None]):
    async def execute(self) -> None:
        SAID.append("begun")
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(0.02)
            resource(Client).use()


async def test_they_are_left_after_interrupted_attempts_have_ended() -> None:
    driver = await driver_with(Long())
    worker = worker_on(driver, client, burst=False, end_timeout_s=patient_s(5))
    running = asyncio.create_task(run(worker))
    await until(lambda: "begun" in SAID)

    worker.stop(immediate=True)
    await running

    assert SAID == ["client entered", "begun", "client used", "client left"]
    assert await ready(driver) == 1


async def test_they_are_left_after_the_attempts_when_the_backend_ends_the_worker() -> None:
    class Breaks(MemoryDriver):
        broken = False

        async def reserve(self, queues: Any, *, limit: int, lease_s: float, wait_s: float) -> list[Lease]:
            if self.broken:
                raise DriverMisconfigured("gone")
            return await super().reserve(queues, limit=limit, lease_s=lease_s, wait_s=wait_s)

        async def turn(self, *args: Any, **kwargs: Any) -> Any:
            if self.broken:
                raise DriverMisconfigured("gone")
            return await super().turn(*args, **kwargs)

    driver = Breaks()
    await Queue(driver).dispatch([Long()])
    worker = worker_on(driver, client, burst=False, end_timeout_s=patient_s(5))
    running = asyncio.create_task(run(worker))
    await until(lambda: "begun" in SAID)

    driver.broken = True
    await Queue(driver).dispatch([Long()])
    with pytest.raises(DriverMisconfigured):
        await running

    assert SAID[-2:] == ["client used", "client left"]


async def test_they_are_left_when_the_task_that_runs_the_worker_is_cancelled() -> None:
    driver = await driver_with(Long())
    running = asyncio.create_task(worker_on(driver, client, burst=False, end_timeout_s=patient_s(5)).start())
    await until(lambda: "begun" in SAID)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert SAID[-2:] == ["client used", "client left"]


async def test_one_that_fails_at_its_end_keeps_no_other_from_being_left(caplog: pytest.LogCaptureFixture) -> None:
    async def breaks() -> AsyncGenerator[None]:
        yield
        raise ConnectionError("lost")

    await run(worker_on(await driver_with(Uses()), client, breaks, engine_apart))

    assert SAID[-2:] == ["engine apart left", "client left"]
    [record] = caplog.records
    assert f"the lifespan {__name__}:test_one_that" in record.getMessage()
    assert record.getMessage().endswith("breaks failed at its end")
    assert record.exc_info


@pytest.mark.parametrize("stubborn", [False, True])
async def test_one_that_hangs_at_its_end_is_cut_and_said_so(stubborn: bool, caplog: pytest.LogCaptureFixture) -> None:
    over = asyncio.Event()

    async def hangs() -> AsyncGenerator[None]:
        yield
        SAID.append("hangs")
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                if not stubborn:
                    raise

    driver = await driver_with(Uses())
    await run(worker_on(driver, client, hangs, shutdown_timeout_s=0.0, end_timeout_s=0.1))
    over.set()
    await asyncio.sleep(0)

    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert said[0].endswith("hangs did not end in time and is cut")
    assert len(said) == (2 if stubborn else 1)
    assert ("client left" in SAID) is not stubborn
    assert await ready(driver) == 0


async def test_a_second_stop_cuts_it_at_once() -> None:
    async def hangs() -> AsyncGenerator[None]:
        yield
        SAID.append("hangs")
        await asyncio.sleep(600)

    worker = worker_on(await driver_with(Uses()), hangs, client, burst=False, shutdown_timeout_s=600, end_timeout_s=0.1)
    running = asyncio.create_task(run(worker))
    await until(lambda: "client used" in SAID)

    worker.stop()
    await until(lambda: "hangs" in SAID)
    worker.stop()
    await running

    assert SAID == ["client entered", "client used", "client left", "hangs"]


# -- what a task asks for ----------------------------------------------------------------------------------


@task(max_attempts=1)
async def uses_function() -> None:
    asynctasq.resource(Engine).use()
    with pytest.raises(LifespanError, match=r"2 lifespans of this worker yield a Client \(Client, Engine\); ask for"):
        resource(Client)
    with pytest.raises(LifespanError, match="no lifespan that yields dict; they yield Client, Engine"):
        resource(dict)


async def test_a_resource_is_found_by_its_type() -> None:
    driver = await driver_with(uses_function())

    await run(worker_on(driver, client, nothing, engine))

    assert "engine used" in SAID
    assert (await driver.depth("default")).dead == 0


async def test_without_a_lifespan_the_error_says_what_to_do() -> None:
    driver = await driver_with(Uses())

    await run(worker_on(driver))

    [dead] = (await driver.list_messages("default")).messages
    assert dead.error is not None
    assert "no lifespan was entered. Name one that yields it in the setting `lifespan`" in dead.error.message


def test_a_resource_is_no_field_and_no_argument() -> None:
    class Fetch(AsyncTask[None]):
        url: str
        client = Resource(Client)

        async def execute(self) -> None: ...

    with pytest.raises(TypeError, match=r"argument 'client' would hide an attribute"):
        Fetch(url="x", client=Client())  # type: ignore[call-arg] - what a user may try
    assert isinstance(Fetch.client, Resource)
    fetch = Fetch(url="x")
    with pytest.raises(LifespanError):
        _ = fetch.client
    fetch.client = Client("mine")  # type: ignore[assignment] - a test may
    assert fetch.client.name == "mine"


def test_a_lifespan_is_a_name_and_a_function() -> None:
    assert Lifespan("a:b", engine_apart) == Lifespan("a:b", engine_apart)


async def test_the_worker_of_a_driver_that_is_away_is_not_kept_by_its_lifespans() -> None:
    class Away(MemoryDriver):
        async def turn(self, *args: Any, **kwargs: Any) -> Any:
            raise DriverUnavailable("away")

    worker = worker_on(Away(), client, burst=False)
    running = asyncio.create_task(run(worker))
    await until(lambda: "client entered" in SAID)

    worker.stop(immediate=True)
    await running

    assert SAID == ["client entered", "client left"]
