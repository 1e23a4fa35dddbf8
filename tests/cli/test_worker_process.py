"""The worker command on a real SQLite file: signals, limits, queues, settings, and files that can't be used."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from asynctasq.cli.exit_codes import ExitCode
from asynctasq.config import ENV_PREFIX
from tests.patience import SOON_S, wait_until

TASKS = """
import asyncio, os, signal, time
from pathlib import Path
from asynctasq import AsyncTask, SyncProcessTask, task

HERE = Path(__file__).parent

@task
async def note(text: str) -> None:
    with (HERE / "notes").open("a") as file:
        file.write(text + "\\n")

@task(queue="high")
async def urgent() -> None:
    await note.function("urgent")

class Waits(AsyncTask[None]):
    async def execute(self) -> None:
        (HERE / "started").touch()
        while not (HERE / "go").exists():
            await asyncio.sleep(0.01)
        for _ in range(3):  # a signal sent before "go" was made is heard in one of these turns of the loop
            await asyncio.sleep(0)
        await note.function("waited")

class Speaks(SyncProcessTask[None]):
    def execute(self) -> None:
        print("spoken in a child")

@task
async def heavy(data: bytes) -> None: ...

async def leaves() -> None:
    raise SystemExit("I leave")

@task
async def starts_one_that_leaves() -> None:
    await asyncio.wait([asyncio.create_task(leaves())])
    await note.function("stayed")

@task
async def asks_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(0.05)
    await note.function("stopped itself")
"""


@dataclass
class Folder:
    """A project with tasks and an empty queue, and the workers started in it."""

    path: Path
    workers: "list[subprocess.Popen[str]]" = field(default_factory=list["subprocess.Popen[str]"])

    def environment(self, extra: dict[str, str]) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        return {**clean, **extra}

    def python(self, code: str, **extra: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", f"from shop import *\n{code}"],
            cwd=self.path,
            env=self.environment(extra),
            capture_output=True,
            text=True,
            timeout=SOON_S,
            check=False,
        )

    def dispatch(self, code: str) -> None:
        done = self.python(code)
        assert done.returncode == 0, done.stderr

    def start(self, *options: str, **extra: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "asynctasq", "worker", *options],
            cwd=self.path,
            env=self.environment(extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.workers.append(process)
        return process

    def run(self, *options: str, **extra: str) -> tuple[int, str, str]:
        process = self.start(*options, **extra)
        out, err = process.communicate(timeout=SOON_S)
        return process.returncode, out, err

    @property
    def notes(self) -> list[str]:
        file = self.path / "notes"
        return file.read_text().split("\n")[:-1] if file.exists() else []

    def wait_for(self, name: str) -> None:
        wait_until((self.path / name).exists, name)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "shop.py").write_text(TASKS)
    made = Folder(tmp_path)
    yield made
    for process in made.workers:
        if process.poll() is None:
            process.kill()
        process.communicate()


def events(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_what_runs_end_and_leaves_the_rest(folder: Folder, number: signal.Signals) -> None:
    folder.dispatch("Waits().dispatch_sync(); note('later').dispatch_sync()")
    process = folder.start("--concurrency", "1", "--json")
    folder.wait_for("started")

    process.send_signal(number)
    (folder.path / "go").touch()
    out, _ = process.communicate(timeout=SOON_S)

    assert process.returncode == ExitCode.DONE
    assert folder.notes == ["waited"]
    assert [event["settlement"] for event in events(out) if event["event"] == "attempt"] == ["complete"]
    assert folder.run("--burst")[0] == ExitCode.DONE
    assert folder.notes == ["waited", "later"]


def test_what_does_not_end_in_time_is_handed_back_and_runs_again(folder: Folder) -> None:
    folder.dispatch("Waits().dispatch_sync()")
    process = folder.start("--shutdown-timeout", "0.1", "--json")
    folder.wait_for("started")

    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=SOON_S)

    assert process.returncode == ExitCode.DONE, err
    assert [event["settlement"] for event in events(out) if event["event"] == "attempt"] == ["hand back"]
    (folder.path / "go").touch()
    code, out, _ = folder.run("--burst", "--json")
    assert code == ExitCode.DONE
    assert [event["attempt"] for event in events(out) if event["event"] == "attempt"] == [1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("catches", [False, True])
def test_a_signal_while_the_application_is_imported_ends_with_zero(
    folder: Folder, number: signal.Signals, catches: bool
) -> None:
    waiting = "touch('importing'); signal.sigtimedwait([], 600); touch('imported')"
    code = "import signal\nfrom pathlib import Path\ntouch = lambda name: (Path(__file__).parent / name).touch()\n"
    code += f"try:\n    {waiting}\nexcept SystemExit:\n    touch('caught')\n" if catches else waiting
    (folder.path / "slow.py").write_text(code)
    process = folder.start("--app", "slow")
    folder.wait_for("importing")

    process.send_signal(number)
    _, err = process.communicate(timeout=SOON_S)

    assert (process.returncode, err) == (ExitCode.DONE, "")
    assert (folder.path / "caught").exists() == catches


def test_signals_are_heard_before_the_worker_command_is_imported(folder: Folder) -> None:
    process = folder.start("--app", "shop")
    status = Path(f"/proc/{process.pid}/status")
    mask = 1 << (signal.SIGTERM - 1)
    wait_until(
        lambda: "SigCgt" in status.read_text() and int(status.read_text().split("SigCgt:")[1].split()[0], 16) & mask
    )

    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=SOON_S)

    assert (process.returncode, err) == (ExitCode.DONE, "")
    assert out == "", "the signal came too late for what is tested"


def test_a_task_may_ask_its_own_worker_to_stop(folder: Folder) -> None:
    folder.dispatch("asks_to_stop().dispatch_sync()")

    assert folder.run()[0] == ExitCode.DONE
    assert folder.notes == ["stopped itself"]


def test_system_exit_in_an_asyncio_task_of_a_users_own_costs_neither_worker_nor_attempt(folder: Folder) -> None:
    folder.dispatch("starts_one_that_leaves().dispatch_sync()")

    code, _, err = folder.run("--burst")

    assert (code, folder.notes) == (0, ["stayed"])
    assert "SystemExit('I leave')" in err


def test_max_tasks_ends_the_worker_after_so_many(folder: Folder) -> None:
    folder.dispatch("from asynctasq import dispatch_many_sync as many; many([note(str(n)) for n in range(5)])")

    assert folder.run("--max-tasks", "2", "--concurrency", "10")[0] == ExitCode.DONE
    assert len(folder.notes) == 2


def test_queues_that_are_not_named_are_left_alone(folder: Folder) -> None:
    folder.dispatch("note('normal').dispatch_sync(); urgent().dispatch_sync()")

    folder.run("--burst", "--queues", "high")
    assert folder.notes == ["urgent"]
    folder.run("--burst")
    assert folder.notes == ["urgent", "normal"]


def test_queues_are_served_in_the_order_given(folder: Folder) -> None:
    folder.dispatch("note('normal').dispatch_sync(); urgent().dispatch_sync()")

    folder.run("--burst", "--queues", "high,default", "--concurrency", "1")

    assert folder.notes == ["urgent", "normal"]


def test_modules_may_be_named_and_separated_by_commas(folder: Folder) -> None:
    (folder.path / "other.py").write_text("")
    folder.dispatch("note('a').dispatch_sync()")

    code, out, err = folder.run("--burst", "--app", "shop,other", "--app", "json")

    assert code == ExitCode.DONE, err
    assert "shop, other, json" in out
    assert folder.notes == ["a"]


def test_settings_come_from_the_environment_and_the_command_line_wins(folder: Folder) -> None:
    code, out, _ = folder.run("--burst", "--json", "--queues", "a", ASYNCTASQ_QUEUES="b", ASYNCTASQ_CONCURRENCY="7")

    assert code == ExitCode.DONE
    assert (events(out)[0]["queues"], events(out)[0]["concurrency"]) == ("a", 7)


def test_a_wrong_setting_in_the_environment_is_a_configuration_error(folder: Folder) -> None:
    code, _, err = folder.run("--burst", ASYNCTASQ_CONCURENCY="7")

    assert code == ExitCode.CONFIGURATION
    assert "unknown setting 'concurency'; did you mean 'concurrency'?" in err


def test_init_in_a_task_module_does_not_move_the_worker(folder: Folder) -> None:
    folder.dispatch("note('a').dispatch_sync()")
    (folder.path / "shop.py").write_text(f"import asynctasq\nasynctasq.init(driver='memory')\n{TASKS}")

    assert folder.run("--burst", "--app", "shop")[0] == ExitCode.DONE
    assert folder.notes == ["a"]


def test_what_a_child_prints_appears_on_the_workers_output(folder: Folder) -> None:
    folder.dispatch("Speaks().dispatch_sync()")

    code, out, _ = folder.run("--burst", "--quiet", "--process-pool-size", "1")

    assert code == ExitCode.DONE
    assert "spoken in a child\n" in out


def test_quiet_says_nothing_of_attempts(folder: Folder) -> None:
    folder.dispatch("note('a').dispatch_sync()")

    _, out, _ = folder.run("--burst", "--quiet")

    assert folder.notes == ["a"]
    assert "shop:note" not in out


# -- files that can't be used --------------------------------------------------------------------


def test_a_folder_in_the_place_of_the_file_ends_the_worker_in_words(folder: Folder) -> None:
    code, _, err = folder.run("--burst", "--driver", f"sqlite:///{folder.path}")

    assert code == ExitCode.CONFIGURATION
    assert str(folder.path) in err
    assert "Traceback" not in err


def test_a_file_of_a_newer_version_ends_the_worker_in_words(folder: Folder) -> None:
    folder.dispatch("note('a').dispatch_sync()")
    with closing(sqlite3.connect(folder.path / ".asynctasq" / "queue.db")) as other:
        other.execute("PRAGMA user_version = 9999")

    code, _, err = folder.run("--burst")

    assert code == ExitCode.CONFIGURATION
    assert "newer asynctasq" in err
    assert folder.python("note('b').dispatch_sync()").stderr.count("newer asynctasq") >= 1


def test_a_file_that_is_no_database_ends_the_worker_in_words(folder: Folder) -> None:
    path = folder.path / "letter.db"
    path.write_text("Dear database, " * 100)

    code, _, err = folder.run("--burst", "--driver", f"sqlite:///{path}")

    assert code == ExitCode.CONFIGURATION
    assert str(path) in err
    assert path.read_text().startswith("Dear database")


def test_on_a_full_disk_a_dispatch_is_refused_and_the_worker_runs_what_is_there(folder: Folder) -> None:
    url = f"sqlite:///{folder.path / 'small.db'}?max_page_count=60"
    full = folder.python(
        f"from asynctasq import init; init(driver={url!r})\nnote('first').dispatch_sync()\n"
        "for _ in range(1000): heavy(b'x' * 3000).dispatch_sync()"
    )

    code, out, err = folder.run("--burst", "--json", "--driver", url)

    assert full.returncode == 1
    assert "no space left" in full.stderr.splitlines()[-1]
    assert code == ExitCode.DONE, err
    settled = {event["settlement"] for event in events(out) if event["event"] == "attempt"}
    assert settled == {"complete"}
    assert folder.notes == ["first"]
    assert folder.python(f"from asynctasq import init; init(driver={url!r})\nnote('b').dispatch_sync()").returncode == 0


TWO_WORKERS = """
import asyncio, sys
from asynctasq import Worker
from asynctasq.drivers.sqlite_driver import SQLiteDriver

async def main():
    async with asyncio.TaskGroup() as workers:
        for name in sys.argv[1:]:
            workers.create_task(Worker(SQLiteDriver(name), ["default"]).start())

asyncio.run(main())
"""


def test_a_signal_stops_all_workers_of_a_process(folder: Folder) -> None:
    for name in ("a.db", "b.db"):
        folder.dispatch(f"from asynctasq import init; init(driver='sqlite:///{name}')\nnote({name!r}).dispatch_sync()")
    process = subprocess.Popen(
        [sys.executable, "-c", TWO_WORKERS, "a.db", "b.db"], cwd=folder.path, env=folder.environment({})
    )
    folder.workers.append(process)  # pyright: ignore[reportArgumentType] - its output is not read
    wait_until(lambda: sorted(folder.notes) == ["a.db", "b.db"], "both have run their task")

    process.send_signal(signal.SIGTERM)

    assert process.wait(SOON_S) == ExitCode.DONE
