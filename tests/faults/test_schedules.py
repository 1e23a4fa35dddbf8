"""Schedules on real backends: fifty workers started at once, an hour of ticks under a moved clock, and kill -9."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from asynctasq import AsyncTask, Every
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.schedule_messages import ScheduledTask
from asynctasq.core.worker import Worker
from asynctasq.testing.conformance.harness import DriverHarness
from asynctasq.testing.conformance.harnesses import mysql, postgres, redis, sqlite
from asynctasq.testing.servers import Servers
from tests.faults.worker_process import Place, place_in
from tests.patience import SOON_S, until, wait_until

WORKERS = 50
TICKS = 3600
STEP_S = 90.0
"""How far the clock is moved at once; fewer ticks than `run_all` makes up for."""
MAKERS = {
    "sqlite": sqlite.make_harness,
    "redis": redis.make_harness,
    "postgres": postgres.make_harness,
    "mysql": mysql.make_harness,
}
RAN: list[float] = []

APPLICATION = """
import os
from pathlib import Path

from asynctasq import AsyncTask, Every

class EverySecond(AsyncTask[None]):
    schedule = Every(seconds=1, misfire="run_all")

    async def execute(self):
        file = os.open(Path(__file__).parent / "ticks", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{self.scheduled_for.timestamp():.0f} {self.task_id}\\n".encode())
        os.close(file)
"""


class EverySecond(AsyncTask[None]):
    async def execute(self) -> None:
        assert self.scheduled_for is not None
        RAN.append(self.scheduled_for.timestamp())


@pytest.fixture(params=list(MAKERS))
async def harness(request: pytest.FixtureRequest, conformance_servers: Servers) -> AsyncIterator[DriverHarness]:
    made = MAKERS[request.param](conformance_servers)
    await made.prepare()
    yield made
    await made.clean_up()


@pytest.mark.slow
@pytest.mark.timeout(500)
async def test_fifty_workers_run_each_tick_of_an_hour_once(harness: DriverHarness) -> None:
    RAN.clear()
    schedule = ScheduledTask(task=EverySecond, schedule=Every(seconds=1, misfire="run_all"), name="every second")
    settings = WorkerSettings(schedules=[schedule], lease_s=600, handle_signals=False, broker_timeout_s=SOON_S)
    workers = [
        Worker(harness.create(), concurrency=4, settings=settings, runtime=ProductionRuntime(wait_s=0.5))
        for _ in range(WORKERS)
    ]

    async def idle() -> bool:
        """Say whether every lease has ended: moving the clock must end none."""
        depth = await workers[0].driver.depth("default")
        return depth.ready == depth.reserved == 0

    running = [asyncio.create_task(worker.start()) for worker in workers]
    await until(lambda: RAN or any(task.done() for task in running), "the first tick runs")
    while len(RAN) < TICKS:
        before = len(RAN)
        harness.advance(STEP_S)
        await until(lambda: len(RAN) >= before + STEP_S, "the ticks of the step run", within_s=2 * SOON_S)  # noqa: B023
        await until(idle, "their messages are settled", within_s=2 * SOON_S)
    for worker in workers:
        worker.stop()
    await asyncio.gather(*running)

    ticks = sorted(RAN)
    assert [count for count in Counter(ticks).values() if count > 1] == [], "a tick ran twice"
    assert ticks == [ticks[0] + number for number in range(len(ticks))], "a tick is missing"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as made:
        (tmp_path / "faulted_app.py").write_text(APPLICATION)
        yield made


def ticks_of(place: Place) -> list[tuple[int, str]]:
    path = place.folder / "ticks"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(tick), task_id) for tick, task_id in map(str.split, lines)]


def test_killed_workers_lose_no_tick(place: Place) -> None:
    for round_number in range(3):
        seen = len(ticks_of(place))
        worker = place.worker("--lease", "1", "--quiet")
        wait_until(lambda: len(ticks_of(place)) >= seen + 2, "two more ticks run")  # noqa: B023
        pause_s = 0.1 + 0.3 * round_number  # at another moment between two ticks
        ends_at = time.monotonic() + pause_s
        wait_until(lambda: time.monotonic() > ends_at)  # noqa: B023
        worker.kill()
        worker.wait()
    seen = len(ticks_of(place))
    place.worker("--lease", "1", "--quiet")
    wait_until(lambda: len(ticks_of(place)) >= seen + 5, "the ticks meanwhile run, and more")

    ticks = sorted({tick for tick, _ in ticks_of(place)})
    assert ticks == list(range(ticks[0], ticks[0] + len(ticks))), "a tick is missing"
    assert len({task_id for _, task_id in ticks_of(place)}) == len(ticks), "a tick was dispatched twice"
    again = sum(count - 1 for count in Counter(tick for tick, _ in ticks_of(place)).values())
    assert again <= 3, "only what a killed worker had begun may run again"
