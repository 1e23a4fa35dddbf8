"""The wheel in an empty environment, and a project of three files outside of this repository that tests its tasks."""

import fcntl
import os
import re
import shlex
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.patience import patient_s

ROOT = Path(__file__).parents[2]
SOON_S = patient_s(200)

PYPROJECT = """
[project]
name = "shop"
version = "1"

[tool.pytest.ini_options]
pythonpath = ["."]
"""

TASKS = """
import asyncio

from asynctasq import AsyncTask, SyncProcessTask, task

PAID = {}


class Charge(AsyncTask[None]):
    max_attempts = 3
    retry_delay = [60, 3600]

    def __init__(self, order: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.order = order

    async def execute(self) -> None:
        raise ConnectionError("the bank is closed")


class Pay(AsyncTask[None]):
    def __init__(self, order: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.order = order

    async def execute(self) -> None:
        await asyncio.sleep(1)
        PAID[self.order] = 100


class PayCarelessly(Pay):
    async def execute(self) -> None:
        PAID[self.order] = PAID.get(self.order, 0) + 100
        await asyncio.sleep(1)


class Render(SyncProcessTask[int]):
    keep_result = True

    def execute(self) -> int:
        return 42


@task(queue="emails")
async def welcome(email: str) -> None:
    await Pay(7).dispatch()
"""

TESTS = """
import asyncio

from shop import PAID, Charge, Pay, PayCarelessly, Render, welcome
from asynctasq.testing import FakeQueue, simulate


def test_what_was_dispatched(fake_queue):
    welcome(email="ada@example.org").delay(60).dispatch_sync()

    fake_queue.assert_dispatched(welcome, email="ada@example.org", on_queue="emails", delay=60, times=1)


def test_tasks_of_tasks(fake_queue, virtual_clock):
    welcome(email="ada@example.org").dispatch_sync()
    fake_queue.run_until_idle_sync()

    fake_queue.assert_completed(Pay)
    assert virtual_clock is fake_queue.clock


def test_retries():
    with FakeQueue() as queue:
        Charge(order=1).dispatch_sync()
        queue.run_until_idle_sync()

        queue.assert_retried_at([60, 3660])
        queue.assert_failed(Charge, with_=ConnectionError, attempts=3)


def test_a_process_task():
    with FakeQueue() as queue:
        assert queue.perform_sync(Render()).value == 42


def test_asynchronous_code_without_a_plugin_for_it():
    async def main():
        async with FakeQueue() as queue:
            await Pay(3).dispatch()
            await queue.run_until_idle()
            queue.assert_completed(Pay)

    asyncio.run(main())


@simulate(runs=40)
async def test_paying_is_idempotent(sim):
    PAID.clear()
    await Pay(1).dispatch()
    await sim.settle()
    assert PAID == {1: 100}


def test_many_orders(sim):
    async def program(sim):
        PAID.clear()
        for order in range(3):
            await Pay(order).dispatch()
        await sim.settle()
        assert PAID == {0: 100, 1: 100, 2: 100}

    sim(program, runs=20)
"""

CARELESS = """

@simulate(runs=100)
async def test_paying_carelessly(sim):
    PAID.clear()
    await PayCarelessly(1).dispatch()
    await sim.settle()
    assert PAID == {1: 100}, "paid twice"
"""


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds pytest, xdist and the wheel with its extra, and nothing else of ours."""
    base = tmp_path_factory.getbasetemp()
    # The processes of one xdist run share the folder above theirs; the first to come makes the environment.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "user-project"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            make_environment(folder)
            (folder / "made").touch()
    return folder / "venv" / "bin" / "python"


def make_environment(folder: Path) -> None:
    pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    [wheel] = folder.glob("asynctasq-*.whl")
    # Our own pip installs there: to put another one in would take longer than everything else.
    venv.create(folder / "venv", with_pip=False)
    pip("--python", str(folder / "venv/bin/python"), "install", "--no-compile", f"{wheel}[testing]", "pytest-xdist")


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SOON_S, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (tmp_path / "shop.py").write_text(TASKS, encoding="utf-8")
    (tmp_path / "test_shop.py").write_text(TESTS, encoding="utf-8")
    return tmp_path


def run_tests(python: Path, project: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    # With CI=true pytest would tell each failure twice.
    ours = ("PYTEST", "PYTHON", "COV", "CI")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=project, env=clean, capture_output=True, text=True, timeout=SOON_S, check=False)


def story(output: str) -> list[str]:
    """Return what a failed simulation says of its end and of what happened, in virtual seconds."""
    return re.findall(r"^E +(assert .*|\d+\.\d{6} .*)$", output, re.MULTILINE)


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["plain", "two processes"])
def test_the_projects_tests_pass(python: Path, project: Path, options: tuple[str, ...]) -> None:
    done = run_tests(python, project, *options)

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b7 passed in", done.stdout), done.stdout


def test_a_careless_task_fails_there_and_its_line_replays_it(python: Path, project: Path) -> None:
    with (project / "test_shop.py").open("a", encoding="utf-8") as file:
        file.write(CARELESS)

    failed = run_tests(python, project)
    [line] = re.findall(r"to see it again: pytest (.*)$", failed.stdout, re.MULTILINE)
    replayed = run_tests(python, project, *shlex.split(line))

    assert "1 failed, 7 passed" in failed.stdout
    assert "1 failed in" in replayed.stdout
    assert story(failed.stdout)[-1].endswith("stopped")
    # The assertion is shown twice, as it failed and in the message.
    assert story(replayed.stdout) == story(failed.stdout)
