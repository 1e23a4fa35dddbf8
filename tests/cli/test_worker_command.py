"""The command as a process: banner, JSON, exit codes, and a reference page that says what `--help` says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from asynctasq import __version__
from asynctasq.cli.app import app
from asynctasq.cli.exit_codes import ExitCode
from tests.patience import SOON_S

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
TASKS = """
from asynctasq import AsyncTask

class Hello(AsyncTask[None]):
    async def execute(self) -> None:
        return None

class Broken(AsyncTask[None]):
    max_attempts = 1

    async def execute(self) -> None:
        raise ValueError("on purpose")

class Again(AsyncTask[None]):
    retry_delay = 60

    async def execute(self) -> None:
        raise ValueError("not yet")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "hello_tasks.py").write_text(TASKS)
    return tmp_path


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "asynctasq", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SOON_S, check=False)


def dispatch(folder: Path) -> None:
    program = "import hello_tasks as h; h.Hello().dispatch_sync(); h.Broken().dispatch_sync()"
    subprocess.run([sys.executable, "-c", program], cwd=folder, timeout=SOON_S, check=True)


def test_the_banner_names_the_driver_and_its_file(folder: Path) -> None:
    done = run(folder, "worker", "--burst")

    assert done.returncode == ExitCode.DONE, done.stderr
    assert "sqlite" in done.stdout
    assert str(folder / ".asynctasq" / "queue.db") in done.stdout


def test_a_readable_line_tells_of_each_attempt(folder: Path) -> None:
    dispatch(folder)

    done = run(folder, "worker", "--burst", "--app", "hello_tasks")

    assert "hello_tasks:Hello" in done.stdout
    assert "failed for good, dead letter" in done.stdout
    assert "ValueError: on purpose" in done.stdout


def test_the_line_of_a_failure_tells_the_delay_until_its_retry(folder: Path) -> None:
    program = "import hello_tasks as h; h.Again().dispatch_sync()"
    subprocess.run([sys.executable, "-c", program], cwd=folder, timeout=SOON_S, check=True)

    done = run(folder, "worker", "--burst", "--app", "hello_tasks")

    assert re.search(r"failed, will be retried in (60|59\.\d) s, ran \d+ ms: ValueError: not yet", done.stdout)


def test_with_json_every_line_is_json(folder: Path) -> None:
    dispatch(folder)

    done = run(folder, "worker", "--burst", "--json", "--log-level", "debug")

    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == ExitCode.DONE
    assert lines[0]["event"] == "started"
    assert "queue.db" in lines[0]["driver"]
    attempts = {line["task"]: line["settlement"] for line in lines if line["event"] == "attempt"}
    assert attempts == {"hello_tasks:Hello": "complete", "hello_tasks:Broken": "bury"}


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--nope"], ExitCode.USAGE, "No such option"),
        (["--concurrency", "0"], ExitCode.USAGE, "Invalid value"),
        (["--queues", "a b"], ExitCode.CONFIGURATION, "queue name 'a b' is not valid"),
        (["--queues", "a'b"], ExitCode.CONFIGURATION, "is not valid"),
        (["--driver", "memory"], ExitCode.CONFIGURATION, "keeps its messages in one process"),
        (["--app", "no_such_module"], ExitCode.CONFIGURATION, "there is no module 'no_such_module'"),
        (["--log-level", "LOUD"], ExitCode.CONFIGURATION, "use DEBUG, INFO, WARNING or ERROR"),
        (["--lease", "0"], ExitCode.CONFIGURATION, "lease_s"),
        (["--driver", "redis://127.0.0.1:1"], ExitCode.BACKEND, "redis://127.0.0.1:1 can't be reached"),
    ],
)
def test_the_exit_code_says_what_was_wrong(folder: Path, arguments: list[str], code: int, text: str) -> None:
    done = run(folder, "worker", "--burst", *arguments)

    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_an_application_that_breaks_is_told_with_its_traceback(folder: Path) -> None:
    (folder / "broken_app.py").write_text("raise ValueError('mine')\n")

    done = run(folder, "worker", "--burst", "--app", "broken_app")

    assert done.returncode == ExitCode.CONFIGURATION
    assert "--app broken_app: it can't be imported" in done.stderr
    assert 'broken_app.py", line 1' in done.stderr


def test_the_version_is_told(folder: Path) -> None:
    assert run(folder, "--version").stdout == f"asynctasq {__version__}\n"


def test_the_demo_ends_well_with_its_table(folder: Path) -> None:
    done = run(folder, "demo")

    assert done.returncode == ExitCode.DONE, done.stdout + done.stderr
    for word in ("WelcomeUser", "CountPrimes", "completed", "dead letter", "1 dead letter"):
        assert word in done.stdout


def test_the_reference_names_every_command_option_and_exit_code() -> None:
    page = PAGE.read_text()
    commands = getattr(get_command(app), "commands")  # noqa: B009 - of typer's group, whose type is private

    for name, command in commands.items():
        section = page.partition(f"## `asynctasq {name}`")[2].partition("\n## ")[0]
        parameters = [one for part in getattr(command, "commands", {"": command}).values() for one in part.params]
        options = {option for parameter in parameters for option in parameter.opts if option.startswith("--")}
        assert set(re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE)) == options - {"--help"}
    for code in ExitCode:
        assert f"| {code.value} |" in page


def test_the_banner_names_the_queues_of_its_tasks_that_it_does_not_serve(folder: Path) -> None:
    (folder / "hello_tasks.py").write_text(
        TASKS + "\nclass Mail(Hello):\n    queue = 'mail'\n\nclass Base(AsyncTask[None]):\n    queue = 'nobody'\n"
    )

    partly = run(folder, "worker", "--burst", "--app", "hello_tasks", "--json")
    wholly = run(folder, "worker", "--burst", "--app", "hello_tasks", "--queues", "default,mail")

    assert json.loads(partly.stdout.splitlines()[0])["not_served"].startswith("mail: ")
    assert "not_served" not in wholly.stdout
