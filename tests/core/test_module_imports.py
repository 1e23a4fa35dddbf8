"""Modules of tasks are imported outside of the event loop, once, within a limit; and crashes are judged before."""

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynctasq.core import module_imports
from asynctasq.core.lanes.child import Request, build_task
from asynctasq.core.module_imports import ImportTookTooLong, ModuleImports
from asynctasq.core.runtime import WorkerSettings
from asynctasq.core.task_factory import TaskFactory, dead_reason_of
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import UnknownTask
from asynctasq.kernel.envelope import MAX_CRASHES_MOST
from asynctasq.kernel.messages import DeadReason, Message, StoredMessage
from asynctasq.tasks.application import Application
from asynctasq.testing.clock import VirtualClock
from tests.patience import SOON_S, until
from tests.tasks.test_hostile_names import body_naming

STARTED = threading.Event()
GO_ON = threading.Event()
RAN: Counter[str] = Counter()

TASK = """
from asynctasq import AsyncTask
from tests.core import test_module_imports as told
told.RAN["imported"] += 1

class X(AsyncTask[None]):
    async def execute(self) -> None: ...

    async def failed(self, exception: Exception) -> None:
        told.RAN["failed"] += 1
"""
SLOW = TASK + "told.STARTED.set()\nassert told.GO_ON.wait(60)\n"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of an application; modules that are still being imported at the end may end."""
    STARTED.clear()
    GO_ON.clear()
    RAN.clear()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    before = set(sys.modules)
    yield tmp_path
    GO_ON.set()
    for name in set(sys.modules) - before:
        del sys.modules[name]


async def started() -> None:
    await until(STARTED.is_set, "the import has begun")


async def test_the_event_loop_runs_during_an_import_and_all_wait_for_the_one(place: Path) -> None:
    (place / "slow_one.py").write_text(SLOW)
    imports = ModuleImports(Application(root=place))
    waiting = [asyncio.create_task(imports.resolve("slow_one:X")) for _ in range(3)]
    await started()
    late = asyncio.create_task(imports.resolve("slow_one:X"))

    GO_ON.set()
    found = await asyncio.gather(*waiting, late)

    assert {cls.__qualname__ for cls in found} == {"X"}
    assert RAN["imported"] == 1


async def test_a_task_of_a_module_that_another_thread_still_imports_is_waited_for(place: Path) -> None:
    """Its class is there already, but not what stands below it."""
    (place / "slow_two.py").write_text(SLOW)
    importing = threading.Thread(target=__import__, args=("slow_two",))
    importing.start()
    await started()
    imports = ModuleImports(Application(root=place))
    waiting = asyncio.create_task(imports.resolve("slow_two:X"))
    assert not (await asyncio.wait([waiting], timeout=0.05))[0]

    GO_ON.set()

    assert (await waiting).__module__ == "slow_two"
    importing.join(SOON_S)
    assert RAN["imported"] == 1


async def test_a_module_that_takes_too_long_is_given_up_until_it_is_there(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (place / "slow_three.py").write_text(SLOW)
    imports = ModuleImports(Application(root=place))
    monkeypatch.setattr(module_imports, "IMPORT_S_MAX", 0.05)

    for expected in (ImportTookTooLong, UnknownTask):
        with pytest.raises(
            expected, match=r"slow_three.*not imported within 0.05 s|not imported within 0.05 s.*slow_three"
        ):
            await imports.resolve("slow_three:X")
        await started()
        monkeypatch.setattr(module_imports, "IMPORT_S_MAX", SOON_S)

    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "its thread still runs" in caplog.text
    GO_ON.set()
    await until(
        lambda: not [each for each in threading.enumerate() if "slow_three" in each.name], "the thread has ended"
    )
    assert (await imports.resolve("slow_three:X")).__module__ == "slow_three"
    assert RAN["imported"] == 1


async def test_an_import_goes_on_when_who_asked_for_it_is_cancelled(place: Path) -> None:
    (place / "slow_four.py").write_text(SLOW)
    imports = ModuleImports(Application(root=place))
    asking = asyncio.create_task(imports.resolve("slow_four:X"))
    await started()

    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    GO_ON.set()

    assert (await imports.resolve("slow_four:X")).__module__ == "slow_four"
    assert RAN["imported"] == 1


async def test_a_child_that_imports_too_long_ends(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "slow_five.py").write_text(SLOW)
    monkeypatch.setattr(module_imports, "IMPORT_S_MAX", 0.05)
    factory = TaskFactory(Application(root=place), decode_in_threads=True)
    request = Request(message_id="id", attempt=1, body=body_naming("slow_five:X"))

    with pytest.raises(ImportTookTooLong) as caught:
        await build_task(request, factory)

    assert dead_reason_of(caught.value) is DeadReason.UNKNOWN_TASK


async def test_a_child_imports_the_file_that_the_worker_has_the_task_from(place: Path) -> None:
    (place / "told_of.py").write_text(TASK)
    factory = TaskFactory(Application())
    envelope = factory.decode_verified(body_naming("told_of:X"))

    with pytest.raises(UnknownTask):
        await factory.find("id", 1, envelope)
    with pytest.raises(UnknownTask, match=r"can't be imported from"):
        await factory.find("id", 1, envelope, file=str(place / "other.py"))
    assert not RAN

    assert (await factory.find("id", 1, envelope, file=str(place / "told_of.py"))).cls.__module__ == "told_of"


# -- crashes ---------------------------------------------------------------------------------------


async def after_crashes(count: int, body: bytes, application: Application) -> StoredMessage:
    """Return what a worker makes of a message whose leases have run out so often."""
    clock = VirtualClock()
    driver = MemoryDriver(clock=clock)
    await driver.enqueue([Message(id="poison", queue="default", body=body)])
    for _ in range(count):
        assert await driver.reserve(["default"], limit=1, lease_s=1, wait_s=0)
        clock.advance(seconds=2)
    worker = Worker(driver, settings=WorkerSettings(application=application, burst=True, handle_signals=False))
    async with asyncio.timeout(SOON_S):
        await worker.start()
    found = await driver.find("poison")
    assert found is not None
    return found


async def test_a_module_that_kills_its_process_is_tried_by_a_child_before_failed_is_called(place: Path) -> None:
    (place / "killing.py").write_text(TASK + "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")

    dead = await after_crashes(3, body_naming("killing:X"), Application(root=place))

    assert (dead.reason, dead.crashes) == (DeadReason.CRASHED, 3)
    assert not RAN


async def test_failed_is_called_though_the_module_was_not_imported_yet(place: Path) -> None:
    (place / "harmless.py").write_text(TASK)

    dead = await after_crashes(3, body_naming("harmless:X"), Application(root=place))

    assert dead.reason is DeadReason.CRASHED
    assert RAN == {"imported": 1, "failed": 1}


async def test_what_crashed_as_often_when_it_was_given_up_is_left_alone(place: Path) -> None:
    (place / "left_alone.py").write_text(TASK)

    dead = await after_crashes(6, body_naming("left_alone:X"), Application(root=place))

    assert dead.reason is DeadReason.CRASHED
    assert not RAN


async def test_nothing_of_a_body_is_read_that_crashed_more_often_than_any_may(place: Path) -> None:
    application = Application(root=place)

    assert (await after_crashes(1, b"rubbish", application)).reason is DeadReason.UNDECODABLE
    assert (await after_crashes(2 * MAX_CRASHES_MOST, b"rubbish", application)).reason is DeadReason.CRASHED
