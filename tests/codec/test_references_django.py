"""Django models travel as class and key; in a process of its own, for Django's settings are global."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("django_app.py")


@pytest.fixture(scope="module")
def lines(tmp_path_factory) -> dict[str, list[str]]:
    database = tmp_path_factory.mktemp("django") / "app.db"
    root = PROGRAM.parents[2]
    environment = {"PYTHONPATH": str(root)}
    command = [sys.executable, PROGRAM, database]
    done = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    said: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        subject, _, rest = line.partition(" ")
        said.setdefault(subject, []).append(rest)
    return said


def test_a_model_comes_back_as_a_fresh_row(lines):
    assert lines["fresh"] == ["True 2.25"]


def test_rows_that_the_default_manager_hides_are_found(lines):
    assert lines["many"] == ["['tea', 'hidden', 'salt']"]


def test_a_composite_key_travels(lines):
    assert lines["composite"] == ["('a', 2)"]


def test_an_unsaved_model_is_an_error_at_dispatch(lines):
    assert lines["unsaved"] == ["True", "True"]


def test_a_missing_row_is_named_by_the_scripts_importable_name(lines):
    assert len(lines["missing"]) == 1
    assert "Product has the primary key 3" in lines["missing"][0]
