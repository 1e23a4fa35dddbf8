"""Real worker processes whose messages name modules that end the process, or never end, when they are imported."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from asynctasq.codec.arguments import pack_arguments
from asynctasq.codec.envelope import encode_envelope
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.drivers.urls import sqlite_url
from asynctasq.kernel.envelope import Envelope
from asynctasq.kernel.messages import DeadReason, Message, State
from asynctasq.kernel.retry import Fixed
from tests.patience import SOON_S, patient_s

WORKER = """
import sys
from asynctasq.core import module_imports
module_imports.IMPORT_S_MAX = float(sys.argv.pop(1))
from asynctasq.cli.app import app
app()
"""
INNOCENT = """
from asynctasq import AsyncTask
class Innocent(AsyncTask[None]):
    async def execute(self) -> None: ...
"""
EXITS = INNOCENT.replace("Innocent", "Exits") + "import os\nopen('imports', 'a').write('x')\nos._exit(7)\n"
ENDLESS = INNOCENT.replace("Innocent", "Endless") + "open('imports', 'a').write('x')\nwhile True: pass\n"
MAX_CRASHES = 3
LEASE_S = "1"


def message(name: str, message_id: str, *, max_crashes: int = MAX_CRASHES) -> Message:
    envelope = Envelope(
        task=name,
        arguments=pack_arguments(name, {}, {}),
        max_attempts=3,
        retry=Fixed(delay_s=0.0),
        dispatched_at=0.0,
        max_crashes=max_crashes,
    )
    return Message(id=message_id, queue="default", body=encode_envelope(envelope))


def start(folder: Path, *options: str, import_s_max: float = 30.0) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WORKER, str(patient_s(import_s_max)), "worker", "--json", "--lease", LEASE_S]
    command += ["--driver", sqlite_url(folder / "queue.db"), *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ASYNCTASQ_DRIVER")}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE)


def settled(worker: "subprocess.Popen[str]", count: int) -> dict[str, str]:
    """Read what the worker says until it has settled so many messages: by id, how."""
    found: dict[str, str] = {}
    too_late = threading.Timer(SOON_S, worker.kill)
    too_late.start()
    assert worker.stdout is not None
    for line in worker.stdout:
        event = json.loads(line)
        if event["event"] == "attempt":
            found[event["task_id"]] = event["settlement"]
        if len(found) == count:
            break
    too_late.cancel()
    return found


async def test_a_module_that_ends_the_process_costs_max_crashes_workers(tmp_path: Path) -> None:
    (tmp_path / "exits.py").write_text(EXITS)
    (tmp_path / "innocent.py").write_text(INNOCENT)
    driver = SQLiteDriver(tmp_path / "queue.db")
    await driver.enqueue([message("exits:Exits", "poison")])

    codes = []
    for _ in range(MAX_CRASHES):
        with start(tmp_path) as worker:
            codes.append(worker.wait(SOON_S))
    await driver.enqueue([message("innocent:Innocent", "innocent")])
    with start(tmp_path) as worker:
        try:
            ended = settled(worker, 2)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(SOON_S) == 0
        finally:
            worker.kill()

    assert codes == [7] * MAX_CRASHES
    assert ended == {"poison": "bury", "innocent": "complete"}
    dead = await driver.find("poison")
    await driver.close()
    assert dead is not None
    assert (dead.state, dead.reason, dead.crashes) == (State.DEAD, DeadReason.CRASHED, MAX_CRASHES)


async def test_a_module_that_never_ends_costs_its_message_alone(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    (tmp_path / "innocent.py").write_text(INNOCENT)
    driver = SQLiteDriver(tmp_path / "queue.db")
    first = [message("endless:Endless", "first"), message("innocent:Innocent", "innocent")]
    await driver.enqueue(first)

    with start(tmp_path, import_s_max=1.0) as worker:
        try:
            ended = settled(worker, 2)
            await driver.enqueue([message("endless:Endless", "second"), message("innocent:Innocent", "later")])
            ended |= settled(worker, 2)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(SOON_S) == 0
        finally:
            worker.kill()

    assert ended == {
        "first": "bury",
        "second": "bury",
        "innocent": "complete",
        "later": "complete",
    }
    for message_id in ("first", "second"):
        dead = await driver.find(message_id)
        assert dead is not None
        assert dead.error is not None
        assert dead.reason is DeadReason.UNKNOWN_TASK
        assert "endless" in dead.error.message
    await driver.close()
    assert (tmp_path / "imports").read_text() == "x", "it is imported once"


async def test_with_app_the_files_beside_it_are_not_run(tmp_path: Path) -> None:
    (tmp_path / "exits.py").write_text(EXITS)
    (tmp_path / "innocent.py").write_text(INNOCENT)
    driver = SQLiteDriver(tmp_path / "queue.db")
    await driver.enqueue([message("exits:Exits", "refused"), message("innocent:Innocent", "innocent")])

    with start(tmp_path, "--app", "innocent", "--burst") as worker:
        try:
            ended = settled(worker, 2)
            assert worker.wait(SOON_S) == 0
        finally:
            worker.kill()

    await driver.close()
    assert ended == {"refused": "bury", "innocent": "complete"}
    assert not (tmp_path / "imports").exists()
