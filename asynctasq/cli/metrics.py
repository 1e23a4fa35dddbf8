"""A worker's metrics for Prometheus: what its ledger tells of attempts, and how deep the queues of its backend are.

Importing this needs the extra `prometheus`.
"""

import asyncio
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from itertools import accumulate
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from asynctasq import __version__
from asynctasq.cli.health import TEXT, Answer, Answers
from asynctasq.core.queue_operator import QueueOperator
from asynctasq.core.worker import Worker
from asynctasq.errors import DriverError
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.limits import runs_no_task
from asynctasq.kernel.messages import Depth

__all__ = ["QUEUES_MAX", "TASKS_MAX", "QueueMetrics", "WorkerMetrics"]

TASKS_MAX: Final = 200
"""So many names of tasks are told apart; the attempts of further ones count under `other`."""
QUEUES_MAX: Final = 500
"""The depth of so many queues is told, those that the worker serves first."""
OTHER: Final = "other"
UNKNOWN: Final = "unknown"
"""The task of a message that could not be run."""
READ_S_MAX: Final = 4.0
"""How long the backend may take to tell its depth."""
SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
"""The bounds of the histograms: from a trivial task on a fast backend to one of an hour."""
OUTCOMES: Final[Mapping[str, str]] = {
    "complete": "completed",
    "retry": "retried",
    "snooze": "snoozed",
    "hand back": "handed_back",
    "crash": "crashed",
    "bury": "dead",
    "lost": "lost",
    "cancelled": "cancelled",
}
"""What ended an attempt -> the label `outcome`."""
COUNTED: Final = frozenset({Kind.STARTED, Kind.ENDED, Kind.SETTLED, Kind.LOST, Kind.CANCELLED})


class _Histogram:
    """How many values there were up to each of `SECONDS`, and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(SECONDS, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        bounds = [*(f"{bound:g}" for bound in SECONDS), "+Inf"]
        return list(zip(bounds, accumulate(map(float, self.counts)), strict=True))


class WorkerMetrics(Collector):
    """A ledger sink that counts, and the text that Prometheus scrapes.

    It counts in plain dicts, in the thread of the event loop: the library's own counters lock, and would take a third
    of the time of a task that does nothing. They are read in another thread, each copied in one step.
    """

    def __init__(self) -> None:
        self._attempts: dict[tuple[str, str, str], int] = defaultdict(int)
        self._dead: dict[tuple[str, str, str], int] = defaultdict(int)
        self._durations: dict[tuple[str, str], _Histogram] = defaultdict(_Histogram)
        self._latencies: dict[str, _Histogram] = defaultdict(_Histogram)
        self._started: dict[str, tuple[str, float]] = {}
        self._tasks: set[str] = set()
        self._worker: Worker | None = None

    def answers(self, worker: Worker, queues: "QueueMetrics") -> Answers:
        """Return what is answered at `/metrics`, and at `/metrics/queues`, where one worker of many is to be asked."""
        self._worker = worker
        return {"/metrics": lambda: Answer(True, self.text(), CONTENT_TYPE_LATEST), "/metrics/queues": queues.answer}

    def __call__(self, entry: Entry) -> None:
        """Count what an entry says."""
        kind = entry.kind
        if kind not in COUNTED or runs_no_task(entry.message_id) or entry.detail == "wait":
            return  # what waits for a limit has not run
        if kind is Kind.STARTED:
            self._started[entry.message_id] = self._task(entry.detail), entry.at
            if entry.attempt == 1:
                self._latencies[entry.queue].observe(max(0.0, entry.at - entry.enqueued_at))
        elif kind is Kind.ENDED:
            if (started := self._started.get(entry.message_id)) is not None:
                self._durations[started[0], entry.queue].observe(max(0.0, entry.at - started[1]))
        else:
            self._end(entry, entry.detail.partition(":")[0] if kind is Kind.SETTLED else kind.value)

    def _end(self, entry: Entry, how: str) -> None:
        task, _ = self._started.pop(entry.message_id, (UNKNOWN, 0.0))
        self._attempts[task, entry.queue, OUTCOMES.get(how, how)] += 1
        if how == "bury":
            self._dead[task, entry.queue, entry.detail.partition(": ")[2]] += 1

    def _task(self, name: str) -> str:
        """Return a task's label. The names that there may be are bounded by the code, the memory for them here."""
        if name not in self._tasks and len(self._tasks) < TASKS_MAX:
            self._tasks.add(name)
        return name if name in self._tasks else OTHER

    def text(self) -> bytes:
        """Return what has been counted, for Prometheus; from any thread."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """Return the metrics, for the library."""
        of_attempt = ["task", "queue"]
        attempts = CounterMetricFamily(
            "asynctasq_attempts",
            "Attempts that have ended, by what became of the message.",
            labels=[*of_attempt, "outcome"],
        )
        dead = CounterMetricFamily(
            "asynctasq_dead_letters", "Messages that became dead letters, by reason.", labels=[*of_attempt, "reason"]
        )
        for family, counts in ((attempts, self._attempts), (dead, self._dead)):
            for labels, count in counts.copy().items():
                family.add_metric(labels, count)
        durations = HistogramMetricFamily(
            "asynctasq_attempt_duration_seconds", "How long attempts ran.", labels=of_attempt
        )
        for names, histogram in self._durations.copy().items():
            durations.add_metric(names, histogram.buckets(), histogram.total)
        latencies = HistogramMetricFamily(
            "asynctasq_queue_latency_seconds",
            "From the dispatch to the start of the first attempt, a delay that was asked for included.",
            labels=["queue"],
        )
        for queue, histogram in self._latencies.copy().items():
            latencies.add_metric([queue], histogram.buckets(), histogram.total)
        yield from (attempts, dead, durations, latencies)
        if self._worker is not None:
            yield from _of_worker(self._worker)


def _of_worker(worker: Worker) -> Iterator[Metric]:
    """Return what runs, how much may, and for how long the event loop has been blocked."""
    yield GaugeMetricFamily("asynctasq_attempts_running", "Attempts that run now.", value=worker.running)
    yield GaugeMetricFamily("asynctasq_concurrency", "How many attempts may run at once.", value=worker.concurrency)
    yield GaugeMetricFamily(
        "asynctasq_event_loop_blocked_seconds", "For how long the event loop has not run.", value=worker.loop_blocked_s
    )
    info = GaugeMetricFamily("asynctasq_worker_info", "Always 1.", labels=["worker", "version"])
    info.add_metric([worker.name, __version__], 1)
    yield info


class QueueMetrics:
    """Reads the depth of the queues of a backend, in the event loop that its driver works in."""

    def __init__(self, operator: QueueOperator, served: Collection[str]) -> None:
        self._operator = operator
        self._served = served
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(self) -> None:
        """Read in the running event loop from now on."""
        self._loop = asyncio.get_running_loop()

    def answer(self) -> Answer:
        """Answer with the depths, one read for each call; from any thread but that of the event loop."""
        if self._loop is None or self._loop.is_closed():
            return Answer(False, b"the worker does not run\n", TEXT)
        reading = asyncio.run_coroutine_threadsafe(self._read(), self._loop)
        try:
            return Answer(True, reading.result(READ_S_MAX), CONTENT_TYPE_LATEST)
        except (TimeoutError, CancelledError):  # the latter when the worker ends meanwhile
            reading.cancel()
            return Answer(False, b"the backend or the event loop takes too long\n", TEXT)
        except DriverError as error:
            return Answer(False, f"{error}\n".encode(), TEXT)

    async def _read(self) -> bytes:
        paused = await self._operator.paused()
        depths = await self._operator.depths([*self._served, *paused], most=QUEUES_MAX)
        return generate_latest(_Families(_families(depths, paused)))


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(depths: Mapping[str, Depth], paused: Collection[str]) -> Iterator[Metric]:
    messages = GaugeMetricFamily("asynctasq_queue_messages", "Messages by state.", labels=["queue", "state"])
    oldest = GaugeMetricFamily(
        "asynctasq_queue_oldest_age_seconds", "For how long the first in line has been ready.", labels=["queue"]
    )
    is_paused = GaugeMetricFamily("asynctasq_queue_paused", "1 while no worker takes messages.", labels=["queue"])
    for name, depth in depths.items():
        for state in ("ready", "scheduled", "reserved", "dead"):
            messages.add_metric([name, state], getattr(depth, state))
        oldest.add_metric([name], depth.oldest_age_s or 0.0)
        is_paused.add_metric([name], float(name in paused))
    yield from (messages, oldest, is_paused)
