"""Django's `atomic` in a FakeQueue, in a TestCase and out of one; in a process of its own, for settings are global."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    folder = tmp_path_factory.mktemp("django")
    command = [sys.executable, "-W", "error", "-m", "tests.testing.fake_queue.django_transactions", str(folder)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    return {(case, name): value for case, name, value in lines}


@pytest.mark.parametrize("case", ["InTestCase", "Committing"])
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nested", "['before', 'released', 'after']"),
        ("rolled_back", "[]"),
        ("twice", "['kept']"),
        ("without_savepoint", "['kept']"),
        ("by_hand", "['before', 'released']"),
        ("by_commit", "['waits']"),
        ("refused", "the Django connection given is in no transa"),
        ("completes", "(True, 1, 1)"),
        ("fails_once", "(True, 2, 1)"),
        ("callbacks", "0"),
        ("queries", "1"),
    ],
)
def test_the_outermost_atomic_of_the_application_decides(
    said: dict[tuple[str, str], str], case: str, name: str, told: str
) -> None:
    assert said[case, name] == told
