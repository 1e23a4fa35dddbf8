"""`asynctasq bench` on real backends: figures, and nothing left behind."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import pytest

from asynctasq.cli import bench
from asynctasq.cli.exit_codes import ExitCode
from asynctasq.config import load_settings
from asynctasq.drivers.base import Settlements
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import DriverError, DriverMisconfigured, DriverUnavailable
from asynctasq.kernel.messages import Lease
from asynctasq.queue import MessageFactory
from asynctasq.testing.servers import Servers
from tests.patience import SOON_S

FIGURES = {
    "dispatched_per_s",
    "dispatched_in_batches_per_s",
    "run_per_s",
    "latency_p50_ms",
    "latency_p99_ms",
}


class Failing(MemoryDriver):
    """Refuses every turn of a worker, or gives it nothing, and can't be purged."""

    def __init__(self, error: DriverError | None) -> None:
        super().__init__()
        self.error = error
        self.closed = False

    async def turn(
        self, settlements: Settlements, queues: Sequence[str], *, limit: int, lease_s: float
    ) -> tuple[AbstractSet[str], list[Lease]]:
        if self.error is not None:
            raise self.error
        return frozenset(), []

    async def purge(self, queue: str) -> int:
        raise DriverUnavailable("purging can't be done now")

    async def close(self) -> None:
        self.closed = True
        await super().close()


@pytest.mark.parametrize(
    ("error", "text"),
    [(None, "has given a worker no task for 0.2 s"), (DriverMisconfigured("no such table"), "no such table")],
)
async def test_a_backend_that_gives_no_work_is_told_and_closed(
    error: DriverError | None, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench, "LATENCY_S_MAX", 0.2)
    driver = Failing(error)

    with pytest.raises(DriverError, match=text):
        async with asyncio.timeout(SOON_S):
            await bench.measured(driver, load_settings(root=tmp_path), MessageFactory(), tasks=2)

    assert driver.closed


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    (folder / "pyproject.toml").write_text("")
    command = [sys.executable, "-m", "asynctasq", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=2 * SOON_S, check=False)


@pytest.mark.program
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=pytest.mark.server)])
def test_it_measures_and_leaves_nothing(kind: str, conformance_servers: Servers, tmp_path: Path) -> None:
    url = "sqlite" if kind == "sqlite" else f"{conformance_servers.get(kind).url}?namespace={tmp_path.name}"
    done = run(tmp_path, "bench", "--tasks", "30", "--json", "--driver", url)

    assert done.returncode == ExitCode.DONE, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == {"driver", "tasks", "concurrency", *FIGURES}
    assert all(found[name] > 0 for name in FIGURES)
    assert found["latency_p50_ms"] <= found["latency_p99_ms"]
    shown = run(tmp_path, "queues", "--own", "--json", "--driver", url).stdout
    assert [each["queue"] for each in json.loads(shown)] == ["default"], "the queue of the measurement is gone"


@pytest.mark.program
def test_people_get_a_table(tmp_path: Path) -> None:
    done = run(tmp_path, "bench", "--tasks", "2")

    assert done.returncode == ExitCode.DONE, done.stderr
    assert "2 tasks that do nothing, 10 at once" in done.stdout
    assert "run by one worker" in done.stdout


@pytest.mark.program
def test_sqs_is_not_measured(tmp_path: Path) -> None:
    done = run(tmp_path, "bench", "--driver", "sqs://?region=eu-west-1&endpoint_url=http://127.0.0.1:9")

    assert done.returncode not in (ExitCode.DONE, ExitCode.UNEXPECTED)
    assert "so it is not measured" in done.stderr


@pytest.mark.program
def test_a_backend_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, "bench", "--driver", "redis://127.0.0.1:9/0")

    assert done.returncode == ExitCode.BACKEND, done.stderr
    assert "127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr
