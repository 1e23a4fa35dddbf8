"""Django: dispatch inside `transaction.atomic`, and `on_commit`, in a real application of its own process."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import patient_s

FOLDER = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    program = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "tests.integrations.django_app",
        str(tmp_path_factory.mktemp("django")),
    ]
    done = subprocess.run(program, check=False, capture_output=True, text=True, timeout=patient_s(60), cwd=FOLDER)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "claim",
    [
        "alias [True, True]",
        "connection [True]",
        "rolled back [False, False]",
        "rows ['a', 'b', 'c']",
        "outside True",
        "woken True",
    ],
)
def test_a_task_goes_with_the_transaction_of_the_same_database(printed: list[str], claim: str) -> None:
    assert claim in printed


def test_another_database_and_an_unknown_alias_are_refused(printed: list[str]) -> None:
    assert [line.split()[0] for line in printed if line.startswith(("other ", "nobody "))] == ["other", "nobody"]


@pytest.mark.parametrize(
    "claim",
    [
        "on_commit [False, False] [True, True] [False]",
        "dropped [False]",
        "no transaction [True]",
        "using [False]",
        "used [True]",
        "faked 0 True",
        "loop True",
    ],
)
def test_on_commit_dispatches_after_the_commit_and_never_without(printed: list[str], claim: str) -> None:
    assert claim in printed


def test_a_failed_dispatch_is_logged_with_its_id_and_raised_unless_robust(printed: list[str]) -> None:
    begin = next(index for index, line in enumerate(printed) if line.startswith("logged "))
    first, raised, id_raised, second, swallowed, id_swallowed, committed = printed[begin : begin + 7]

    assert (raised, swallowed, committed) == ("raised False the queue is away", "swallowed True", "committed 2")
    assert first == f"logged {id_raised.removeprefix('of ')} True"
    assert second == f"logged {id_swallowed.removeprefix('of ')} True"
