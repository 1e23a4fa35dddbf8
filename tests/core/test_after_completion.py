"""What becomes of an attempt that raises after complete_in: its own transaction decides, not the error."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from asynctasq import AsyncTask, SyncTask
from asynctasq.core.in_flight import InFlightAttempt
from asynctasq.core.leases import LeaseRenewer
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Driver
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.kernel.ledger import Entry, Kind, check
from asynctasq.kernel.messages import Complete, Lease
from asynctasq.queue import Queue
from asynctasq.tasks.base import BaseTask
from asynctasq.testing.fake_queue import FakeQueue

PATH = ""
"""The file of the test that runs; tasks of a worker know no fixture."""
LEFT_OPEN: list[sqlite3.Connection] = []
STOLEN: list[Lease] = []
HOOKS: list[str] = []


@pytest.fixture
def file(tmp_path: Path) -> str:
    global PATH  # noqa: PLW0603 - as its docstring says
    PATH = str(tmp_path / "app.db")
    for things in (LEFT_OPEN, STOLEN, HOOKS):
        things.clear()
    return PATH


def begin() -> sqlite3.Connection:
    connection = sqlite3.connect(PATH, isolation_level=None, timeout=10, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    return connection


class RecordingRenewer(LeaseRenewer):
    """Renews nothing and records the calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self, on_lost: Callable[[Any], None]) -> None:
        pass

    def add(self, attempt: InFlightAttempt) -> None:
        self.calls.append("add")

    def remove(self, attempt: InFlightAttempt) -> None:
        self.calls.append("remove")

    async def stop(self) -> None:
        pass


class QuietRuntime(ProductionRuntime):
    """The production runtime with a renewer that does nothing."""

    def __init__(self, ledger: list[Entry]) -> None:
        super().__init__(record=ledger.append)
        self.recording_renewer = RecordingRenewer()

    def renewer(self, driver: Driver, settings: WorkerSettings) -> LeaseRenewer:
        return self.recording_renewer


async def work(driver: Driver, task: BaseTask[Any], *, lease_s: float = 30.0) -> tuple[str, list[Entry], list[str]]:
    """Run one attempt; return the id, the ledger, and the calls of the lease renewer."""
    ledger: list[Entry] = []
    [task_id] = await Queue(driver).dispatch([task])
    runtime = QuietRuntime(ledger)
    settings = WorkerSettings(handle_signals=False, lease_s=lease_s)
    await Worker(driver, max_tasks=1, settings=settings, runtime=runtime).start()
    return task_id, ledger, runtime.recording_renewer.calls


def settlements(ledger: list[Entry]) -> list[str]:
    return [entry.detail for entry in ledger if entry.kind is Kind.SETTLED]


class Hooked(AsyncTask[None]):
    max_attempts = 1

    def should_retry(self, exception: Exception) -> bool:
        HOOKS.append("should_retry")
        return True

    async def failed(self, exception: Exception) -> None:
        HOOKS.append("failed")


class RaisesAfterCommit(Hooked):
    async def execute(self) -> None:
        connection = begin()
        async with self.complete_in(connection):
            pass
        connection.execute("COMMIT")
        connection.close()
        raise ConnectionError("the reply to COMMIT was lost")


async def test_after_a_commit_the_task_is_complete_whatever_it_raises(
    file: str, caplog: pytest.LogCaptureFixture
) -> None:
    driver = SQLiteDriver(file)

    task_id, ledger, _ = await work(driver, RaisesAfterCommit())

    assert settlements(ledger) == ["complete"]
    assert HOOKS == []
    assert await driver.find(task_id) is None
    assert "stays complete" in caplog.text
    assert "reply to COMMIT" in caplog.text
    await driver.close()


class FailsToCommit(Hooked):
    async def execute(self) -> None:
        connection = begin()
        async with self.complete_in(connection):
            pass
        connection.execute("ROLLBACK")
        connection.close()
        raise ConnectionError("the commit failed")


class FailsToCommitInThread(SyncTask[None]):
    max_attempts = 1

    def execute(self) -> None:
        connection = begin()
        with self.complete_in_sync(connection):
            pass
        connection.execute("ROLLBACK")
        connection.close()
        raise ConnectionError("the commit failed")


@pytest.mark.parametrize("kind", [FailsToCommit, FailsToCommitInThread])
async def test_after_a_rollback_the_error_settles_and_the_lease_is_held_for_the_hooks(
    file: str, kind: type[BaseTask[Any]]
) -> None:
    driver = SQLiteDriver(file)

    task_id, ledger, calls = await work(driver, kind())

    assert settlements(ledger) == ["bury: failed"]
    expected_hooks = ["failed"] if kind is FailsToCommit else []
    assert expected_hooks == HOOKS
    assert calls == ["add", "remove", "add", "remove"]
    found = await driver.find(task_id)
    assert found is not None
    assert found.attempts == 1
    await driver.close()


class LeavesItOpen(Hooked):
    async def execute(self) -> None:
        connection = begin()
        async with self.complete_in(connection):
            LEFT_OPEN.append(connection)
        raise ValueError("and the transaction is still open")


async def test_while_the_outcome_is_unknown_nothing_is_settled(file: str, caplog: pytest.LogCaptureFixture) -> None:
    driver = SQLiteDriver(file, busy_timeout_s=0.1)

    task_id, ledger, _ = await work(driver, LeavesItOpen(), lease_s=3)
    LEFT_OPEN[0].close()

    assert settlements(ledger) == []
    assert HOOKS == []
    assert [entry.message_id for entry in ledger if entry.kind is Kind.LOST] == [task_id]
    assert "it is unknown whether its transaction was committed" in caplog.text
    assert await driver.find(task_id) is not None
    await driver.close()


class IsOvertaken(Hooked):
    """Rolls back, and raises only when its lease has run out and another worker has the message."""

    async def execute(self) -> None:
        connection = begin()
        async with self.complete_in(connection):
            pass
        connection.execute("ROLLBACK")
        connection.close()
        other = SQLiteDriver(PATH)
        STOLEN.extend(await other.reserve(["default"], limit=1, lease_s=60, wait_s=20))
        await other.close()
        raise ValueError("too late")


async def test_who_was_overtaken_settles_nothing_and_calls_no_hook(file: str) -> None:
    driver = SQLiteDriver(file)

    task_id, ledger, _ = await work(driver, IsOvertaken(), lease_s=0.3)

    assert settlements(ledger) == []
    assert HOOKS == []
    assert [entry.message_id for entry in ledger if entry.kind is Kind.LOST] == [task_id]
    assert await driver.settle([(STOLEN[0], Complete())]) == set()
    await driver.close()


class CompletesInItsHook(AsyncTask[None]):
    max_attempts = 1

    async def execute(self) -> None:
        raise ValueError("failed")

    async def failed(self, exception: Exception) -> None:
        async with self.complete_in("any"):
            pass


async def test_a_hook_can_not_complete_what_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    with FakeQueue() as queue:
        task_id = await CompletesInItsHook().dispatch()

        await queue.run_until_idle()

        assert queue.history(task_id).settlement == "bury: failed"
    assert "nothing to complete" in caplog.text


class IsLong(Hooked):
    seconds: float

    async def execute(self) -> None:
        await asyncio.sleep(self.seconds)
        with closing(sqlite3.connect(":memory:")) as connection:
            async with self.complete_in(connection):
                pass
            connection.commit()
        raise ValueError("after the end of the block")


@pytest.mark.parametrize("seconds", [0.0, 100.0])
async def test_in_a_simulation_the_ledger_shows_the_completion(seconds: float) -> None:
    HOOKS.clear()
    with FakeQueue(lease_s=30) as queue:
        task_id = await IsLong(seconds=seconds).dispatch()

        await queue.run_until_idle()

        history = queue.history(task_id)
        assert (history.settlement, len(history.attempts), HOOKS) == ("complete", 1, [])
        assert check(queue.ledger) == []
