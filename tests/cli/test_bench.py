"""`asynctasq bench` on real backends: figures, and nothing left behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from asynctasq.cli.exit_codes import ExitCode
from asynctasq.testing.servers import Servers
from tests.patience import SOON_S

pytestmark = pytest.mark.program
FIGURES = {
    "dispatched_per_s",
    "dispatched_in_batches_per_s",
    "run_per_s",
    "latency_p50_ms",
    "latency_p99_ms",
}


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    (folder / "pyproject.toml").write_text("")
    command = [sys.executable, "-m", "asynctasq", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=2 * SOON_S, check=False)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=pytest.mark.server)])
def test_it_measures_and_leaves_nothing(kind: str, conformance_servers: Servers, tmp_path: Path) -> None:
    url = "sqlite" if kind == "sqlite" else conformance_servers.get(kind).url
    done = run(tmp_path, "bench", "--tasks", "30", "--json", "--driver", url)

    assert done.returncode == ExitCode.DONE, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == {"driver", "tasks", "concurrency", *FIGURES}
    assert all(found[name] > 0 for name in FIGURES)
    assert found["latency_p50_ms"] <= found["latency_p99_ms"]
    shown = run(tmp_path, "queues", "--own", "--json", "--driver", url).stdout
    assert [each["queue"] for each in json.loads(shown)] == ["default"], "the queue of the measurement is gone"


def test_people_get_a_table(tmp_path: Path) -> None:
    done = run(tmp_path, "bench", "--tasks", "2")

    assert done.returncode == ExitCode.DONE, done.stderr
    assert "2 tasks that do nothing, 10 at once" in done.stdout
    assert "run by one worker" in done.stdout


def test_sqs_is_not_measured(tmp_path: Path) -> None:
    done = run(tmp_path, "bench", "--driver", "sqs://?region=eu-west-1&endpoint_url=http://127.0.0.1:9")

    assert done.returncode not in (ExitCode.DONE, ExitCode.UNEXPECTED)
    assert "so it is not measured" in done.stderr


def test_a_backend_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, "bench", "--driver", "redis://127.0.0.1:9/0")

    assert done.returncode == ExitCode.BACKEND, done.stderr
    assert "127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr
