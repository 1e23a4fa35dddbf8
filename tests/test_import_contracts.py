"""The import contracts in pyproject.toml turn red for what they forbid: planted imports, in a copy of the package."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import SOON_S

ROOT = Path(__file__).parents[1]
PLANTED = [
    ("No cycles", "core/lanes/thread_pool.py", "TYPE_CHECKING", "from asynctasq.core.lanes.lanes import Lanes"),
    ("No cycles", "tasks/registry.py", "True", "import asynctasq.tasks.base"),
    (
        "Drivers: backends never",
        "drivers/redis_driver/codec.py",
        "True",
        "import asynctasq.drivers.sqlite_driver.driver",
    ),
    ("Floors: a room", "codec/limits.py", "TYPE_CHECKING", "from asynctasq.core.worker import Worker"),
    ("Floor 0 is pure", "kernel/retry.py", "True", "import random"),
    ("Test tools: a room", "testing/tape/__init__.py", "True", "import asynctasq.testing.fake_queue.history"),
]


def lint_imports(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    environment = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SOON_S, check=False
    )


@pytest.mark.parametrize(("contract", "file", "condition", "line"), PLANTED)
def test_a_planted_import_breaks_its_contract(
    contract: str, file: str, condition: str, line: str, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "asynctasq", tmp_path / "asynctasq", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "asynctasq" / file).open("a", encoding="utf-8") as module:
        module.write(f"\nfrom typing import TYPE_CHECKING\nif {condition}:\n    {line}\n")

    done = lint_imports(tmp_path)

    assert done.returncode == 1
    assert any(row.startswith(contract) and "BROKEN" in row for row in done.stdout.splitlines()), done.stdout
