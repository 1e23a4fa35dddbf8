"""A worker with lifespans and middleware: each thing that is entered and left is noted, and the order is compared."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from asynctasq.core.runtime import SimulatedRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import DriverUnavailable, LifespanError
from asynctasq.queue import MessageFactory, Queue
from asynctasq.tasks import AsyncTask, AttemptContext, BaseTask, DispatchContext, Middleware
from asynctasq.tasks.application import Application
from asynctasq.tasks.configured import lifespans_of
from asynctasq.testing import Simulation
from tests.mutants.oracle import begin, want

NOTES: list[str] = []
tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def outer() -> AsyncGenerator[None]:
    NOTES.append("+outer")
    yield
    NOTES.append("-outer")


async def inner() -> AsyncGenerator[None]:
    NOTES.append("+inner")
    yield
    NOTES.append("-inner")


async def broken() -> AsyncGenerator[None]:
    raise ConnectionError("no database")
    yield


class Notes(Middleware):
    def __init__(self, name: str, *, swallows: bool = False) -> None:
        self.name = name
        self.swallows = swallows

    @contextmanager
    def dispatching(self, context: DispatchContext) -> Generator[None]:
        NOTES.append(f"+{self.name}")
        context.headers.setdefault("tenant", "acme")
        with suppress(Exception) if self.swallows else _nothing():
            yield
        NOTES.append(f"-{self.name}")

    @asynccontextmanager
    async def attempting(self, context: AttemptContext) -> AsyncGenerator[None]:
        NOTES.append(f"+{self.name} {context.headers.get('tenant')} {context.attempt}")
        token = tenant.set(context.headers.get("tenant", "nobody"))
        try:
            with suppress(Exception) if self.swallows else _nothing():
                yield
        finally:
            tenant.reset(token)
            NOTES.append(f"-{self.name}")


@contextmanager
def _nothing() -> Generator[None]:
    yield


class Breaks(Middleware):
    """Fails at the end of the first attempt."""

    @asynccontextmanager
    async def attempting(self, context: AttemptContext) -> AsyncGenerator[None]:
        yield
        if context.attempt == 1:
            raise ConnectionError("the commit failed")


class Does(AsyncTask[None]):
    retry_delay = 5
    max_attempts = 2
    fails: int = 0

    async def execute(self) -> None:
        NOTES.append(f"runs for {tenant.get()}")
        if self.attempt <= self.fails:
            raise ValueError

    async def failed(self, exception: Exception) -> None:
        NOTES.append(f"failed for {tenant.get()}")


class Lasts(AsyncTask[None]):
    async def execute(self) -> None:
        NOTES.append("lasts")
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(0.1)
            NOTES.append("over")


class Away(MemoryDriver):
    async def enqueue(self, messages: Any) -> list[str]:
        raise DriverUnavailable("away")


async def surrounded(sim: Simulation) -> None:
    """Try each way in which a worker and its attempts begin and end."""
    for part in (_attempts, _retry, _swallowed, _own_error, _stopped, _half_way, _refused):
        NOTES.clear()
        begin(sim, part.__name__)
        await part(sim)


def _notes_are(*wanted: str) -> None:
    want(list(wanted) == NOTES, "surroundings", f"{NOTES} instead of {list(wanted)}")


async def _run(
    sim: Simulation,
    *tasks: BaseTask[Any],
    middleware: tuple[Middleware, ...] = (),
    lifespans: tuple[Callable[[], Any], ...] = (),
    stop_after_s: float = 0.0,
) -> MemoryDriver:
    driver = MemoryDriver(clock=sim.clock)
    queue = Queue(driver, middleware=middleware, factory=MessageFactory(clock=sim.clock))
    await queue.dispatch(tasks)
    NOTES.clear()
    settings = WorkerSettings(
        application=Application(),
        handle_signals=False,
        middleware=middleware,
        lifespans=lifespans_of(lifespans),
    )
    worker = Worker(driver, settings=settings, runtime=SimulatedRuntime(clock=sim.clock, rng=sim.rng, name="own"))
    running = asyncio.get_running_loop().create_task(worker.start())
    await asyncio.wait([running], timeout=stop_after_s or 100)
    worker.stop(immediate=bool(stop_after_s))
    await running
    return driver


async def _attempts(sim: Simulation) -> None:
    await _run(sim, Does(), middleware=(Notes("a"), Notes("b")), lifespans=(outer, inner))
    _notes_are("+outer", "+inner", "+a acme 1", "+b acme 1", "runs for acme", "-b", "-a", "-inner", "-outer")


async def _retry(sim: Simulation) -> None:
    await _run(sim, Does(fails=2), middleware=(Notes("a"),))
    _notes_are("+a acme 1", "runs for acme", "-a", "+a acme 2", "runs for acme", "-a", "failed for acme")


async def _swallowed(sim: Simulation) -> None:
    driver = await _run(sim, Does(fails=2), middleware=(Notes("a", swallows=True),))
    want((await driver.depth("default")).dead == 1, "outcome", "a failure that middleware swallowed is a success")


async def _own_error(sim: Simulation) -> None:
    await _run(sim, Does(), middleware=(Breaks(),))
    _notes_are("runs for nobody", "runs for nobody")


async def _stopped(sim: Simulation) -> None:
    await _run(sim, Lasts(), lifespans=(outer,), stop_after_s=1)
    _notes_are("+outer", "lasts", "over", "-outer")


async def _half_way(sim: Simulation) -> None:
    with suppress(LifespanError):
        await _run(sim, Does(), lifespans=(outer, inner, broken))
        want(condition=False, name="start", text="the worker started without one of its lifespans")
    _notes_are("+outer", "+inner", "-inner", "-outer")


async def _refused(sim: Simulation) -> None:
    queue = Queue(Away(clock=sim.clock), middleware=(Notes("a"), Notes("b", swallows=True)))
    try:
        await queue.dispatch([Does()])
    except DriverUnavailable:
        _notes_are("+a", "+b", "-b")
    else:
        want(condition=False, name="dispatch", text="a dispatch that stored nothing returned")
