"""Django models in a FakeQueue; in a process of its own, for Django's settings are global."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.codec.orm.databases import KINDS, database


@pytest.fixture(scope="module", params=KINDS)
def said(request, conformance_servers, tmp_path_factory) -> dict[str, str]:
    with database(request.param, conformance_servers, tmp_path_factory.mktemp("django")) as made:
        command = [sys.executable, "-W", "error", "-m", "tests.testing.fake_queue.django_fake", json.dumps(made.django)]
        done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def test_every_mode_sees_the_rows_of_the_tests_open_transaction_and_leaves_it_open(said):
    assert said["transaction"] == f"{[('tea', 1)] * 4} True 1"


def test_a_row_that_is_gone_fails_the_task(said):
    assert said["gone"] == "[('ModelNotFoundError', None)]"


def test_nothing_was_committed(said):
    assert said["left"] == "0"


def test_an_asynchronous_test_can_do_so_too(said):
    assert said["async"] == str([("tea", 1)] * 4)
