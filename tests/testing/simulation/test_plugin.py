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

BESIDE = """
import asyncio

import pytest

from asynctasq import task
from asynctasq.testing import simulate
from asynctasq.testing.conformance.suite import test_first_in_first_out
from asynctasq.testing.loop import SimulationLoop

@task
async def mail(to: str) -> None:
    await asyncio.sleep(60)

async def send(queue):
    assert not isinstance(asyncio.get_running_loop(), SimulationLoop)
    await mail.dispatch("a")
    await queue.run_until_idle()
    queue.assert_completed(mail)
    assert queue.clock.elapsed.total_seconds() == 60

@simulate(runs=3, faults=())
async def test_simulated(sim):
    assert isinstance(asyncio.get_running_loop(), SimulationLoop)
    await mail.dispatch("a")
    await sim.settle()
    assert sim.clock.elapsed.total_seconds() == 60

def test_a_program(sim):
    async def program(sim):
        await sim.settle()
    sim(program, runs=2, faults=())

@pytest.mark.asyncio
async def test_pytest_asyncio(fake_queue):
    await send(fake_queue)

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_anyio(anyio_backend, fake_queue):
    await send(fake_queue)

@pytest.mark.asyncio
@pytest.mark.looptime
async def test_looptime(fake_queue):
    loop = asyncio.get_running_loop()
    before = loop.time()
    await asyncio.sleep(1000)
    await send(fake_queue)
    assert loop.time() - before == 1000
"""

OWN_SIM = """
import pytest

@pytest.fixture
def sim():
    return "a SIM card"

def test_their_own(sim):
    assert sim == "a SIM card"

class TestBuiltOnOurs:
    @pytest.fixture
    def sim(self, sim):
        return sim

    def test_theirs_still(self, sim):
        assert sim == "a SIM card"
"""

ON_OURS = """
import pytest

@pytest.fixture
def sim(sim):
    return lambda program: sim(program, runs=2, faults=())

def test_on_ours(sim):
    async def program(sim):
        await sim.settle()
    sim(program)
"""

INSIDE = """
from asynctasq.testing.simulation.settings import current

INNER = (
    "def test_inner():\\n    from asynctasq.testing.simulation.settings import current\\n"
    "    print('has', current())"
)

def test_with_options(pytester):
    before = current()
    pytester.makepyfile(INNER)
    result = pytester.runpytest_inprocess("-s", "--simulation-seed", "3")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*has Settings(seed=3, runs=None, replay=None)*"])
    assert current() == before

def test_without_options(pytester):
    before = current()
    pytester.makepyfile(INNER)
    result = pytester.runpytest_inprocess("-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*has Settings(seed=None, runs=None, replay=None)*"])
    assert current() == before
"""

CLOCK = """
import asyncio
from asynctasq.testing import simulate

@simulate(runs=2, faults=())
async def test_decorated(sim, virtual_clock):
    await asyncio.sleep(60)

def test_by_fixture(sim, virtual_clock):
    pass
"""

OTHER = """
import sys

def test_other():
    ours = {name for name in sys.modules if name.startswith("asynctasq.testing.")}
    assert ours == {"asynctasq.testing.plugin", "asynctasq.testing.outside_fakes"}
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


@pytest.mark.parametrize("runs", ["0", "-3"])
def test_no_runs_are_no_choice(project: Path, runs: str) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--simulation-runs", runs]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)

    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"--simulation-runs must be 1 or more, not {runs}" in done.stderr


@pytest.mark.parametrize("options", [[], ["--simulation-runs", "2"]], ids=["without", "with"])
def test_the_options_of_a_session_inside_hold_there_and_no_longer(project: Path, options: list[str]) -> None:
    (project / "conftest.py").write_text("pytest_plugins = 'pytester'")
    (project / "test_inside.py").write_text(INSIDE)

    output = run_pytest(project, "test_inside.py", *options)

    assert "2 passed" in output, output


def test_a_simulation_has_no_use_for_a_clock_that_stands_still(project: Path) -> None:
    (project / "test_clock.py").write_text(CLOCK)

    output = run_pytest(project, "test_clock.py")

    assert "2 errors" in output
    assert output.count("every run of a simulation has a clock of its own: use `sim.clock`") >= 2


def test_a_forgotten_decorator_is_explained(project: Path) -> None:
    assert "put @simulate(...) above it" in run_pytest(project, "test_shop.py::test_forgets_its_decorator")


def test_nothing_of_the_simulator_is_imported_for_other_tests(project: Path) -> None:
    (project / "test_other.py").write_text(OTHER)

    assert "1 passed" in run_pytest(project, "test_other.py")


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    (tmp_path / "test_beside.py").write_text(BESIDE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = strict\naddopts = --strict-markers\n")
    return tmp_path


def test_each_plugin_keeps_its_own_loop_and_time(beside: Path) -> None:
    assert "6 passed" in run_pytest(beside, "--driver", "memory")


@pytest.mark.parametrize(
    ("marker", "names"),
    [
        ("simulation", ["test_simulated", "test_a_program"]),
        ("conformance", ["test_first_in_first_out[memory]"]),
    ],
)
def test_markers_choose_simulations_and_the_conformance_suite(beside: Path, marker: str, names: list[str]) -> None:
    output = run_pytest(beside, "--collect-only", "-q", "-m", marker, "--driver", "memory")

    assert [line.partition("::")[2] for line in output.splitlines() if "::" in line] == names


def test_a_fixture_of_the_users_own_named_sim_is_no_simulation_unless_it_uses_ours(beside: Path) -> None:
    (beside / "test_own_sim.py").write_text(OWN_SIM)
    (beside / "test_on_ours.py").write_text(ON_OURS)
    files = ("test_own_sim.py", "test_on_ours.py", "test_beside.py")

    chosen = run_pytest(beside, "--collect-only", "-q", "-m", "simulation", *files)
    own = run_pytest(beside, "-m", "not simulation", "test_own_sim.py")

    names = [line.partition("::")[2] for line in chosen.splitlines() if "::" in line]
    assert names == ["test_on_ours", "test_simulated", "test_a_program"]
    assert "2 passed" in own
