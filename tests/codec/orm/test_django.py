"""Django models travel as label and key, on SQLite and PostgreSQL; in a process of its own, for settings are global."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.codec.orm.databases import KINDS, database

PROGRAM = Path(__file__).with_name("django_app.py")


@pytest.fixture(scope="module", params=KINDS)
def lines(request, conformance_servers, tmp_path_factory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("django")
    root = PROGRAM.parents[3]
    with (
        database(request.param, conformance_servers, folder) as default,
        database(request.param, conformance_servers, folder) as other,
    ):
        command = [sys.executable, PROGRAM, json.dumps({"default": default.django, "other": other.django})]
        environment = {"PYTHONPATH": str(root)}
        done = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    said: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, _, rest = line.partition(" ")
        for known in ("unknown database", "no query"):
            if line.startswith(known):
                name, rest = known, line[len(known) + 1 :]
        said.setdefault(name, []).append(rest)
    return said


@pytest.mark.parametrize(
    ("claim", "seen"),
    [
        pytest.param("fresh", ["True 2.25"], id="a row arrives with what is in the database now"),
        pytest.param(
            "many", ["['tea', 'hidden', 'salt', 'novel']"], id="rows that the default manager hides are found"
        ),
        pytest.param("composite", ["[('a', 2), ('a', 3)]"], id="composite keys travel"),
        pytest.param("uuid", ["True"], id="a UUID key travels"),
        pytest.param("nested", ["True True"], id="models are found inside of containers, one row once"),
        pytest.param("deferred", ["['price'] []"], id="deferred fields are loaded"),
        pytest.param("inherited", ["Book novel 300"], id="a child of multi-table inheritance arrives whole"),
        pytest.param("proxy", ["Cheap tea"], id="a proxy arrives as the proxy"),
        pytest.param("choice", ["'l'"], id="a key that was assigned as an enum member travels as its value"),
        pytest.param("database", ["[('elsewhere', 'other'), ('tea', 'default')]"], id="each from its own database"),
        pytest.param("unknown database", ["True"], id="a database that the worker lacks is named"),
        pytest.param("unsaved", ["True", "True"], id="an unsaved row is refused"),
        pytest.param("deleted", ["True"], id="a deleted row is refused"),
        pytest.param("none", ["None"], id="a row that is gone can be None"),
        pytest.param("no query", ["True"], id="the dispatch asks the database nothing"),
    ],
)
def test_claim(lines, claim, seen):
    assert lines[claim] == seen


def test_a_row_that_is_gone_is_an_error_with_model_and_key(lines):
    retried, failed = lines["missing"]

    assert retried.startswith("False __main__.Product (3,) no row of __main__.Product has the primary key 3: ")
    assert failed.startswith("True ")
