"""A network that drops everything and resets nothing, between real workers and real servers."""

import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from asynctasq.cli.exit_codes import ExitCode
from asynctasq.testing.conformance.harnesses.mysql import MySQLHarness
from asynctasq.testing.conformance.harnesses.postgres import PostgresHarness
from asynctasq.testing.conformance.harnesses.redis import RedisHarness
from asynctasq.testing.servers import Servers
from tests.faults.silent_relay import SilentRelay
from tests.faults.worker_process import Place, place_in
from tests.patience import SOON_S, patient_s, until, wait_until

HARNESSES = {"redis": RedisHarness, "postgres": PostgresHarness, "mysql": MySQLHarness}
SHUTDOWN_S = 2.0
END_S_MAX = patient_s(2.0)
"""What a worker may take beyond its shutdown timeout: the promise itself."""
RESUME_S_MAX = patient_s(10.0)
"""How long after a silence work may resume: the promise itself."""


@pytest.fixture(params=sorted(HARNESSES))
async def url(request: pytest.FixtureRequest, conformance_servers: Servers) -> AsyncIterator[str]:
    harness: Any = HARNESSES[request.param](conformance_servers.get(request.param))
    await harness.prepare()
    yield harness.address()
    await harness.clean_up()


@pytest.fixture
def place(tmp_path: Path, url: str) -> Iterator[Place]:
    with place_in(tmp_path, url) as made:
        yield made


@pytest.fixture
def relay(url: str) -> Iterator[SilentRelay]:
    made = SilentRelay(url)
    yield made
    made.close()


def started(place: Place, count: int) -> None:
    wait_until(lambda: len(place.lines("start")) == count, f"{count} attempts have started")


def waits(place: Place, number: int) -> None:
    """Wait until a worker has run something and has nothing to do."""
    wait_until(lambda: "completed" in place.said(number), "a task has completed")


@pytest.mark.parametrize("signals", [1, 2])
def test_sigterm_in_a_silence_ends_a_worker_in_time(place: Place, relay: SilentRelay, signals: int) -> None:
    timeout_s = SHUTDOWN_S if signals == 1 else 3600
    place.dispatch("UntilTold:1", "Forever:1")
    worker = place.worker("--driver", relay.url, "--shutdown-timeout", str(timeout_s), "--lease", "30")
    started(place, 2)

    relay.begin_silence()
    (place.folder / "go").touch()
    wait_until(lambda: place.lines("end"), "an attempt ends in the silence")
    asked_at = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGINT)[:signals]:  # of one number, two that arrive together are one
        worker.send_signal(number)
    code = worker.wait(timeout=SHUTDOWN_S + END_S_MAX)
    took_s = time.monotonic() - asked_at

    print(f"ended after {took_s:.2f} s")
    assert code == ExitCode.BACKEND
    said = place.said(0)
    for line in place.lines("start"):
        assert line["id"] in said.rpartition("asynctasq: ")[2], "the worker does not say what comes back"
    assert "its lease ends, in 30 s at most" in said


def test_sigterm_in_a_silence_ends_an_idle_worker_as_any_other(place: Place, relay: SilentRelay) -> None:
    place.dispatch("Quick:1")
    worker = place.worker("--driver", relay.url, "--shutdown-timeout", str(SHUTDOWN_S))
    waits(place, 0)

    relay.begin_silence()
    worker.send_signal(signal.SIGTERM)

    assert worker.wait(timeout=SHUTDOWN_S + END_S_MAX) == ExitCode.DONE


def test_sigterm_ends_a_worker_that_starts_in_a_silence(place: Place, relay: SilentRelay) -> None:
    relay.begin_silence()
    worker = place.worker("--driver", relay.url, "--shutdown-timeout", "3600")
    wait_until(lambda: relay.heard > 0, "the worker tries to connect")

    worker.send_signal(signal.SIGTERM)

    assert worker.wait(timeout=END_S_MAX) == ExitCode.DONE


def test_a_task_that_ends_in_a_short_silence_runs_once(place: Place, relay: SilentRelay) -> None:
    place.dispatch("UntilTold:1")
    place.worker("--driver", relay.url, "--lease", "20")
    started(place, 1)
    place.worker("--lease", "20")

    relay.begin_silence()
    (place.folder / "go").touch()
    time.sleep(3)  # the silence itself
    relay.end_silence()
    wait_until(lambda: "completed" in place.said(0) + place.said(1), "it is settled", within_s=2 * SOON_S)

    assert "completed" in place.said(0), "the worker that ran it did not settle it in time"
    assert len(place.lines("start")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("busy", [False, True])
async def test_work_resumes_soon_after_a_silence(place: Place, relay: SilentRelay, busy: bool) -> None:
    place.dispatch("UntilTold:1", "Quick:1")
    place.worker("--driver", relay.url)
    waits(place, 0)
    if not busy:
        (place.folder / "go").touch()
        wait_until(lambda: len(place.lines("end")) == 2, "both have run")
        assert await until(lambda: nothing_is_left(place))

    relay.begin_silence()
    (place.folder / "go").touch()
    place.dispatch("Quick:20")
    time.sleep(20)  # the silence itself
    relay.end_silence()
    ended_at = time.time()
    wait_until(lambda: len(place.lines("end")) >= 22, "all have run", within_s=2 * SOON_S)
    assert await until(lambda: nothing_is_left(place))

    ends = sorted(line["at"] for line in place.lines("end"))
    print(f"resumed {ends[-20] - ended_at:.2f} s after the silence")
    assert ends[-20] - ended_at <= RESUME_S_MAX
    assert set(Counter(line["id"] for line in place.lines("end")).values()) == {1}


async def nothing_is_left(place: Place) -> bool:
    return not await place.messages()
