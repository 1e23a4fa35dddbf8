"""A worker process among tasks that exit, interrupt and come back for ever: it lives, and hears SIGTERM."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.drivers.urls import sqlite_url
from asynctasq.kernel.messages import Message
from asynctasq.queue import MessageFactory
from tests.security import hostile_tasks as tasks
from tests.security.test_innocent_beside_hostile import body

ROOT = Path(__file__).parents[2]
STOP_S_MAX = 10.0
SNOOZES = 3


async def test_it_buries_them_all_and_still_hears_sigterm(tmp_path: Path) -> None:
    driver = SQLiteDriver(tmp_path / "queue.db")
    hostile = [
        tasks.ConstructorExitsInWorker(os.getpid()),
        tasks.ConstructorExitsInChild(os.getpid()),
        tasks.RaisesExitingText(),
        tasks.RaisesInterruptingText(),
        tasks.HooksExit(),
    ]
    made = [tasks.SnoozesForEver(), *hostile, *[tasks.Innocent() for _ in range(20)]]
    await driver.enqueue([MessageFactory().message(task) for task in made])
    await driver.enqueue([Message(id="forged", queue="default", body=body(retry=1e18))])
    await driver.close()
    command = [sys.executable, "-m", "asynctasq", "worker", "--app", tasks.__name__, "--json"]
    command += ["--driver", sqlite_url(tmp_path / "queue.db")]

    settled: Counter[tuple[str, str]] = Counter()
    runs_of_snoozing = 0
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE) as worker:
        try:
            assert worker.stdout is not None
            for line in worker.stdout:
                event = json.loads(line)
                if event["event"] != "attempt":
                    continue
                if event["settlement"] in ("snooze", "hand back"):
                    runs_of_snoozing += 1
                elif event["settlement"] != "retry":
                    settled[event["task"].rpartition(":")[2], event["settlement"]] += 1
                if settled.total() == len(made) and runs_of_snoozing >= SNOOZES:
                    break
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(STOP_S_MAX) == 0
        finally:
            worker.kill()

    assert settled == {
        ("Innocent", "complete"): 20,
        **{(type(task).__name__, "bury"): 1 for task in hostile},
        ("", "bury"): 1,
    }
    assert runs_of_snoozing <= SNOOZES + 7, "at most one run a second, the first two of each worker apart"
