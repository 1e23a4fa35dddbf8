"""Lifespans in child processes: entered once per child, left when it ends in order, gone with one that is killed."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import LifespanError
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.messages import DeadReason, State
from asynctasq.queue import Queue
from asynctasq.tasks import AsyncTask, BaseTask
from asynctasq.tasks.application import Application
from asynctasq.tasks.configured import lifespans_of
from tests.core.lanes.lifespan_tasks import FILE, FailsAsync, Leaves, UsesAsync, UsesSync, broken, hanging, within
from tests.core.lanes.process_tasks import Endless
from tests.patience import SOON_S, patient_s, until

MODULE = "tests.core.lanes.lifespan_tasks"
ROOT = str(Path(__file__).parents[3])


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FILE, str(tmp_path / "notes"))
    return tmp_path / "notes"


def in_children(file: Path) -> list[list[str]]:
    """Return what each child wrote, child by child."""
    found: dict[str, list[str]] = {}
    for line in file.read_text().splitlines():
        pid, _, text = line.partition(" ")
        if int(pid) != os.getpid():
            found.setdefault(pid, []).append(text)
    return list(found.values())


async def work(
    *tasks: BaseTask[Any],
    lifespan: Callable[[], Any] = within,
    max_tasks_per_child: int | None = None,
    shutdown_timeout_s: float = patient_s(30),
) -> tuple[MemoryDriver, list[Entry]]:
    """Run these tasks one after the other, in one child at a time."""
    driver, entries = MemoryDriver(), list[Entry]()
    for task in tasks:
        await Queue(driver).dispatch([task])
    settings = WorkerSettings(
        application=Application((MODULE,), path=(ROOT,)),
        handle_signals=False,
        burst=True,
        shutdown_timeout_s=shutdown_timeout_s,
        lifespans=lifespans_of([lifespan]),
        middleware=(),
    )
    runtime = ProductionRuntime(record=entries.append)
    worker = Worker(
        driver,
        concurrency=1,
        process_pool_size=1,
        process_pool_max_tasks_per_child=max_tasks_per_child,
        settings=settings,
        runtime=runtime,
    )
    async with asyncio.timeout(SOON_S):
        await worker.start()
    return driver, entries


async def test_a_child_enters_it_once_in_the_loop_of_its_async_tasks_and_leaves_it_at_the_end(file: Path) -> None:
    driver, _ = await work(UsesAsync(), UsesSync(), UsesAsync(), UsesSync())

    assert (await driver.depth("default")).dead == 0
    assert in_children(file) == [["entered", "used", "used", "used", "used", "left"]]


async def test_a_child_that_is_replaced_leaves_it_and_the_next_one_enters_it_anew(file: Path) -> None:
    await work(UsesAsync(), UsesSync(), UsesAsync(), max_tasks_per_child=1)

    assert in_children(file) == [["entered", "used", "left"]] * 3


async def test_a_child_that_dies_costs_nothing_but_its_own(file: Path) -> None:
    driver, _ = await work(UsesAsync(), Leaves(), UsesAsync())

    [dead] = (await driver.list_messages("default", state=State.DEAD)).messages
    assert dead.reason is DeadReason.CRASHED
    assert in_children(file) == [["entered", "used"], ["entered", "used", "left"]]


async def test_a_busy_child_is_killed_when_the_worker_stops_and_leaves_nothing(file: Path, tmp_path: Path) -> None:
    driver = MemoryDriver()
    await Queue(driver).dispatch([Endless(str(tmp_path / "pid"))])
    settings = WorkerSettings(
        application=Application((MODULE, "tests.core.lanes.process_tasks"), path=(ROOT,)),
        handle_signals=False,
        lifespans=lifespans_of([within]),
        middleware=(),
    )
    worker = Worker(driver, process_pool_size=1, settings=settings)
    running = asyncio.create_task(worker.start())
    await until((tmp_path / "pid").exists)

    worker.stop(immediate=True)
    async with asyncio.timeout(SOON_S):
        await running

    assert in_children(file) == [["entered"]]
    assert (await driver.depth("default")).ready == 1


async def test_hooks_of_process_tasks_reach_that_of_the_worker(file: Path) -> None:
    await work(FailsAsync())

    assert [line.partition(" ")[2] for line in file.read_text().splitlines() if line.startswith(str(os.getpid()))] == [
        "entered",
        "failed",
        "left",
    ]


async def test_a_child_that_can_not_enter_it_fails_the_attempt_which_is_no_crash(file: Path) -> None:
    driver, entries = await work(UsesSync().with_options(max_attempts=1), lifespan=broken)

    [dead] = (await driver.list_messages("default", state=State.DEAD)).messages
    assert (dead.reason, dead.attempts, dead.crashes) == (DeadReason.FAILED, 1, 0)
    [error] = [entry.error for entry in entries if entry.kind is Kind.ENDED]
    assert isinstance(error, LifespanError)
    assert "a child process could not start: the lifespan" in str(error)
    assert "ConnectionError('no database')" in str(error)


async def test_one_that_hangs_at_the_end_of_a_child_is_cut(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    await work(UsesNothing(), lifespan=hanging, shutdown_timeout_s=0.0)

    said = [record.getMessage() for record in caplog.records]
    assert "child processes that left their lifespans were killed: time was over" in said


class UsesNothing(UsesSync):
    """In the module of the tests, which a child imports from its file."""

    def execute(self) -> None:
        return


async def test_children_without_lifespans_are_killed_at_once_as_ever(file: Path) -> None:
    settings = WorkerSettings(
        application=Application((MODULE,), path=(ROOT,)), handle_signals=False, burst=True, lifespans=(), middleware=()
    )
    driver = MemoryDriver()
    await Queue(driver).dispatch([Leaves()])

    await Worker(driver, settings=settings).start()

    assert not file.exists()


class Endures(AsyncTask[None]):
    """Takes all the time there is to stop."""

    async def execute(self) -> None:
        await asyncio.sleep(600)


async def test_an_idle_child_leaves_it_although_an_attempt_takes_all_the_time_there_is(file: Path) -> None:
    driver = MemoryDriver()
    await Queue(driver).dispatch([UsesSync()])
    await Queue(driver).dispatch([Endures()])
    settings = WorkerSettings(
        application=Application((MODULE,), path=(ROOT,)),
        handle_signals=False,
        end_timeout_s=patient_s(10),
        lifespans=lifespans_of([within]),
        middleware=(),
    )
    ended: list[Entry] = []
    runtime = ProductionRuntime(record=lambda entry: ended.append(entry) if entry.kind is Kind.ENDED else None)
    worker = Worker(driver, process_pool_size=1, settings=settings, runtime=runtime)
    running = asyncio.create_task(worker.start())
    await until(lambda: ended)

    worker.stop(immediate=True)
    async with asyncio.timeout(SOON_S):
        await running

    assert in_children(file) == [["entered", "used", "left"]]
