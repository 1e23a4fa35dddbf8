"""The pool of child processes: what a child does to itself costs its own task, and nothing outlives its kill."""
# pyright: reportPrivateUsage=false
# The id that a dispatched task has got, and what a result is decoded as, are no public matter.

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asynctasq.codec.arguments import unpack_result
from asynctasq.core.lanes.child import ChildSettings, Reply, ReplyKind, Request
from asynctasq.core.lanes.process_pool import ChildCrashed, ProcessPool
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.task_factory import TaskFactory
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import TaskTimeoutError, WorkerCrashedError
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.messages import DeadReason, State
from asynctasq.queue import MessageFactory, Queue
from asynctasq.tasks.application import Application
from asynctasq.tasks.base import BaseTask
from tests.core.lanes.process_tasks import Big, Endless, Harm, Parent, Pid, PidAsync, Speaks
from tests.patience import SOON_S, until

MODULE = "tests.core.lanes.process_tasks"
ROOT = str(Path(__file__).parents[3])
SETTINGS = ChildSettings(modules=(MODULE,), path=(ROOT,))
FAILED: list[BaseException] = []


class Doomed(Harm):
    """Its hook runs in the worker's process."""

    max_crashes = 2

    def failed(self, exception: Exception) -> None:
        FAILED.append(exception)


@pytest.fixture
async def pool() -> AsyncIterator[ProcessPool]:
    made = ProcessPool(SETTINGS, size=2)
    yield made
    await made.stop()
    made.close()


def request(task: BaseTask[object], *, keep_result: bool = True) -> bytes:
    message = MessageFactory().message(task)
    return Request(message_id=message.id, attempt=1, body=message.body, keep_result=keep_result).encode()


async def run(pool: ProcessPool, task: BaseTask[object], timeout_s: float | None = None) -> object:
    reply = Reply.decode(await pool.run(request(task), timeout_s=timeout_s))
    assert reply.kind is ReplyKind.RETURNED, reply.error
    assert reply.result is not None
    return unpack_result(reply.result, type(task)._return_annotation())


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"  # an orphan may be unreaped
    except FileNotFoundError:
        return False


async def pids_in(file: Path) -> list[int]:
    await until(file.exists)
    return [int(pid) for pid in file.read_text().split()]


async def test_an_endless_loop_is_dead_soon_after_its_time_limit_and_spares_its_neighbours(
    pool: ProcessPool, tmp_path: Path
) -> None:
    neighbour = tmp_path / "neighbour"
    other = asyncio.create_task(pool.run(request(Endless(str(neighbour))), timeout_s=None))
    [neighbour_pid] = await pids_in(neighbour)
    file = tmp_path / "pid"

    call = asyncio.create_task(pool.run(request(Endless(str(file))), timeout_s=1))
    [pid] = await pids_in(file)
    async with asyncio.timeout(SOON_S):
        with pytest.raises(TaskTimeoutError, match="its process was killed"):
            await call

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert exists(neighbour_pid)
    assert not other.done()
    other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await other


@pytest.mark.parametrize(
    ("how", "told"),
    [("exit 0", "exit code 0"), ("exit 1", "exit code 1"), ("kill", "SIGKILL"), ("segfault", "SIGSEGV")],
)
async def test_a_child_that_ends_itself_costs_only_its_own_task(
    pool: ProcessPool, tmp_path: Path, how: str, told: str
) -> None:
    neighbour = tmp_path / "neighbour"
    other = asyncio.create_task(pool.run(request(Endless(str(neighbour))), timeout_s=None))
    [neighbour_pid] = await pids_in(neighbour)

    with pytest.raises(ChildCrashed, match=told):
        await pool.run(request(Harm(how)), timeout_s=None)

    assert exists(neighbour_pid)
    assert not other.done()
    assert await run(pool, Pid()) not in (neighbour_pid, os.getpid())
    other.cancel()
    await asyncio.wait([other])


async def test_a_fork_left_behind_does_not_hide_the_death_of_its_parent(pool: ProcessPool, tmp_path: Path) -> None:
    file = tmp_path / "pids"

    async with asyncio.timeout(SOON_S):
        with pytest.raises(ChildCrashed, match="exit code 1"):
            await pool.run(request(Parent(str(file), forks=True, dies=True)), timeout_s=None)

    _, grandchild = await pids_in(file)
    await until(lambda: not exists(grandchild))


async def test_grandchildren_are_killed_with_their_child(pool: ProcessPool, tmp_path: Path) -> None:
    file = tmp_path / "pids"

    with pytest.raises(TaskTimeoutError):
        await pool.run(request(Parent(str(file))), timeout_s=2)

    child, grandchild = await pids_in(file)
    assert not exists(child)
    await until(lambda: not exists(grandchild))


async def test_a_child_is_kept_and_reused(pool: ProcessPool) -> None:
    assert await run(pool, Pid()) == await run(pool, PidAsync())


async def test_a_child_is_replaced_after_so_many_tasks() -> None:
    pool = ProcessPool(SETTINGS, size=1, max_tasks_per_child=2)
    try:
        pids = [await run(pool, Pid()) for _ in range(4)]
    finally:
        await pool.stop()
        pool.close()

    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert not any(exists(pid) for pid in pids if isinstance(pid, int))


async def test_an_idle_child_killed_from_outside_costs_no_task(pool: ProcessPool) -> None:
    pid = await run(pool, Pid())
    assert isinstance(pid, int)

    os.kill(pid, 9)
    await until(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None)

    assert await run(pool, Pid()) != pid


async def test_five_megabytes_travel_both_ways(pool: ProcessPool) -> None:
    content = os.urandom(5 * 1024 * 1024)

    assert await run(pool, Big(content)) == content


async def test_what_a_child_writes_appears_on_the_workers_streams(
    pool: ProcessPool, capfd: pytest.CaptureFixture[str]
) -> None:
    await pool.run(request(Speaks(), keep_result=False), timeout_s=None)

    out, err = capfd.readouterr()
    assert "a word from the child\n" in out
    assert "a complaint from the child\n" in err


async def test_an_application_that_can_not_be_imported_is_told_in_words() -> None:
    pool = ProcessPool(ChildSettings(modules=("no_such_module_of_ours",)), size=1)
    try:
        with pytest.raises(ChildCrashed, match="could not start the application") as caught:
            await pool.run(request(Pid()), timeout_s=None)
    finally:
        await pool.stop()
        pool.close()

    assert "No module named 'no_such_module_of_ours'" in str(caught.value)


async def test_an_application_that_takes_too_long_to_import_is_no_timeout_of_the_task(
    monkeypatch: pytest.MonkeyPatch, pool: ProcessPool
) -> None:
    monkeypatch.setattr("asynctasq.core.lanes.process_pool.START_S_MAX", 0.001)

    with pytest.raises(ChildCrashed, match=r"was not ready after 0\.001 s"):
        await pool.run(request(Pid()), timeout_s=None)


async def test_cancelling_a_call_kills_its_child(pool: ProcessPool, tmp_path: Path) -> None:
    call = asyncio.create_task(pool.run(request(Endless(str(tmp_path / "pid"))), timeout_s=None))
    [pid] = await pids_in(tmp_path / "pid")

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    assert not exists(pid)


async def test_stop_kills_busy_and_idle_children(pool: ProcessPool, tmp_path: Path) -> None:
    busy = asyncio.create_task(pool.run(request(Endless(str(tmp_path / "pid"))), timeout_s=None))
    [busy_pid] = await pids_in(tmp_path / "pid")
    idle_pid = await run(pool, Pid())
    assert isinstance(idle_pid, int)

    await pool.stop()

    with pytest.raises(ChildCrashed):
        await busy
    assert not exists(busy_pid)
    assert not exists(idle_pid)


# -- with the worker ---------------------------------------------------------------------------------


async def work(*tasks: BaseTask[object]) -> tuple[MemoryDriver, list[Entry]]:
    """Run these tasks to their end with a real worker."""
    driver, entries = MemoryDriver(), list[Entry]()
    await Queue(driver).dispatch(tasks)
    application = Application((MODULE,), path=(ROOT,))
    settled = 0

    def record(entry: Entry) -> None:
        nonlocal settled
        entries.append(entry)
        settled += entry.kind is Kind.SETTLED and entry.detail.startswith(("complete", "bury"))
        if settled == len(tasks):
            worker.stop()

    worker = Worker(
        driver,
        process_pool_size=2,
        settings=WorkerSettings(application=application, handle_signals=False),
        runtime=ProductionRuntime(record=record),
    )
    async with asyncio.timeout(SOON_S):
        await worker.start()
    return driver, entries


async def test_a_task_that_keeps_killing_its_child_is_given_up_and_told() -> None:
    FAILED.clear()
    doomed, neighbours = Doomed("exit 1"), [Pid() for _ in range(6)]

    driver, _ = await work(doomed, *neighbours)

    [dead] = (await driver.list_messages("default", state=State.DEAD)).messages
    assert (dead.id, dead.reason, dead.attempts, dead.crashes) == (doomed._task_id, DeadReason.CRASHED, 0, 2)
    [exception] = FAILED
    assert isinstance(exception, WorkerCrashedError)
    assert not isinstance(exception, ChildCrashed)
    assert "2 attempts ended with the death of the process" in str(exception)


def test_the_task_factory_of_a_child_knows_what_the_worker_knows() -> None:
    task_factory = SETTINGS.make_task_factory()

    assert isinstance(task_factory, TaskFactory)
    assert ChildSettings.decode(SETTINGS.encode()) == SETTINGS
