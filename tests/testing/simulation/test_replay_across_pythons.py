"""A failure that Python 3.11 found and shrank is the same failure, event by event, on every Python that runs this."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.testing.simulation.replayed_program import STORY, TAPE, replayed, story

ROOT = Path(__file__).parents[3]
ANEW = "the worker's steps have changed? then, on Python 3.11: python -m tests.testing.simulation.replayed_program"

PROGRAM = """
from asynctasq.testing import simulate
from tests.testing.simulation.replayed_program import OPTIONS, charged_twice

test_charges = simulate(faults=OPTIONS.faults)(charged_twice)
"""


def test_a_kept_tape_gives_the_same_failure_and_the_same_story() -> None:
    failed = replayed(TAPE)

    assert isinstance(failed.result.failure, AssertionError), f"{failed}\n{ANEW}"
    assert story(failed) + "\n" == STORY.read_text(encoding="utf-8"), ANEW


def test_the_kept_tape_was_recorded_by_the_oldest_python_and_decides_something() -> None:
    tape = json.loads(TAPE.read_text(encoding="utf-8"))

    assert tape["python"].startswith("3.11."), ANEW
    assert any(value for *_, value in tape["entries"])


def test_the_line_that_replays_it_tells_the_same_story(tmp_path: Path) -> None:
    (tmp_path / "test_shop.py").write_text(PROGRAM, encoding="utf-8")
    # With CI=true pytest would tell it twice.
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"PYTHONPATH": str(ROOT)}

    command = [sys.executable, "-m", "pytest", "test_shop.py::test_charges", "--simulation-replay", str(TAPE)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    events = re.findall(r"^ +(\d+\.\d{6} .*)$", STORY.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(events) > 10
    assert re.findall(r"^E +(\d+\.\d{6} .*)$", done.stdout, re.MULTILINE) == events, f"{done.stdout}\n{ANEW}"
