"""complete_in: settles the running attempt in the task's own transaction, fenced by the lease."""

import sqlite3
from collections.abc import AsyncGenerator, Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from asynctasq import AsyncProcessTask, AsyncTask, SyncTask, current_task, task
from asynctasq.core.in_flight import InFlightAttempt
from asynctasq.core.leases import LeaseRenewer
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Driver, KeepsResults
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.errors import AsyncTasqError, LeaseLost, UnsupportedFeature
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.messages import State
from asynctasq.queue import Queue
from asynctasq.tasks import AttemptContext, Middleware
from asynctasq.tasks.base import BaseTask
from asynctasq.testing.fake_queue import FakeQueue

PATH = ""
"""The file of the test that runs; tasks of a worker know no fixture."""
OUTSIDE: list[Callable[[], Any]] = []
ERRORS: list[BaseException] = []


@pytest.fixture
def file(tmp_path: Path) -> str:
    global PATH  # noqa: PLW0603 - as its docstring says
    PATH = str(tmp_path / "app.db")
    with sqlite3.connect(PATH) as connection:
        connection.execute("CREATE TABLE effect (name TEXT)")
    connection.close()
    OUTSIDE.clear()
    ERRORS.clear()
    return PATH


def connect(path: str = "") -> sqlite3.Connection:
    return sqlite3.connect(path or PATH, isolation_level=None, timeout=10)


def effects(path: str) -> int:
    connection = connect(path)
    try:
        return int(connection.execute("SELECT count(*) FROM effect").fetchone()[0])
    finally:
        connection.close()


def write(connection: sqlite3.Connection, name: str = "x") -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO effect VALUES (?)", (name,))


async def work(driver: Driver, *tasks: BaseTask[Any], attempts: int = 1) -> tuple[list[str], list[Entry]]:
    """Dispatch the tasks and run so many attempts of them with a real worker."""
    ledger: list[Entry] = []
    ids = await Queue(driver).dispatch(tasks)
    worker = Worker(
        driver,
        max_tasks=attempts,
        settings=WorkerSettings(handle_signals=False),
        runtime=ProductionRuntime(record=ledger.append),
    )
    await worker.start()
    return ids, ledger


def settlements(ledger: list[Entry]) -> list[str]:
    return [entry.detail for entry in ledger if entry.kind is Kind.SETTLED]


class Commits(AsyncTask[str]):
    keep_result = True
    result: str | None

    async def execute(self) -> str:
        connection = connect()
        write(connection)
        async with self.complete_in(connection, result=self.result):
            pass
        connection.execute("COMMIT")
        connection.close()
        return "not this"


async def test_commit_makes_effect_and_completion_durable(file: str) -> None:
    driver = SQLiteDriver(file)

    [task_id], ledger = await work(driver, Commits(result="kept"))

    assert effects(file) == 1
    assert await driver.find(task_id) is None
    assert settlements(ledger) == ["complete"]
    assert await Queue(driver).result(task_id, task=Commits) == "kept"
    await driver.close()


class CommitsInThread(SyncTask[None]):
    def execute(self) -> None:
        connection = connect()
        write(connection)
        with self.complete_in_sync(connection):
            pass
        connection.execute("COMMIT")
        connection.close()


async def test_a_thread_completes_on_its_synchronous_connection(file: str) -> None:
    driver = SQLiteDriver(file)

    [task_id], ledger = await work(driver, CommitsInThread())

    assert effects(file) == 1
    assert await driver.find(task_id) is None
    assert settlements(ledger) == ["complete"]
    await driver.close()


class RollsBack(AsyncTask[None]):
    max_attempts = 2
    retry_delay = 0

    async def execute(self) -> None:
        connection = connect()
        try:
            write(connection)
            async with self.complete_in(connection):
                pass
            if self.attempt == 1:
                raise ValueError("before the commit")
            connection.execute("COMMIT")
        finally:
            connection.close()


async def test_rollback_leaves_neither_and_the_error_settles(file: str) -> None:
    driver = SQLiteDriver(file)

    [task_id], ledger = await work(driver, RollsBack(), attempts=2)

    assert settlements(ledger) == ["retry", "complete"]
    assert effects(file) == 1
    assert await driver.find(task_id) is None
    await driver.close()


class RaisesInBlock(AsyncTask[None]):
    max_attempts = 1

    async def execute(self) -> None:
        connection = connect()
        try:
            write(connection)
            async with self.complete_in(connection):
                raise ValueError("inside")
        finally:
            connection.close()


async def test_an_exception_in_the_block_completes_nothing(file: str) -> None:
    driver = SQLiteDriver(file)

    [task_id], ledger = await work(driver, RaisesInBlock())

    assert settlements(ledger) == ["bury: failed"]
    stored = await driver.find(task_id)
    assert stored is not None
    assert stored.state is State.DEAD
    assert effects(file) == 0
    await driver.close()


class TakenOver(AsyncTask[None]):
    async def execute(self) -> None:
        for call in OUTSIDE:
            await call()
        connection = connect()
        try:
            write(connection)
            async with self.complete_in(connection):
                pass
        except LeaseLost as error:
            ERRORS.append(error)
            raise
        finally:
            connection.close()


async def test_a_lost_lease_raises_and_settles_nothing(file: str) -> None:
    driver, thief = SQLiteDriver(file), SQLiteDriver(file)
    thief.clock_offset = 3600.0
    stolen: list[Any] = []

    async def steal() -> None:
        stolen.extend(await thief.reserve(["default"], limit=1, lease_s=7200))

    OUTSIDE.append(steal)

    [task_id], ledger = await work(driver, TakenOver())

    assert len(stolen) == 1
    assert [type(error) for error in ERRORS] == [LeaseLost]
    assert settlements(ledger) == []
    assert [entry.kind for entry in ledger].count(Kind.LOST) == 1
    assert not [entry for entry in ledger if entry.kind is Kind.HOOK]
    assert effects(file) == 0
    assert await thief.find(task_id) is not None
    await driver.close()
    await thief.close()


class Twice(AsyncTask[None]):
    max_attempts = 1

    async def execute(self) -> None:
        connection = connect()
        try:
            write(connection)
            async with self.complete_in(connection):
                pass
            connection.execute("COMMIT")
            async with self.complete_in(connection):
                pass
        finally:
            connection.close()


class Nested(AsyncTask[None]):
    max_attempts = 1

    async def execute(self) -> None:
        connection = connect()
        try:
            async with self.complete_in(connection), self.complete_in(connection):
                pass
        finally:
            connection.close()


class InChild(AsyncProcessTask[None]):
    max_attempts = 1

    async def execute(self) -> None:
        async with self.complete_in(None):
            pass


class OtherDatabase(AsyncTask[None]):
    max_attempts = 1

    async def execute(self) -> None:
        connection = connect(f"{PATH}.other")
        try:
            async with self.complete_in(connection):
                pass
        finally:
            connection.close()


class OfAnother(AsyncTask[None]):
    max_attempts = 1

    async def execute(self) -> None:
        async with OfAnother().complete_in(None):
            pass


@pytest.mark.parametrize(
    ("wrong", "kind", "text"),
    [
        (Twice, AsyncTasqError, "completed by complete_in before"),
        (Nested, AsyncTasqError, "inside a complete_in block already"),
        (OtherDatabase, UnsupportedFeature, "share a transaction only in one file"),
        (OfAnother, AsyncTasqError, "no attempt of this OfAnother is running here"),
    ],
)
async def test_wrong_use_is_told(file: str, wrong: type[BaseTask[Any]], kind: type[BaseException], text: str) -> None:
    driver = SQLiteDriver(file)

    _, ledger = await work(driver, wrong())

    [error] = [entry.error for entry in ledger if entry.kind is Kind.ENDED]
    assert isinstance(error, kind)
    assert text in str(error)
    await driver.close()


async def test_after_a_refusal_the_lease_is_held_again_and_the_attempt_fails_as_usual(file: str) -> None:
    driver = SQLiteDriver(file)

    _, ledger = await work(driver, OtherDatabase())

    assert settlements(ledger) == ["bury: failed"]
    await driver.close()


async def test_a_driver_without_transactions_is_refused_before_the_block_runs() -> None:
    driver = MemoryDriver()

    _, ledger = await work(driver, RaisesInBlockOfNothing())

    [error] = [entry.error for entry in ledger if entry.kind is Kind.ENDED]
    assert isinstance(error, UnsupportedFeature)
    assert "complete_in does not work with it" in str(error)


class RaisesInBlockOfNothing(AsyncTask[None]):
    max_attempts = 1

    async def execute(self) -> None:
        async with self.complete_in(None):
            raise AssertionError("the block must not run")


async def test_outside_of_an_attempt_it_is_refused() -> None:
    with pytest.raises(AsyncTasqError, match="no attempt of this Commits is running here"):
        async with Commits(result=None).complete_in(None):
            pass


def test_outside_of_an_attempt_the_synchronous_one_is_refused() -> None:
    with pytest.raises(AsyncTasqError, match="no attempt"), CommitsInThread().complete_in_sync(None):
        pass


async def test_a_process_task_is_told_what_to_derive_from() -> None:
    with FakeQueue() as queue:
        performed = await queue.perform(InChild())

    assert "derive from AsyncTask or SyncTask" in str(performed.exception)


# -- in tests ------------------------------------------------------------------------------------


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """A transaction of the application, which tasks of a FakeQueue find in `OPENED`."""
    OPENED[:] = [sqlite3.connect(":memory:", check_same_thread=False)]
    yield OPENED[0]
    OPENED[0].close()


OPENED: list[sqlite3.Connection] = []


@task
async def completes_by_function() -> None:
    async with current_task().complete_in(OPENED[0]):
        pass
    OPENED[0].commit()


class CompletesThenFails(AsyncTask[None]):
    async def execute(self) -> None:
        async with self.complete_in(OPENED[0]):
            pass
        OPENED[0].commit()
        raise ValueError("after the commit")


class CompletesInSync(SyncTask[int]):
    keep_result = True

    def execute(self) -> None:
        with self.complete_in_sync(OPENED[0], result=7):
            pass
        OPENED[0].commit()


@pytest.mark.usefixtures("connection")
async def test_a_fake_queue_settles_at_the_commit() -> None:
    with FakeQueue() as queue:
        await completes_by_function.dispatch()
        task_id = await CompletesInSync().dispatch()

        result = await queue.run_until_idle()

        assert result.succeeded == 2
        store = queue.driver
        assert isinstance(store, KeepsResults)
        assert await store.fetch_result(task_id) is not None


class CompletesWith(AsyncTask[None]):
    max_attempts = 1
    what: str

    async def execute(self) -> None:
        async with self.complete_in(self.what):
            pass


async def test_a_fake_queue_refuses_what_is_no_connection() -> None:
    with FakeQueue() as queue:
        task_id = await CompletesWith(what="no connection at all").dispatch()

        await queue.run_until_idle()

        [attempt] = queue.history(task_id).attempts
        assert "builtins.str is not a connection we can use" in str(attempt.exception)


@pytest.mark.usefixtures("connection")
async def test_in_a_fake_queue_what_comes_after_the_block_undoes_nothing() -> None:
    with FakeQueue() as queue:
        task_id = await CompletesThenFails().dispatch()

        await queue.run_until_idle()

        assert len(queue.history(task_id).attempts) == 1


@pytest.mark.usefixtures("connection")
async def test_perform_lets_a_task_complete_itself() -> None:
    with FakeQueue() as queue:
        performed = await queue.perform(CompletesInSync())

    assert performed.completed


# -- renewal -------------------------------------------------------------------------------------


class RecordingRenewer(LeaseRenewer):
    """Renews nothing and records the calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self, on_lost: Callable[[AbstractSet[str]], None]) -> None:
        pass

    def add(self, attempt: InFlightAttempt) -> None:
        self.calls.append("add")

    def remove(self, attempt: InFlightAttempt) -> None:
        self.calls.append("remove")

    async def stop(self) -> None:
        pass


class RecordingRuntime(ProductionRuntime):
    def __init__(self, renewer: LeaseRenewer) -> None:
        super().__init__()
        self._renewer = renewer

    def renewer(self, driver: Driver, settings: WorkerSettings) -> LeaseRenewer:
        return self._renewer


@pytest.mark.parametrize(
    ("kind", "calls"),
    [(CommitsInThread, ["add", "remove", "remove"]), (OtherDatabase, ["add", "remove", "add", "remove"])],
)
async def test_a_lease_is_renewed_until_its_row_is_locked_and_again_if_it_is_not(
    file: str, kind: type[BaseTask[Any]], calls: list[str]
) -> None:
    driver, renewer = SQLiteDriver(file), RecordingRenewer()
    await Queue(driver).dispatch([kind()])

    settings = WorkerSettings(handle_signals=False)
    await Worker(driver, max_tasks=1, settings=settings, runtime=RecordingRuntime(renewer)).start()

    assert renewer.calls == calls
    await driver.close()


# -- inside middleware whose transaction it is ----------------------------------------------------------


class Transaction(Middleware):
    """Opens a transaction around each attempt, and commits it."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.breaks = breaks

    @asynccontextmanager
    async def attempting(self, context: AttemptContext) -> AsyncGenerator[None]:
        connection = connect()
        write(connection)
        current.set(connection)
        try:
            yield
            if self.breaks:
                raise ConnectionError("before the commit")
            connection.execute("COMMIT")
        finally:
            connection.close()


current: ContextVar[sqlite3.Connection] = ContextVar("connection")


class CompletesThere(AsyncTask[None]):
    max_attempts = 1

    async def execute(self) -> None:
        async with self.complete_in(current.get()):
            pass


@pytest.mark.parametrize(("breaks", "state", "written"), [(False, State.COMPLETED, 1), (True, State.DEAD, 0)])
async def test_the_transaction_of_middleware_decides(file: str, breaks: bool, state: State, written: int) -> None:
    driver = SQLiteDriver(file)
    settings = WorkerSettings(handle_signals=False, middleware=(Transaction(breaks=breaks),), lifespans=())
    await Queue(driver).dispatch([CompletesThere()])

    await Worker(driver, max_tasks=1, settings=settings).start()

    left = (await driver.list_messages("default")).messages
    await driver.close()
    assert [message.state for message in left] == ([] if state is State.COMPLETED else [state])
    assert effects(file) == written
