"""A message that names code which is no task of the application: a dead letter, and nothing is imported."""

import sys
from pathlib import Path

import pytest

from asynctasq.codec.arguments import pack_arguments
from asynctasq.codec.envelope import encode_envelope
from asynctasq.core.runtime import WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.kernel.envelope import Envelope
from asynctasq.kernel.messages import DeadReason, Message, State
from asynctasq.kernel.retry import Fixed
from asynctasq.tasks import AsyncTask
from asynctasq.tasks.application import Application


class Ordinary(AsyncTask[None]):
    async def execute(self) -> None: ...


def body_naming(task: str) -> bytes:
    envelope = Envelope(
        task=task,
        arguments=pack_arguments(task, {"args": ["true"]}, {}),
        max_attempts=3,
        retry=Fixed(delay_s=0.0),
        dispatched_at=0.0,
        timeout_s=None,
        keep_result_s=None,
        max_crashes=3,
    )
    return encode_envelope(envelope)


@pytest.mark.parametrize(
    "name",
    ["subprocess:Popen", "os:system", "wsgiref.handlers:CGIHandler", "moto.server:main", "../../etc/evil:Evil"],
)
async def test_a_message_that_names_no_task_is_a_dead_letter_and_imports_nothing(tmp_path: Path, name: str) -> None:
    driver = MemoryDriver()
    await driver.enqueue([Message(id="hostile", queue="default", body=body_naming(name))])
    settings = WorkerSettings(application=Application(root=tmp_path), burst=True, handle_signals=False)
    imported_before = name.partition(":")[0] in sys.modules

    await Worker(driver, settings=settings).start()

    found = await driver.find("hostile")
    assert found is not None
    assert (found.state, found.reason) == (State.DEAD, DeadReason.UNKNOWN_TASK)
    assert (name.partition(":")[0] in sys.modules) == imported_before


async def test_the_dead_letter_names_the_nearest_task(tmp_path: Path) -> None:
    driver = MemoryDriver()
    await driver.enqueue([Message(id="renamed", queue="default", body=body_naming(f"{__name__}:Ordinry"))])
    settings = WorkerSettings(application=Application(root=tmp_path), burst=True, handle_signals=False)

    await Worker(driver, settings=settings).start()

    found = await driver.find("renamed")
    assert found is not None
    assert f"did you mean '{__name__}:Ordinary'?" in str(found.error)
