"""The plugin's fixtures and options for simulations, in a pytest run of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from asynctasq.tasks import AsyncTask
from asynctasq.testing import FakeQueue, VirtualClock

PROJECT = """
import asyncio
from asynctasq.tasks import AsyncTask
from asynctasq.testing import simulate

RUNS = []
SENT = []

class Charge(AsyncTask[None]):
    retry_delay = 1
    async def execute(self) -> None:
        SENT.append(1)
        await asyncio.sleep(1)

@simulate(runs=300)
async def test_charges_once(sim):
    SENT.clear()
    await Charge().dispatch()
    await sim.settle()
    assert len(SENT) == 1, "charged twice"

@simulate(runs=30, faults=())
async def test_counts_runs(sim):
    RUNS.append(sim.seed)
    print("seeds so far", RUNS)

async def test_forgets_its_decorator(sim):
    await sim.settle()
"""

OTHER = """
import sys

def test_other():
    ours = [name for name in sys.modules if name.startswith("asynctasq.testing.")]
    assert ours == ["asynctasq.testing.plugin"]
"""


class Mail(AsyncTask[None]):
    to: str

    async def execute(self) -> None:
        return None


def test_the_fixture_is_an_open_fake_queue(fake_queue: FakeQueue) -> None:
    Mail(to="a").dispatch_sync()

    fake_queue.assert_dispatched(Mail, to="a")
    fake_queue.run_due_sync()
    fake_queue.assert_completed(Mail)


async def test_the_fixture_serves_async_tests_on_their_own_loop(fake_queue: FakeQueue) -> None:
    await Mail(to="b").dispatch()

    await fake_queue.run_due()
    fake_queue.assert_completed(Mail)


def test_the_clock_is_the_queues_if_there_is_one(fake_queue: FakeQueue, virtual_clock: VirtualClock) -> None:
    assert virtual_clock is fake_queue.clock


def test_the_clock_stands_alone_too(virtual_clock: VirtualClock) -> None:
    virtual_clock.advance(seconds=5)

    assert virtual_clock.monotonic() == 5.0


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "test_shop.py").write_text(PROJECT)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    return tmp_path


def run_pytest(project: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False).stdout


def test_a_failure_is_replayed_by_the_line_it_prints(project: Path) -> None:
    failed = run_pytest(project, "test_shop.py::test_charges_once")
    # With CI=true pytest repeats the whole message in its summary.
    line = next(line for line in failed.splitlines() if "to see it again: pytest" in line)
    replayed = run_pytest(project, *line.partition("pytest ")[2].replace("'", "").split())

    assert "charged twice" in failed
    assert "1 failed" in replayed
    assert "the replay of .asynctasq/tapes/test_charges_once-" in replayed
    assert "charged twice" in replayed


@pytest.mark.parametrize(
    ("options", "seeds"),
    [
        (["--simulation-runs", "3"], "[0, 1, 2]"),
        (["--simulation-seed", "7"], "[7]"),
        (["--simulation-seed", "7", "--simulation-runs", "2"], "[7, 8]"),
    ],
)
def test_options_choose_the_runs(project: Path, options: list[str], seeds: str) -> None:
    output = run_pytest(project, "test_shop.py::test_counts_runs", *options)

    assert "1 passed" in output
    assert [line for line in output.splitlines() if "seeds so far" in line][-1].endswith(seeds)


def test_a_forgotten_decorator_is_explained(project: Path) -> None:
    assert "put @simulate(...) above it" in run_pytest(project, "test_shop.py::test_forgets_its_decorator")


def test_nothing_of_the_simulator_is_imported_for_other_tests(project: Path) -> None:
    (project / "test_other.py").write_text(OTHER)

    assert "1 passed" in run_pytest(project, "test_other.py")
