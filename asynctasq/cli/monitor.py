"""What watches a worker with `--health`: its health, and its metrics where the extra `prometheus` is installed."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from asynctasq.cli.health import TEXT, Answer, serve_health
from asynctasq.clock import SystemClock
from asynctasq.codec.limits import Limits
from asynctasq.config import Settings
from asynctasq.core.queue_operator import QueueOperator
from asynctasq.core.worker import Worker
from asynctasq.kernel.ledger import Entry

if TYPE_CHECKING:
    from asynctasq.cli.metrics import QueueMetrics, WorkerMetrics

__all__ = ["Monitor"]

MISSING = b"metrics need the extra prometheus; install it with: pip install 'asynctasq[prometheus]'\n"


class Monitor:
    """A ledger sink that passes on to another one and counts."""

    def __init__(self, record: Callable[[Entry], None] | None) -> None:
        self._record = record
        self._metrics = _metrics()
        self._queues: QueueMetrics | None = None

    def __call__(self, entry: Entry) -> None:
        """Record an entry."""
        if self._metrics is not None:
            self._metrics(entry)
        if self._record is not None:
            self._record(entry)

    def serve(self, address: str, worker: Worker, settings: Settings) -> AbstractContextManager[str]:
        """Return the context in which health and metrics of the worker are answered at `[HOST:]PORT`; it gives where.

        Raises: ConfigError.
        """
        if self._metrics is None:
            return serve_health(address, worker, {"/metrics": lambda: Answer(False, MISSING, TEXT)})
        from asynctasq.cli.metrics import QueueMetrics

        limits = Limits(body_bytes_max=settings.body_bytes_max)
        operator = QueueOperator(worker.driver, limits=limits, clock=SystemClock())
        self._queues = QueueMetrics(operator, worker.queues.names)
        return serve_health(address, worker, self._metrics.answers(worker, self._queues))

    def bind(self) -> None:
        """Ask the backend in the running event loop from now on."""
        if self._queues is not None:
            self._queues.bind()


def _metrics() -> "WorkerMetrics | None":
    try:
        from asynctasq.cli.metrics import WorkerMetrics
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "prometheus_client":
            raise
        return None
    return WorkerMetrics()
