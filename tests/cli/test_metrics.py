"""A worker's metrics, read by the parser of Prometheus's own client."""

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from asynctasq import Reject, Snooze
from asynctasq.cli.health import serve_health
from asynctasq.cli.metrics import QUEUES_MAX, SECONDS, TASKS_MAX, QueueMetrics, WorkerMetrics
from asynctasq.clock import SystemClock
from asynctasq.codec.limits import DEFAULT_LIMITS
from asynctasq.core.queue_operator import QueueOperator
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import DriverUnavailable
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.messages import Depth, Message
from asynctasq.queue import Queue
from asynctasq.tasks import AsyncTask
from asynctasq.testing.servers import Servers
from tests.patience import SOON_S, until, wait_until

DASHBOARD = Path(__file__).parents[2] / "docs" / "how-to" / "grafana-dashboard.json"
DEPLOY = Path(__file__).parents[2] / "docs" / "how-to" / "deploy-workers.md"
TASKS = """
from asynctasq import AsyncTask

class Fine(AsyncTask[None]):
    async def execute(self) -> None: ...

class Wrong(AsyncTask[None]):
    max_attempts = 2
    retry_delay = 0
    async def execute(self) -> None:
        raise ValueError
"""

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Fine(AsyncTask[None]):
    async def execute(self) -> None:
        return None


class Twice(AsyncTask[None]):
    retry_delay = 0.001

    async def execute(self) -> None:
        if self.attempt == 1:
            raise ValueError


class Refused(AsyncTask[None]):
    async def execute(self) -> None:
        raise Reject("no")


class Later(AsyncTask[None]):
    async def execute(self) -> None:
        if self.attempt == 1 and not LATER:
            LATER.append(1)
            raise Snooze(0.001)


LATER: list[int] = []


def samples_in(text: bytes) -> Samples:
    families = text_string_to_metric_families(text.decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def worker_with(driver: MemoryDriver, metrics: WorkerMetrics, **settings: Any) -> Worker:
    chosen = WorkerSettings(handle_signals=False, **settings)
    return Worker(driver, concurrency=3, settings=chosen, runtime=ProductionRuntime(record=metrics))


def queues_of(driver: MemoryDriver) -> QueueMetrics:
    return QueueMetrics(QueueOperator(driver, limits=DEFAULT_LIMITS, clock=SystemClock()), ["default"])


def ask(url: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=SOON_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


async def test_attempts_are_counted_by_what_became_of_them() -> None:
    LATER.clear()
    driver, metrics = MemoryDriver(), WorkerMetrics()
    await Queue(driver).dispatch([Fine(), Fine(), Twice(), Refused(), Later()])
    await driver.enqueue([Message(id="m1", queue="default", body=b"of somebody else")])

    async with asyncio.timeout(SOON_S):
        while (depth := await driver.depth("default")).ready or depth.scheduled:
            await worker_with(driver, metrics, burst=True).start()

    samples, own = samples_in(metrics.text()), {"queue": "default"}
    names = {cls: f"{__name__}:{cls.__name__}" for cls in (Fine, Twice, Refused, Later)}
    found = {
        (dict(labels)["task"], dict(labels)["outcome"]): number
        for (name, labels), number in samples.items()
        if name == "asynctasq_attempts_total"
    }
    assert found == {
        (names[Fine], "completed"): 2,
        (names[Twice], "retried"): 1,
        (names[Twice], "completed"): 1,
        (names[Refused], "dead"): 1,
        (names[Later], "snoozed"): 1,
        (names[Later], "completed"): 1,
        ("unknown", "dead"): 1,
    }
    assert value(samples, "asynctasq_dead_letters_total", task=names[Refused], reason="rejected", **own) == 1
    assert value(samples, "asynctasq_dead_letters_total", task="unknown", reason="undecodable", **own) == 1
    assert value(samples, "asynctasq_attempt_duration_seconds_count", task=names[Twice], **own) == 2
    assert value(samples, "asynctasq_queue_latency_seconds_count", **own) >= 4
    assert value(samples, "asynctasq_queue_latency_seconds_sum", **own) < SOON_S


@given(st.lists(st.floats(0, 10_000, allow_nan=False), max_size=30))
def test_a_histogram_has_each_value_in_its_bucket(durations: list[float]) -> None:
    metrics = WorkerMetrics()
    for number, seconds in enumerate(durations):
        entry = Entry(0.0, Kind.STARTED, f"m{number}", "w", 2, "t", "tasks:T", queue="q")
        metrics(entry)
        metrics(entry._replace(at=seconds, kind=Kind.ENDED, detail="succeeded"))

    samples, name = samples_in(metrics.text()), "asynctasq_attempt_duration_seconds"
    buckets = {dict(labels)["le"]: n for (each, labels), n in samples.items() if each == f"{name}_bucket"}
    for bound, number in buckets.items():
        assert number == sum(seconds <= float(bound) for seconds in durations)
    assert len(buckets) == (len(SECONDS) + 1 if durations else 0)
    if durations:
        assert value(samples, f"{name}_sum", task="tasks:T", queue="q") == pytest.approx(sum(durations))


def test_the_names_of_tasks_that_are_told_apart_are_bounded() -> None:
    metrics = WorkerMetrics()
    for number in range(2 * TASKS_MAX):
        entry = Entry(0.0, Kind.STARTED, f"m{number}", "w", 1, "t", f"tasks:Task{number}", queue="default")
        metrics(entry)
        metrics(entry._replace(kind=Kind.SETTLED, detail="complete"))

    samples = samples_in(metrics.text())
    counted = {dict(labels)["task"]: n for (name, labels), n in samples.items() if name == "asynctasq_attempts_total"}
    assert len(counted) == TASKS_MAX + 1
    assert counted["other"] == TASKS_MAX


async def test_the_depth_of_queues_is_read_once_for_each_scrape() -> None:
    class Counted(MemoryDriver):
        reads = 0

        async def depth(self, queue: str) -> Depth:
            self.reads += 1
            return await super().depth(queue)

    driver = Counted()
    await Queue(driver).dispatch([Fine(), Fine().delay(600), Fine().on_queue("mail")])
    operator = QueueOperator(driver, limits=DEFAULT_LIMITS, clock=SystemClock())
    await operator.pause(["mail"])
    queues = QueueMetrics(operator, ["default"])
    queues.bind()

    answer = await asyncio.to_thread(queues.answer)

    assert answer.well
    samples = samples_in(answer.body)
    assert value(samples, "asynctasq_queue_messages", queue="default", state="ready") == 1
    assert value(samples, "asynctasq_queue_messages", queue="default", state="scheduled") == 1
    assert value(samples, "asynctasq_queue_messages", queue="mail", state="ready") == 1
    assert value(samples, "asynctasq_queue_paused", queue="mail") == 1
    assert value(samples, "asynctasq_queue_paused", queue="default") == 0
    assert value(samples, "asynctasq_queue_oldest_age_seconds", queue="mail") >= 0
    assert driver.reads == 2


async def test_the_number_of_queues_is_bounded_and_the_served_ones_are_among_them() -> None:
    driver = MemoryDriver()
    await Queue(driver).dispatch([Fine().on_queue(f"a{number}") for number in range(QUEUES_MAX + 50)])
    queues = queues_of(driver)
    queues.bind()

    samples = samples_in((await asyncio.to_thread(queues.answer)).body)

    names = {dict(labels)["queue"] for _, labels in samples}
    assert len(names) == QUEUES_MAX
    assert "default" in names


async def test_a_backend_that_is_away_is_told_and_the_workers_own_metrics_go_on() -> None:
    class Away(MemoryDriver):
        async def depth(self, queue: str) -> Depth:
            raise DriverUnavailable(f"nobody is there for {queue}")

    driver, metrics = Away(), WorkerMetrics()
    queues, worker = queues_of(driver), worker_with(driver, metrics)
    with serve_health("0", worker, metrics.answers(worker, queues)) as url:
        assert await asyncio.to_thread(ask, url, "/metrics/queues") == (503, b"the worker does not run\n")
        queues.bind()
        assert await asyncio.to_thread(ask, url, "/metrics/queues") == (503, b"nobody is there for default\n")
        status, text = await asyncio.to_thread(ask, url, "/metrics")

    assert status == 200
    assert value(samples_in(text), "asynctasq_concurrency") == 3
    assert value(samples_in(text), "asynctasq_attempts_running") == 0


async def test_what_runs_now_is_told() -> None:
    go = asyncio.Event()

    class Waiting(AsyncTask[None]):
        async def execute(self) -> None:
            await go.wait()

    driver, metrics = MemoryDriver(), WorkerMetrics()
    await Queue(driver).dispatch([Waiting(), Waiting()])
    worker = worker_with(driver, metrics, burst=True)
    metrics.answers(worker, queues_of(driver))
    running = asyncio.create_task(worker.start())

    await until(lambda: value(samples_in(metrics.text()), "asynctasq_attempts_running") == 2)
    go.set()
    await asyncio.wait_for(running, SOON_S)
    assert value(samples_in(metrics.text()), "asynctasq_attempts_running") == 0


@pytest.mark.program
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=pytest.mark.server)])
def test_a_worker_is_scraped(kind: str, conformance_servers: Servers, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "shop_tasks.py").write_text(TASKS)
    url = "sqlite" if kind == "sqlite" else f"{conformance_servers.get(kind).url}?namespace={tmp_path.name}"
    program = "import shop_tasks as t; t.Fine().dispatch_sync(); t.Wrong().dispatch_sync()"
    environment = {**os.environ, "ASYNCTASQ_DRIVER": url}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, timeout=SOON_S)
    command = [sys.executable, "-m", "asynctasq", "worker", "--json", "--health", "0", "--driver", url]
    process = subprocess.Popen([*command, "--app", "shop_tasks"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = json.loads(process.stdout.readline())["health"]
        wait_until(lambda: sum(attempts(ask(address, "/metrics")[1])) == 3, "all attempts have ended")
        queues = samples_in(ask(address, "/metrics/queues")[1])
        assert value(queues, "asynctasq_queue_messages", queue="default", state="dead") == 1
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SOON_S)
    assert process.returncode == 0


def attempts(text: bytes) -> Iterator[float]:
    return (number for (name, _), number in samples_in(text).items() if name == "asynctasq_attempts_total")


@pytest.mark.program
def test_without_the_extra_the_answer_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    program = """
import sys
sys.modules["prometheus_client"] = None
from asynctasq.cli.app import app
app(["worker", "--json", "--health", "0"])
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = json.loads(process.stdout.readline())["health"]
        status, text = ask(address, "/metrics")
        assert (status, b"pip install 'asynctasq[prometheus]'" in text) == (503, True)
        assert ask(address, "/live")[0] == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SOON_S)


def test_the_dashboard_and_the_manifests_ask_for_metrics_that_there_are() -> None:
    driver, metrics = MemoryDriver(), WorkerMetrics()
    metrics.answers(worker_with(driver, metrics), queues_of(driver))
    text = metrics.text().decode() + asyncio.run(_queue_text(driver))
    known = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    expressions += re.findall(r"query: (.*)", DEPLOY.read_text())

    asked = {name for text in expressions for name in re.findall(r"asynctasq_\w+", text)}
    assert len(expressions) >= 8
    assert {re.sub(r"_bucket$", "", name) for name in asked} <= known
    assert len({panel["id"] for panel in panels}) == len(panels)


async def _queue_text(driver: MemoryDriver) -> str:
    queues = queues_of(driver)
    queues.bind()
    return (await asyncio.to_thread(queues.answer)).body.decode()
