"""`--simulation-replay FILE` and the tapes it takes: one for each test, run by that test alone, refused in words."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from asynctasq.testing import Simulation, SimulationFailed
from asynctasq.testing.errors import TapeMismatch
from asynctasq.testing.simulation import explore, simulate
from asynctasq.testing.simulation.run import RunOptions
from asynctasq.testing.simulation.settings import Settings, set_settings
from asynctasq.testing.tape.recorded_test import runnable_here, same_test
from tests.patience import patient_s

TESTS = """
import pytest
from asynctasq.testing import simulate

@simulate(runs=3, faults=())
async def test_fails(sim):
    print("replayed fails")
    assert sim.seed < 1, "it is not 0"

@pytest.mark.parametrize("n", [1, 2], ids=["one: 1", "two 'x'"])
@simulate(runs=3, faults=())
async def test_each(sim, n):
    print("replayed each", n)
    assert sim.seed < n, "it is not below n"

class TestA:
    @simulate(runs=3, faults=())
    async def test_fails(self, sim):
        assert sim.seed < 1, "in A"

class TestB:
    @simulate(runs=3, faults=())
    async def test_fails(self, sim):
        assert sim.seed < 1, "in B"

@simulate(runs=3, faults=())
async def test_passes(sim):
    print("replayed passes")

def test_plain():
    print("replayed plain")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tests").mkdir()
    for name in ("test_shop.py", "test_store.py"):
        (tmp_path / "tests" / name).write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def run_pytest(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    # With CI=true pytest repeats the whole message in its summary.
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def lines_to_replay(output: str) -> list[list[str]]:
    return [shlex.split(line) for line in re.findall(r"to see it again: pytest (.*)$", output, re.MULTILINE)]


def test_each_test_has_a_tape_of_its_own_that_its_line_replays(project: Path) -> None:
    lines = lines_to_replay(run_pytest(project).stdout)

    assert len(lines) == 10
    assert len({line[-1] for line in lines}) == 10
    [in_a] = [line for line in lines if line[0] == "tests/test_store.py::TestA::test_fails"]
    replayed = run_pytest(project, *in_a)
    assert "1 failed" in replayed.stdout
    assert "in A" in replayed.stdout


def test_the_names_of_tapes_are_the_same_again(project: Path) -> None:
    first, second = (lines_to_replay(run_pytest(project, "tests/test_shop.py").stdout) for _ in range(2))

    assert first == second != []


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["plain", "two processes"])
@pytest.mark.parametrize("which", ["test_fails", "test_each[two 'x']"])
def test_only_the_recorded_test_runs(project: Path, which: str, options: tuple[str, ...]) -> None:
    lines = lines_to_replay(run_pytest(project, "tests/test_shop.py").stdout)
    [tape] = [line[-1] for line in lines if line[0].endswith(f"py::{which}")]

    done = run_pytest(project, "--simulation-replay", tape, *options)

    assert "1 failed" in done.stdout, done.stdout + done.stderr
    assert "passed" not in done.stdout
    assert f"the replay of {tape} fails" in done.stdout


def test_a_parametrized_test_is_replayed_by_the_line_it_prints(project: Path) -> None:
    lines = lines_to_replay(run_pytest(project, "tests/test_shop.py", "-k", "test_each").stdout)

    outputs = [run_pytest(project, *line).stdout for line in lines]

    assert ["1 failed" in output and "the replay of" in output for output in outputs] == [True, True]


def test_a_line_printed_below_the_root_works_there(project: Path) -> None:
    [line] = lines_to_replay(run_pytest(project / "tests", "test_shop.py::test_fails").stdout)

    replayed = run_pytest(project / "tests", *line)

    assert line[0] == "test_shop.py::test_fails"
    assert "the replay of" in replayed.stdout


def test_a_tape_is_replayed_under_another_root(project: Path) -> None:
    [line] = lines_to_replay(run_pytest(project, "tests/test_shop.py::test_fails").stdout)

    done = run_pytest(project / "tests", "--rootdir", ".", "--simulation-replay", str(project / line[-1]))

    assert "1 failed" in done.stdout, done.stdout + done.stderr
    assert "replayed fails" in done.stdout


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["plain", "two processes"])
def test_the_tape_of_another_test_is_refused(project: Path, options: tuple[str, ...]) -> None:
    [line] = lines_to_replay(run_pytest(project, "tests/test_shop.py::test_fails").stdout)

    done = run_pytest(project, "tests/test_store.py", "--simulation-replay", line[-1], *options)

    text = done.stdout + done.stderr
    assert done.returncode != 0
    assert "was recorded by tests/test_shop.py::test_fails" in text
    assert "not among the tests that were chosen" in text
    assert "replayed" not in text
    assert "Traceback" not in text


def test_a_tape_that_says_not_whose_it_is_goes_to_every_simulation(project: Path) -> None:
    [line] = lines_to_replay(run_pytest(project, "tests/test_shop.py::test_fails").stdout)
    tape = json.loads((project / line[-1]).read_text())
    del tape["test"]
    (project / "old.json").write_text(json.dumps(tape))

    done = run_pytest(project, "-s", "tests/test_shop.py", "--simulation-replay", "old.json")

    assert "replayed passes" in done.stdout
    assert "replayed plain" in done.stdout
    assert "4 failed" in done.stdout


BAD = {
    "missing.json": None,
    "malformed.json": "xx",
    "no-tape.json": '{"a": 1}',
    "odd.json": '{"format": "asynctasq-tape", "version": 1, "seed": 3, "note": "", "code": "", "python": "",'
    ' "labels": ["x"], "entries": [[0, 2, 7]]}',
    "folder": "",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_tape_is_refused_once(project: Path, name: str) -> None:
    if name == "folder":
        (project / name).mkdir()
    elif (text := BAD[name]) is not None:
        (project / name).write_text(text)

    done = run_pytest(project, "--simulation-replay", name)

    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert (done.stdout + done.stderr).count(name) == 1
    assert "--simulation-replay" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_of_collection_is_told_before_a_tape_that_fits_nothing(project: Path) -> None:
    [line] = lines_to_replay(run_pytest(project, "tests/test_shop.py::test_fails").stdout)
    (project / "tests" / "test_shop.py").write_text("1 / 0")

    done = run_pytest(project, *line)

    assert "ZeroDivisionError" in done.stdout


def test_the_option_says_in_help_what_it_chooses(project: Path) -> None:
    text = " ".join(run_pytest(project, "--help").stdout.split())

    assert "run the one test that recorded this tape, and no other" in text


# -- without a process of its own ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("tests/test_a.py::test_x", "tests/test_a.py::test_x", True),
        ("tests/test_a.py::test_x", "test_a.py::test_x", True),
        ("test_a.py::test_x", "repo/tests/test_a.py::test_x", True),
        ("../tests/test_a.py::test_x", "tests/test_a.py::test_x", True),
        ("tests/test_a.py::test_x", "other/test_a.py::test_x", False),
        ("tests/test_a.py::test_x", "tests/test_aa.py::test_x", False),
        ("test_a.py::test_x", "test_a.py::TestA::test_x", False),
        ("test_a.py::test_x[a::b]", "t/test_a.py::test_x[a::b]", True),
        ("test_a.py::test_x[1]", "test_a.py::test_x[2]", False),
        ("test_a.py::test_x", "test_a.py::test_x@group", True),
        ("test_a.py::test_x[a@b]", "test_a.py::test_x[a@c]", False),
    ],
)
def test_a_test_is_the_same_from_another_root(one: str, other: str, same: bool) -> None:
    assert same_test(one, other) is same
    assert same_test(other, one) is same


def test_a_node_id_is_turned_into_what_runs_it_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tests" / "deep").mkdir(parents=True)
    (tmp_path / "tests" / "test_a.py").touch()

    found = []
    for folder in (tmp_path, tmp_path / "tests", tmp_path / "tests" / "deep"):
        monkeypatch.chdir(folder)
        found.append(runnable_here("tests/test_a.py::test_x"))

    assert found == ["tests/test_a.py::test_x", "test_a.py::test_x", "../test_a.py::test_x"]
    assert runnable_here("nowhere/test_a.py::test_x") == "nowhere/test_a.py::test_x"


async def fails(sim: Simulation) -> None:
    assert sim.seed < 1


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_outside_of_pytest_programs_of_one_name_have_tapes_of_their_own(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other:
        @staticmethod
        async def fails(sim: Simulation) -> None:
            assert sim.seed < 1

    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    for function in (fails, Other.fails, fails):
        with pytest.raises(SimulationFailed):
            explore(function, runs=3, options=RunOptions())

    names = sorted(path.name for path in (here / ".asynctasq" / "tapes").iterdir())
    assert len(names) == 2
    assert all(re.fullmatch(r"fails-1-[0-9a-f]{8}\.json", name) for name in names)


def test_a_long_name_of_a_test_makes_no_endless_name_of_a_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_CURRENT_TEST", f"test_a.py::test_x[{'long' * 200}] (call)")

    with pytest.raises(SimulationFailed):
        explore(fails, runs=3, options=RunOptions())

    assert len(list((here / ".asynctasq" / "tapes").iterdir())) == 1


def test_a_simulation_refuses_the_tape_of_another_test(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SimulationFailed):
        simulate(faults=(), runs=3)(fails)()
    [path] = (here / ".asynctasq" / "tapes").iterdir()

    set_settings(Settings(replay=str(path)))
    try:
        with pytest.raises(SimulationFailed, match="the replay of"):
            simulate(faults=())(fails)()
        monkeypatch.setenv("PYTEST_CURRENT_TEST", "tests/test_replay.py::test_another (call)")
        with pytest.raises(TapeMismatch, match=r"was recorded by .*refuses_the_tape_of_another_test, and this is"):
            simulate(faults=())(fails)()
    finally:
        set_settings(Settings())


def test_outside_of_pytest_the_test_and_explore_take_the_tape(tmp_path: Path) -> None:
    program = """
from asynctasq.testing import SimulationFailed, simulate
from asynctasq.testing.simulation import explore

async def fails(sim):
    ran.append(sim.seed)
    assert sim.seed < 1, "it is not 0"

@simulate(runs=3, faults=())
async def test_fails(sim):
    await fails(sim)

for call in (test_fails, lambda **given: explore(fails, runs=3, **given)):
    ran = []
    try:
        call()
    except SimulationFailed as error:
        [line] = [each for each in str(error).splitlines() if each.startswith("to see it again: ")]
    assert "call it with replay=" in line, line
    ran.clear()
    try:
        call(replay=line.partition("replay=")[2].strip("'"))
    except SimulationFailed as error:
        print(ran, str(error).splitlines()[0])
"""

    outside = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=outside,
        capture_output=True,
        text=True,
        timeout=patient_s(60),
        check=False,
    )

    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    assert all(line.startswith("[1] simulate: the replay of .asynctasq/tapes/") for line in lines)
