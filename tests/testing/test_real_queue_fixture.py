"""The fixture `real_queue` in a user's project: with pytest-asyncio, anyio, xdist, on the driver that is asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import asyncio
import pytest
from asynctasq import task
from asynctasq.testing import RealQueue

@task
async def add(a: int, b: int) -> int:
    return a + b

@pytest.fixture
def queue(real_queue):
    return real_queue

@pytest.fixture
def filled(real_queue):
    add.dispatch_sync(1, 2)
    return real_queue

{mark}
async def test_async(real_queue: RealQueue):
    await add.dispatch(1, 2)
    await real_queue.run_until_idle()
    assert real_queue.history(add).value == 3

{mark}
async def test_through_a_fixture_of_the_users_own(queue: RealQueue):
    await add(1, 2).delay(3_600).dispatch()
    await queue.run_until_idle()
    queue.assert_completed(add)

{mark}
async def test_what_a_fixture_dispatched(filled: RealQueue):
    await filled.run_until_idle()
    filled.assert_completed(add)

def test_sync(real_queue: RealQueue):
    add.dispatch_sync(1, 2)
    real_queue.run_until_idle_sync()
    assert real_queue.history(add).value == 3
    print("on", real_queue.driver)

@pytest.mark.parametrize("number", range(3))
def test_each_is_empty(real_queue: RealQueue, number: int):
    real_queue.assert_nothing_dispatched()
    add.dispatch_sync(1, 2)

{mark}
async def test_left_open(real_queue: RealQueue):
    await add.dispatch(1, 2)
    await real_queue.driver.depth("default")
"""
ANYIO = """
@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"
"""
TASKS = 8


def run_pytest(folder: Path, *arguments: str, mark: str = "", extra: str = "", mode: str = "auto") -> str:
    (folder / "test_app.py").write_text(TESTS.format(mark=mark) + extra)
    scope = "asyncio_default_fixture_loop_scope=function"
    asyncio_options = ["-o", f"asyncio_mode={mode}", "-o", scope] if mode else []
    without = [
        part for name in ("cacheprovider", "looptime_plugin", "looptime_timeproxies") for part in ("-p", f"no:{name}")
    ]
    options = [*without, "-W", "error", *asyncio_options, *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("driver", ["memory", "redis", "postgres", "mysql", "sqs"])
def test_on_the_driver_that_is_asked_for(tmp_path: Path, driver: str) -> None:
    tests = ["-k", "test_sync or test_async or left_open"] if driver == "sqs" else []

    output = run_pytest(tmp_path, f"--asynctasq-driver={driver}", "-s", *tests)

    assert f"{3 if driver == 'sqs' else TASKS} passed" in output
    assert "on " in output


def test_on_sqlite_unless_another_is_asked_for(tmp_path: Path) -> None:
    output = run_pytest(tmp_path, "-s", "-v")

    assert f"{TASKS} passed" in output
    assert "asynctasq-sqlite-" in output
    assert "test_app.py::test_sync on" in output or "test_app.py::test_sync " in output


def test_each_test_runs_on_every_driver_of_several(tmp_path: Path) -> None:
    output = run_pytest(tmp_path, "--driver=sqlite", "--driver=memory", "-v")

    assert "test_sync[sqlite]" in output
    assert "test_sync[memory]" in output
    assert f"{2 * TASKS} passed" in output


def test_in_strict_mode_with_a_loop_of_the_module(tmp_path: Path) -> None:
    mark = "@pytest.mark.asyncio(loop_scope='module')"

    assert f"{TASKS} passed" in run_pytest(tmp_path, mark=mark, mode="strict")


@pytest.mark.parametrize("driver", ["sqlite", "postgres"])
def test_with_anyios_plugin(tmp_path: Path, driver: str) -> None:
    alone = [part for name in ("asyncio", "looptime_plugin", "looptime_timeproxies") for part in ("-p", f"no:{name}")]

    output = run_pytest(
        tmp_path, *alone, f"--asynctasq-driver={driver}", mark="@pytest.mark.anyio", extra=ANYIO, mode=""
    )

    assert f"{TASKS} passed" in output


def test_in_the_processes_of_xdist(tmp_path: Path) -> None:
    assert f"{TASKS} passed" in run_pytest(tmp_path, "-n", "2", "--asynctasq-driver=redis")


def test_a_server_that_can_not_be_had_is_an_error_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCTASQ_REDIS_URL", "redis://127.0.0.1:1")

    output = run_pytest(tmp_path, "--asynctasq-driver=redis")

    assert f"{TASKS} errors" in output
    assert "ASYNCTASQ_REDIS_URL names redis://127.0.0.1:1, which can't be reached" in output


def test_a_run_that_is_not_of_the_suite_is_not_judged_as_one(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text("def test_other(): pass")

    assert "1 passed" in run_pytest(tmp_path, "--asynctasq-driver=memory", "test_other.py", "--no-header")
