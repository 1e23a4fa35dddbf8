"""Middleware around dispatches: order, headers, refusals, errors, whichever way a task is dispatched."""

import sqlite3
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from pathlib import Path

import pytest

import asynctasq
from asynctasq import AsyncTask, dispatch_many, dispatch_many_sync, task
from asynctasq.codec.envelope import decode_envelope
from asynctasq.core.setup import default_queue
from asynctasq.drivers.base import Driver
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.errors import ConfigError, DriverUnavailable, UnserializableValue, UnsupportedFeature
from asynctasq.kernel.envelope import HEADERS_CHARS_MAX, HEADERS_MAX
from asynctasq.queue import Queue
from asynctasq.tasks import DispatchContext, Middleware
from asynctasq.tasks.configured import middleware_of
from asynctasq.tasks.dispatching import scoped_dispatcher
from asynctasq.utils.loop import run

SAID: list[str] = []
tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


@pytest.fixture(autouse=True)
def nothing_said() -> None:
    SAID.clear()


class Note(AsyncTask[None]):
    text: str

    async def execute(self) -> None: ...


@task(queue="other")
async def other(text: str) -> None: ...


class Says(Middleware):
    """Tells what it sees, and what it did not get."""

    def __init__(self, name: str, *, swallows: bool = False) -> None:
        self.name = name
        self.swallows = swallows

    @contextmanager
    def dispatching(self, context: DispatchContext) -> Generator[None]:
        SAID.append(f"{self.name} enters {context.queue}")
        try:
            yield
        except BaseException as error:
            SAID.append(f"{self.name} sees {type(error).__name__}")
            if not self.swallows:
                raise
        else:
            SAID.append(f"{self.name} leaves")


class Tenancy(Middleware):
    """Sends the tenant along."""

    @contextmanager
    def dispatching(self, context: DispatchContext) -> Generator[None]:
        context.headers["tenant"] = tenant.get()
        context.headers["thread"] = threading.current_thread().name
        yield


class Named(Middleware):
    """Found by its name."""


NAMED = Named()


class Down(MemoryDriver):
    async def enqueue(self, messages: object) -> list[str]:
        raise DriverUnavailable("not now")


@contextmanager
def dispatching_to(queue: Queue) -> Iterator[Queue]:
    before = scoped_dispatcher.get()
    scoped_dispatcher.set(queue)
    try:
        yield queue
    finally:
        scoped_dispatcher.set(before)


async def headers_in(driver: Driver, queue: str = "default") -> list[dict[str, str]]:
    leases = await driver.reserve([queue], limit=10, lease_s=30, wait_s=0)
    return [dict(decode_envelope(lease.body).headers) for lease in leases]


async def test_the_first_is_the_outermost() -> None:
    with dispatching_to(Queue(MemoryDriver(), middleware=[Says("a"), Says("b")])):
        await Note(text="x").dispatch()

    assert SAID == ["a enters default", "b enters default", "b leaves", "a leaves"]


async def test_headers_travel_with_the_message_of_each_task() -> None:
    class Texts(Middleware):
        @contextmanager
        def dispatching(self, context: DispatchContext) -> Generator[None]:
            context.headers["id"] = context.task_id
            yield

    driver = MemoryDriver()
    with dispatching_to(Queue(driver, middleware=[Texts()])):
        first, second = await dispatch_many([Note(text="x"), Note(text="y")])
        third = await other.dispatch("z")

    assert await headers_in(driver) == [{"id": first}, {"id": second}]
    assert await headers_in(driver, "other") == [{"id": third}]


async def test_the_id_is_the_one_that_was_asked_for() -> None:
    seen: list[str] = []

    class Looks(Middleware):
        @contextmanager
        def dispatching(self, context: DispatchContext) -> Generator[None]:
            seen.append(context.task_id)
            assert isinstance(context.task, Note)
            seen.append(context.task.text)
            yield

    task_id = "7f0c5a3e-54a4-4b5a-8a64-0a4c3a6a0f11"
    with dispatching_to(Queue(MemoryDriver(), middleware=[Looks()])):
        assert await Note(text="x").with_options(task_id=task_id).dispatch() == task_id

    assert seen == [task_id, "x"]


def test_from_synchronous_code_it_runs_in_the_thread_and_the_context_of_the_caller(tmp_path: Path) -> None:
    asynctasq.init(sqlite_path=str(tmp_path / "q.db"), driver="sqlite", middleware=[Tenancy()])
    queue = default_queue()
    token = tenant.set("acme")
    try:
        dispatch_many_sync([Note(text="x")])
    finally:
        tenant.reset(token)

    assert run(headers_in(queue.driver)) == [{"tenant": "acme", "thread": threading.current_thread().name}]


async def test_one_that_raises_refuses_the_dispatch_of_all() -> None:
    class Refuses(Middleware):
        @contextmanager
        def dispatching(self, context: DispatchContext) -> Generator[None]:
            if "y" in vars(context.task).values():
                raise PermissionError("not y")
            yield

    driver = MemoryDriver()
    with (
        dispatching_to(Queue(driver, middleware=[Says("a"), Refuses()])),
        pytest.raises(PermissionError, match="not y"),
    ):
        await dispatch_many([Note(text="x"), Note(text="y")])

    assert await headers_in(driver) == []
    assert SAID == ["a enters default", "a enters default", "a sees PermissionError", "a sees PermissionError"]


async def test_an_error_of_storing_is_seen_and_can_not_be_swallowed() -> None:
    with (
        dispatching_to(Queue(Down(), middleware=[Says("a"), Says("b", swallows=True)])),
        pytest.raises(DriverUnavailable),
    ):
        await Note(text="x").dispatch()

    assert SAID[2:] == ["b sees DriverUnavailable", "a sees DriverUnavailable"]


async def test_an_error_of_encoding_is_seen_too() -> None:
    with dispatching_to(Queue(MemoryDriver(), middleware=[Says("a")])), pytest.raises(UnserializableValue):
        await other.dispatch(object())  # type: ignore[arg-type] - users' input

    assert SAID == ["a enters other", "a sees UnserializableValue"]


@pytest.mark.parametrize(
    "headers",
    [
        {str(number): "" for number in range(HEADERS_MAX + 1)},
        {"long": "x" * HEADERS_CHARS_MAX},
        {"number": 1},
        {1: "number"},
        {"half": "\ud800"},
    ],
)
async def test_headers_that_could_not_be_read_are_refused(headers: dict[str, str]) -> None:
    class Sets(Middleware):
        @contextmanager
        def dispatching(self, context: DispatchContext) -> Generator[None]:
            context.headers.update(headers)
            yield

    driver = MemoryDriver()
    with dispatching_to(Queue(driver, middleware=[Sets()])), pytest.raises(UnserializableValue, match="header"):
        await Note(text="x").dispatch()

    assert await headers_in(driver) == []


async def test_middleware_that_leaves_dispatches_alone_costs_them_nothing() -> None:
    driver = MemoryDriver()
    with dispatching_to(Queue(driver, middleware=[Middleware()])):
        await Note(text="x").dispatch()

    assert await headers_in(driver) == [{}]


# -- which ones ------------------------------------------------------------------------------------


def test_a_class_is_made_once_and_a_name_is_imported() -> None:
    by_class, by_name = middleware_of([Named, f"{__name__}:Named"])

    assert type(by_class) is Named
    assert by_name is by_class
    assert middleware_of([f"{__name__}:NAMED"]) == (NAMED,)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (object(), "is no Middleware; derive"),
        (dict, "is no Middleware; derive"),
        ("shop", "write package.module:name"),
        ("no_such_module:Name", "can't be imported: No module named"),
        (f"{__name__}:nothing", "can't be imported: .* has no attribute 'nothing'"),
        (f"{__name__}:SAID", "is no Middleware"),
    ],
)
def test_what_is_no_middleware_is_an_error_in_words(entry: object, why: str) -> None:
    with pytest.raises(ConfigError, match=f"^middleware: .*{why}"):
        middleware_of([entry])


def test_objects_are_checked_by_init_and_names_by_the_first_dispatch() -> None:
    with pytest.raises(ConfigError, match="is no Middleware"):
        asynctasq.init(middleware=[object()])
    asynctasq.init(driver="memory", middleware=["no_such_module:Name"])

    with pytest.raises(ConfigError, match="no_such_module"):
        Note(text="x").dispatch_sync()


def test_names_come_from_the_environment_and_pyproject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.asynctasq]\nmiddleware = ["shop:One", "shop:Two"]\n')
    monkeypatch.chdir(tmp_path)
    assert default_queue().middleware == ("shop:One", "shop:Two")

    monkeypatch.setenv("ASYNCTASQ_MIDDLEWARE", "shop:Three, shop:Four")
    asynctasq.init()
    assert default_queue().middleware == ("shop:Three", "shop:Four")


def test_in_a_worker_init_adds_middleware_before_it_starts_and_not_after(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from asynctasq.config import load_settings
    from asynctasq.core.setup import Setup, current_setup, install

    setup = Setup(load_settings({"driver": "memory"}))
    install(setup, pin=True)
    one, two = Named(), Named()

    asynctasq.init(driver="redis", middleware=[one])
    assert (current_setup(), setup.queue.middleware, setup.settings.driver) == (setup, (one,), "memory")
    setup.in_use = True
    asynctasq.init(middleware=[one])
    assert not caplog.records
    asynctasq.init(middleware=[two])

    assert setup.queue.middleware == (one,)
    assert "name that module with --app" in caplog.text


async def test_dispatch_sync_inside_a_loop_is_refused_before_middleware_runs() -> None:
    with (
        dispatching_to(Queue(MemoryDriver(), middleware=[Says("a")])),
        pytest.raises(RuntimeError, match="would block"),
    ):
        Note(text="x").dispatch_sync()

    assert SAID == []


async def test_a_dispatch_in_a_transaction_has_it_too(tmp_path: Path) -> None:
    driver = SQLiteDriver(str(tmp_path / "q.db"))
    await driver.open()
    with dispatching_to(Queue(driver, middleware=[Tenancy()])), closing(sqlite3.connect(tmp_path / "q.db")) as mine:
        mine.execute("BEGIN")
        Note(text="x").dispatch_sync(connection=mine)
        mine.commit()

    [headers] = await headers_in(driver)
    await driver.close()
    assert headers["tenant"] == "nobody"


async def test_where_the_driver_has_no_transactions_the_refusal_is_seen() -> None:
    with dispatching_to(Queue(MemoryDriver(), middleware=[Says("a")])), pytest.raises(UnsupportedFeature):
        await Note(text="x").dispatch(connection=object())

    assert SAID == ["a enters default", "a sees UnsupportedFeature"]
