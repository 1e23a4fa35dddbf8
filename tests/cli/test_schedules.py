"""`asynctasq schedules` as a process, and the worker that keeps them going, on a SQLite file."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asynctasq.cli.exit_codes import ExitCode
from tests.patience import SOON_S, wait_until

TASKS = """
from pathlib import Path

from asynctasq import Cron, Every, SyncTask, task

class Nightly(SyncTask[None]):
    schedule = Cron("0 3 * * *", tz="Europe/Berlin", name="nightly")

    def execute(self) -> None:
        with (Path(__file__).parent / "ran").open("a") as file:
            file.write(f"{self.scheduled_for}\\n")

@task
def greet(who: str) -> None:
    with (Path(__file__).parent / "ran").open("a") as file:
        file.write(f"hello {who}\\n")
"""
SETTINGS = """
[tool.asynctasq]
app = "shop_tasks"

[tool.asynctasq.schedules.greeting]
task = "shop_tasks:greet"
every = {seconds = 1}
arguments = {who = "you"}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(SETTINGS)
    (tmp_path / "shop_tasks.py").write_text(TASKS)
    return tmp_path


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "asynctasq", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SOON_S, check=False)


def ran(folder: Path) -> list[str]:
    path = folder / "ran"
    return path.read_text().splitlines() if path.exists() else []


def work_until(folder: Path, line: str) -> str:
    """Run a worker until its tasks have written this line; return what it said."""
    command = [sys.executable, "-m", "asynctasq", "worker"]
    process = subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: line in ran(folder), f"a task writes {line!r}")
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=SOON_S)
        assert process.returncode == ExitCode.DONE
        return said
    finally:
        process.kill()
        process.wait()


def test_schedules_of_the_code_are_listed_before_a_worker_has_them(folder: Path) -> None:
    done = run(folder, "schedules", "list")

    assert done.returncode == ExitCode.DONE, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["name", "task", "schedule", "zone", "next", "last", "state"]
    assert lines[1][:5] == ["greeting", "shop_tasks:greet", "every", "1", "s"]
    assert lines[2][0] == "nightly"
    assert done.stdout.count("not started") == 2


def test_a_worker_keeps_the_schedules_of_code_and_settings_going(folder: Path) -> None:
    said = work_until(folder, "hello you")
    listed = {view["name"]: view for view in json.loads(run(folder, "schedules", "list", "--json").stdout)}

    assert "shop_tasks:greet" in said
    assert "schedule:" not in said, "only what tasks do is told"
    assert {name: view["state"] for name, view in listed.items()} == {"greeting": "active", "nightly": "active"}
    assert listed["greeting"]["last_at"] is not None
    assert "T03:00:00+0" in listed["nightly"]["next_at"]
    assert (listed["nightly"]["tz"], listed["nightly"]["rule"]) == ("Europe/Berlin", "0 3 * * *")


def test_other_code_lists_what_it_does_not_define(folder: Path) -> None:
    work_until(folder, "hello you")
    (folder / "pyproject.toml").write_text("")

    done = run(folder, "schedules", "list")

    assert done.stdout.count("active, not in this code") == 2


def test_a_schedule_is_paused_resumed_and_run_by_hand(folder: Path) -> None:
    assert "nightly: paused" in run(folder, "schedules", "pause", "nightly").stdout
    assert "was paused already" in run(folder, "schedules", "pause", "nightly").stdout
    assert '"state": "paused"' in run(folder, "schedules", "list", "--json").stdout
    assert "nightly: resumed" in run(folder, "schedules", "resume", "nightly").stdout
    assert json.loads(run(folder, "schedules", "resume", "nightly", "--json").stdout)["changed"] is False
    dispatched = json.loads(run(folder, "schedules", "run", "nightly", "--json").stdout)

    assert len(dispatched["task_id"]) == 36
    work_until(folder, "None")


def test_the_next_instants_are_shown_in_the_schedules_time_zone(folder: Path) -> None:
    done = run(folder, "schedules", "next", "nightly", "-n", "3")
    as_json = json.loads(run(folder, "schedules", "next", "nightly", "--json").stdout)

    assert len(done.stdout.splitlines()) == 3
    assert all("T03:00:00+0" in line for line in done.stdout.splitlines())
    assert as_json["next"][:3] == done.stdout.splitlines()


@pytest.mark.parametrize(
    ("settings", "arguments", "code", "says"),
    [
        ("", ["next", "nightl", "--app", "shop_tasks"], ExitCode.CONFIGURATION, "did you mean 'nightly'?"),
        ('a = {task = "shop_tasks:greet", cron = "0 3 * *"}', ["list"], ExitCode.CONFIGURATION, "is wrong"),
        ('a = {task = "shop_tasks:greet", every = 5, cron = "* * * * *"}', ["list"], ExitCode.CONFIGURATION, "either"),
        ('a = {task = "shop_tasks:greet", every = 60, tz = "UTC"}', ["list"], ExitCode.CONFIGURATION, "no time zone"),
        ('a = {task = "shop_tasks:nope", every = 60}', ["list"], ExitCode.CONFIGURATION, "schedules.a: no task"),
        ('a = {task = "shop_tasks:greet", every = 60}', ["list"], ExitCode.CONFIGURATION, "can't be made|no message"),
        (
            'nightly = {task = "shop_tasks:Nightly", every = 60}',
            ["list"],
            ExitCode.CONFIGURATION,
            "of one name, 'nightly'",
        ),
        ("", ["list", "--driver", "sqs"], ExitCode.BACKEND, "can't keep schedules"),
    ],
)
def test_what_can_not_work_is_told(folder: Path, settings: str, arguments: list[str], code: int, says: str) -> None:
    (folder / "pyproject.toml").write_text(
        f'[tool.asynctasq]\napp = "shop_tasks"\n[tool.asynctasq.schedules]\n{settings}\n'
    )

    done = run(folder, "schedules", *arguments)

    assert done.returncode == code, done.stderr
    assert any(part in done.stderr for part in says.split("|")), done.stderr
