"""Workers killed with -9 lose nothing, and repeat only what they held."""

from pathlib import Path

import pytest

from asynctasq.testing.servers import Servers
from tests.faults.random_kills import address, judge, kill_at_random


@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgres", "mysql"])
def test_killed_workers_lose_nothing(kind: str, tmp_path: Path, conformance_servers: Servers) -> None:
    url = address(kind, conformance_servers, tmp_path)

    verdict = kill_at_random(url, tmp_path, tasks=1_000, workers=2, kills=3, concurrency=10)

    assert len(verdict.killed) == 3
    assert (verdict.missing, verdict.unexplained) == ([], [])


def test_the_judge_sees_a_missing_task_and_an_unexplained_run(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    ledger.write_text("start 0 7\nend 0 7\nstart 0 8\nend 0 8\nstart 1 7\n", encoding="ascii")

    verdict = judge(ledger, 3, killed={8})

    assert verdict.missing == [1, 2]
    assert verdict.unexplained == [0]
    assert not verdict.clean
    assert judge(ledger, 1, killed={7}).clean
