"""The wheel in an empty environment, and a project of three files outside of this repository that tests its tasks."""

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOON_S = 200

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


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds pytest, xdist and the wheel with its extra, and nothing else of ours."""
    folder = tmp_path_factory.mktemp("environment")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, timeout=SOON_S, capture_output=True, text=True)
    [wheel] = folder.glob("asynctasq-*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", f"{wheel}[testing]", "pytest-xdist"]
    subprocess.run(install, check=True, timeout=SOON_S, capture_output=True, text=True)
    return python


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (tmp_path / "shop.py").write_text(TASKS, encoding="utf-8")
    (tmp_path / "test_shop.py").write_text(TESTS, encoding="utf-8")
    return tmp_path


def run_tests(python: Path, project: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON", "COV"))}
    command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=project, env=clean, capture_output=True, text=True, timeout=SOON_S, check=False)


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["plain", "two processes"])
def test_the_projects_tests_pass(python: Path, project: Path, options: tuple[str, ...]) -> None:
    done = run_tests(python, project, *options)

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b6 passed in", done.stdout), done.stdout


def test_a_careless_task_fails_there_and_its_line_replays_it(python: Path, project: Path) -> None:
    with (project / "test_shop.py").open("a", encoding="utf-8") as file:
        file.write(CARELESS)

    failed = run_tests(python, project)
    [line] = re.findall(r"to see it again: pytest '(.*)' --simulation-replay (\S+)$", failed.stdout, re.MULTILINE)
    replayed = run_tests(python, project, line[0], "--simulation-replay", line[1])

    assert "1 failed, 6 passed" in failed.stdout
    assert "paid twice" in failed.stdout
    assert "1 failed in" in replayed.stdout
    assert "paid twice" in replayed.stdout
