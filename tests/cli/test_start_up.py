"""What a start of the program reads and does not read, and that it leaves garbage collection as it found it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import SOON_S

READ = """
import json, sys
from asynctasq.cli.app import app
app({arguments}, standalone_mode=False)
print(json.dumps([name.rpartition(".")[2] for name in sys.modules if name.startswith("asynctasq.cli.commands.")]))
"""
COLLECTS = """
import gc, sys
{before}
from asynctasq.cli.app import app
try:
    app(["worker", "--burst", "--quiet"])
except SystemExit as end:
    print(end.code, gc.isenabled(), gc.get_freeze_count() > 10_000)
"""


def last_line(program: str, folder: Path) -> str:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SOON_S, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "files"), [(["--version"], []), (["worker", "--help"], ["worker"]), (["dead", "--help"], ["queues"])]
)
def test_only_the_file_of_the_command_is_read(arguments: list[str], files: list[str], tmp_path: Path) -> None:
    assert json.loads(last_line(READ.format(arguments=arguments), tmp_path)) == files


@pytest.mark.parametrize(("before", "enabled"), [("", True), ("gc.disable()", False)])
def test_a_worker_collects_garbage_as_its_process_does_but_not_what_it_imports(
    before: str, enabled: bool, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").touch()

    assert last_line(COLLECTS.format(before=before), tmp_path) == f"0 {enabled} True"
