"""Django's ORM, asynchronous and synchronous; in a process of its own, for Django's settings are global."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from asynctasq.testing.servers import Servers
from tests.codec.orm.databases import KINDS, database

PROGRAM = "tests.testing.fake_queue.libraries.django_notes"


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_of_a_task_works_through_the_orm(kind: str, conformance_servers: Servers, tmp_path: Path) -> None:
    with database(kind, conformance_servers, tmp_path) as own:
        command = [sys.executable, "-W", "error", "-m", PROGRAM, json.dumps(own.django)]
        done = subprocess.run(command, cwd=Path(__file__).parents[4], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["held on asyncio.runners", "held on uvloop"]
