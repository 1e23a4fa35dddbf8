"""What code in a child process writes to its pipe settles no other task, keeps the time limit, and costs its child."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asynctasq.codec.arguments import unpack_result
from asynctasq.core.lanes.child import ChildSettings, Reply, ReplyKind, Request
from asynctasq.core.lanes.lanes import WorkerLanes
from asynctasq.core.lanes.process_pool import ChildCrashed
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import TaskTimeoutError
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.messages import DeadReason, State
from asynctasq.queue import MessageFactory, Queue
from asynctasq.tasks.application import Application
from asynctasq.tasks.base import BaseTask
from tests.core.lanes.test_process_pool import exists, pids_in
from tests.patience import SOON_S, patient_s, until
from tests.security.hostile_children import FORGED, Fails, Hostile, Inherits, Innocent

MODULE = "tests.security.hostile_children"
ROOT = str(Path(__file__).parents[2])
TIMEOUT_S = 1.0
CRASHES = [
    "old_frames",
    "frames_without_nonce",
    "garbage",
    "garbage_with_nonce",
    "one_byte",
    "huge",
    "leave_a_silent_process_and_die",
]
TIMES_OUT = ["one_byte_and_stay", "half_a_frame_and_stay", "a_byte_now_and_then"]
ANSWERS_FOR_ITSELF = ["frames_with_nonce", "answer_and_stay", "leave_a_thread", "leave_a_process"]


@pytest.fixture
async def lanes() -> AsyncIterator[WorkerLanes]:
    made = WorkerLanes(ChildSettings(modules=(MODULE,), path=(ROOT,)), threads=1, processes=1)
    yield made
    await made.stop_processes()
    made.close()


async def run(lanes: WorkerLanes, task: BaseTask[object], timeout_s: float | None = None) -> Reply:
    message = MessageFactory().message(task)
    request = Request(message_id=message.id, attempt=1, body=message.body, keep_result=True)
    async with asyncio.timeout(2 * SOON_S):
        return await lanes.run_in_process(request, timeout_s)


def value(reply: Reply, kind: type) -> object:
    assert reply.kind is ReplyKind.RETURNED
    assert reply.result is not None
    return unpack_result(reply.result, kind)


async def assert_others_run_elsewhere(lanes: WorkerLanes, hostile_pid: int) -> None:
    for _ in range(3):
        pid = value(await run(lanes, Innocent()), int)
        assert isinstance(pid, int)
        assert pid not in (hostile_pid, os.getpid())
    await until(lambda: not exists(hostile_pid), "the child of the hostile task is killed")
    failed = await run(lanes, Fails())
    assert failed.kind is ReplyKind.RAISED
    assert "this payment failed" in str(failed.exception())


@pytest.mark.parametrize("how", CRASHES)
async def test_what_is_no_answer_is_a_crash(lanes: WorkerLanes, tmp_path: Path, how: str) -> None:
    file = tmp_path / "pid"

    with pytest.raises(ChildCrashed):
        await run(lanes, Hostile(how, str(file)))

    [pid] = await pids_in(file)
    assert not exists(pid)
    await assert_others_run_elsewhere(lanes, pid)


@pytest.mark.parametrize("how", TIMES_OUT)
async def test_the_time_limit_covers_the_whole_answer(lanes: WorkerLanes, tmp_path: Path, how: str) -> None:
    file = tmp_path / "pid"

    async with asyncio.timeout(TIMEOUT_S + patient_s(10)):
        with pytest.raises(TaskTimeoutError, match="its process was killed"):
            await run(lanes, Hostile(how, str(file)), TIMEOUT_S)

    [pid] = await pids_in(file)
    assert not exists(pid)
    await assert_others_run_elsewhere(lanes, pid)


@pytest.mark.parametrize("how", ANSWERS_FOR_ITSELF)
async def test_who_answers_for_itself_answers_for_no_other(lanes: WorkerLanes, tmp_path: Path, how: str) -> None:
    """It may as well have returned that; what matters is what its child is trusted with afterwards."""
    file = tmp_path / "pid"

    try:
        reply = await run(lanes, Hostile(how, str(file)))
    except ChildCrashed:
        pass
    else:
        assert value(reply, str) in (FORGED, "returned")

    [pid] = await pids_in(file)
    await assert_others_run_elsewhere(lanes, pid)


async def test_what_a_task_starts_does_not_have_the_pipe(lanes: WorkerLanes) -> None:
    found = value(await run(lanes, Inherits()), list)

    assert isinstance(found, list)
    own, started, forked = map(set, found)  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
    assert len(own - forked) == 2, "the pipe and the log are not in a fork; what the event loop has is"
    assert not own & started


@pytest.mark.parametrize("how", ["old_frames", "frames_with_nonce", "one_byte", "leave_a_thread"])
async def test_a_worker_settles_each_task_by_what_it_did(tmp_path: Path, how: str) -> None:
    driver, entries = MemoryDriver(), list[Entry]()
    hostile, fails, innocent = Hostile(how, str(tmp_path / "pid")), Fails(), Innocent(str(tmp_path / "ran"))
    await Queue(driver).dispatch([hostile, fails, innocent])
    settings = WorkerSettings(application=Application((MODULE,), path=(ROOT,)), handle_signals=False, burst=True)
    runtime = ProductionRuntime(record=entries.append)
    worker = Worker(driver, process_pool_size=1, settings=settings, runtime=runtime)

    async with asyncio.timeout(2 * SOON_S):
        await worker.start()

    dead = {one.id: one for one in (await driver.list_messages("default", state=State.DEAD)).messages}
    failed = dead.pop(str(fails._task_id))  # pyright: ignore[reportPrivateUsage]
    assert failed.reason is DeadReason.FAILED
    assert {one.reason for one in dead.values()} <= {DeadReason.CRASHED}
    assert (tmp_path / "ran").exists()
    ends = {entry.message_id: entry.detail for entry in entries if entry.kind is Kind.SETTLED}
    assert ends[str(innocent._task_id)] == "complete"  # pyright: ignore[reportPrivateUsage]
