"""A worker's runtime, in production or simulated: clock, random source, lanes, lease renewal, ledger sink."""

import logging
import os
import random
import secrets
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

from asynctasq.clock import Clock, SystemClock
from asynctasq.codec.limits import DEFAULT_LIMITS
from asynctasq.codec.orm.references import LoadInAnotherLoop
from asynctasq.core.django_databases import DatabaseSettings, current_databases
from asynctasq.core.exception_codec import log_error
from asynctasq.core.lanes.child import ChildSettings
from asynctasq.core.lanes.lanes import InlineLanes, Lanes, LocalLanes, WorkerLanes
from asynctasq.core.leases import LeaseRenewer, LoopLeaseRenewer, ThreadLeaseRenewer
from asynctasq.core.lifespans import ENTER_S_MAX
from asynctasq.core.orms import attempt_scope
from asynctasq.core.paused_queues import PAUSE_CHECK_S
from asynctasq.core.schedule_messages import ScheduledTask
from asynctasq.core.task_factory import TaskFactory
from asynctasq.drivers.base import Driver
from asynctasq.kernel.ledger import Entry
from asynctasq.kernel.retry import RandomSource
from asynctasq.kernel.schedule import CHECK_S
from asynctasq.logs import get_logger
from asynctasq.tasks.application import Application
from asynctasq.tasks.configured import Lifespan, lifespans_of, middleware_of
from asynctasq.tasks.middleware import Middleware
from asynctasq.tasks.options import whole_number
from asynctasq.tasks.project import project_root

__all__ = ["ProductionRuntime", "Runtime", "SharedLoopRuntime", "SimulatedRuntime", "WorkerSettings", "worker_lanes"]

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What rarely differs between workers. Durations in seconds.

    lease_s: how long a message is ours without renewal; it is renewed at a third of that.
    shutdown_timeout_s: how long running attempts may take to end after the first signal.
    end_timeout_s: how long it may take after that to interrupt the others, hand them back and close.
    broker_timeout_s: after so long without a successful call the worker ends with DriverUnavailable.
    body_bytes_max: larger bodies are not decoded but become dead letters.
    hook_timeout_s: how long `failed` and `should_retry` may take.
    abandon_s: how long a thread may outlive its time limit before its slot is given up.
    burst: end as soon as nothing is visible and nothing runs.
    handle_signals: SIGTERM and SIGINT drain the worker.
    schedules: which schedules the worker keeps going; None for those of all imported tasks,
        or, in a test run, for none.
    schedule_check_s: how often it looks after them; for three times as long its code counts after it has died.
    pause_check_s: how often it looks which queues are paused; infinity for never.
    registers: whether it enters itself in the store, for `asynctasq workers`.
    fetch_values: the ledger has what a process task returned, too, whether or not it is kept.
    middleware, lifespans: those of the application's configuration, where they are None.
    lifespan_start_s: how long the lifespans may take to start.
    """

    application: Application = field(default_factory=lambda: Application((), project_root()))
    signing_keys: Mapping[str, bytes] | None = field(default=None, repr=False)
    lease_s: float = 30.0
    shutdown_timeout_s: float = 30.0
    end_timeout_s: float = 1.0
    broker_timeout_s: float = 60.0
    body_bytes_max: int = DEFAULT_LIMITS.body_bytes_max
    hook_timeout_s: float = 30.0
    abandon_s: float = 60.0
    burst: bool = False
    handle_signals: bool = True
    schedules: Sequence[ScheduledTask] | None = None
    schedule_check_s: float = CHECK_S
    pause_check_s: float = PAUSE_CHECK_S
    registers: bool = False
    fetch_values: bool = False
    process_pool_size: int | None = None
    process_pool_max_tasks_per_child: int | None = None
    middleware: tuple[Middleware, ...] | None = None
    lifespans: tuple[Lifespan, ...] | None = None
    lifespan_start_s: float = ENTER_S_MAX

    def of_application(self) -> Self:
        """Return these settings with the middleware and lifespans that are configured, where none were given.

        Raises: ConfigError.
        """
        if self.middleware is not None and self.lifespans is not None:
            return self
        from asynctasq.core.setup import application_settings

        configured = application_settings()
        return replace(
            self,
            middleware=middleware_of(configured.middleware) if self.middleware is None else self.middleware,
            lifespans=lifespans_of(configured.lifespan) if self.lifespans is None else self.lifespans,
        )

    def with_pool(self, size: int | None, max_tasks_per_child: int | None) -> Self:
        """Return these settings with what is given for the pool of processes."""
        settings = self
        if size is not None:
            settings = replace(settings, process_pool_size=whole_number(size, "process_pool_size", least=1))
        if max_tasks_per_child is not None:
            count = whole_number(max_tasks_per_child, "process_pool_max_tasks_per_child", least=1)
            settings = replace(settings, process_pool_max_tasks_per_child=count)
        return settings


class Runtime(Protocol):
    """What differs between a worker in production and one in a simulation.

    `wait_s` bounds one wait for a wake-up; `record` receives ledger entries; `load_in_another_loop` loads models if the
    worker's own event loop can't do I/O; `decode_in_threads` says whether large bodies are decoded, and modules
    imported, outside of it.
    """

    clock: Clock
    rng: RandomSource
    name: str
    wait_s: float
    record: Callable[[Entry], None] | None
    load_in_another_loop: LoadInAnotherLoop | None
    decode_in_threads: bool

    def attempt_scope(self) -> AbstractAsyncContextManager[None] | None:
        """Return the context manager that an attempt runs in, None where there is nothing to do."""
        ...

    def lanes(self, settings: WorkerSettings, task_factory: TaskFactory, *, threads: int) -> Lanes:
        """Return where attempts run."""
        ...

    def renewer(self, driver: Driver, settings: WorkerSettings) -> LeaseRenewer:
        """Return what renews leases."""
        ...


def worker_lanes(
    settings: WorkerSettings, threads: int, *, databases: DatabaseSettings | None = None, driver: str | None = None
) -> WorkerLanes:
    """Return the lanes of a worker in production; in a test its children use the test's `databases` and `driver`."""
    application = settings.application
    child = ChildSettings(
        modules=application.modules,
        root=None if application.root is None else str(application.root),
        folders=application.path,
        path=tuple(map(str, sys.path)),
        body_bytes_max=settings.body_bytes_max,
        databases=databases or {},
        driver=driver,
        lifespans=tuple(lifespan.name for lifespan in settings.lifespans or () if lifespan.name),
    )
    return WorkerLanes(
        child,
        threads=threads,
        processes=settings.process_pool_size,
        max_tasks_per_child=settings.process_pool_max_tasks_per_child,
        abandon_s=settings.abandon_s,
    )


def _worker_name() -> str:
    """Return host, pid and a random part: a restarted container has the same host and pid."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


class _IsolatedListener:
    """Passes ledger entries to a listener; what it raises is logged and touches neither worker nor task."""

    def __init__(self, listener: Callable[[Entry], None]) -> None:
        self._listener = listener
        self._failures = 0

    def __call__(self, entry: Entry) -> None:
        try:
            self._listener(entry)
        except BaseException as error:  # noqa: BLE001 - whatever it raises, the attempts of others depend on this call
            self._failures += 1
            if self._failures.bit_count() == 1:  # the 1st, 2nd, 4th, ...: one that always fails does not flood the log
                log_error(
                    logger,
                    logging.ERROR,
                    f"the listener of the ledger failed {self._failures} times and missed those events",
                    error,
                )


@dataclass(slots=True, kw_only=True)
class ProductionRuntime:
    """The system's clock, threads, child processes, and a lease thread. What `record` raises is logged only."""

    clock: Clock = field(default_factory=SystemClock)
    rng: RandomSource = field(default_factory=random.Random)
    name: str = field(default_factory=_worker_name)
    wait_s: float = 20.0
    record: Callable[[Entry], None] | None = None
    load_in_another_loop: LoadInAnotherLoop | None = None
    decode_in_threads: bool = True

    def __post_init__(self) -> None:
        if self.record is not None:
            self.record = _IsolatedListener(self.record)

    def attempt_scope(self) -> AbstractAsyncContextManager[None] | None:
        return attempt_scope()

    def lanes(self, settings: WorkerSettings, task_factory: TaskFactory, *, threads: int) -> Lanes:  # noqa: ARG002
        return worker_lanes(settings, threads)

    def renewer(self, driver: Driver, settings: WorkerSettings) -> LeaseRenewer:
        return ThreadLeaseRenewer(driver, lease_s=settings.lease_s, clock=self.clock)


@dataclass(slots=True, kw_only=True)
class SimulatedRuntime:
    """A given clock and random source; unless `real_executors`, everything runs in the worker's own loop."""

    clock: Clock
    rng: RandomSource
    name: str
    wait_s: float = float("inf")
    record: Callable[[Entry], None] | None = None
    real_executors: bool = False
    load_in_another_loop: LoadInAnotherLoop | None = None
    decode_in_threads: bool = False

    def attempt_scope(self) -> AbstractAsyncContextManager[None] | None:
        return attempt_scope()

    def lanes(self, settings: WorkerSettings, task_factory: TaskFactory, *, threads: int) -> Lanes:
        if self.real_executors:
            return worker_lanes(settings, threads, databases=current_databases())
        return InlineLanes(task_factory)

    def renewer(self, driver: Driver, settings: WorkerSettings) -> LeaseRenewer:
        return LoopLeaseRenewer(
            driver, lease_s=settings.lease_s, clock=self.clock, record=self.record, worker=self.name
        )


@dataclass(slots=True, kw_only=True)
class SharedLoopRuntime(SimulatedRuntime):
    """The same on an event loop that is a test's own: blocking code runs in threads, and models load in that loop."""

    def attempt_scope(self) -> AbstractAsyncContextManager[None] | None:
        """Return none: an attempt runs in what is around the test, which sees the test's transaction."""
        return None

    def lanes(self, settings: WorkerSettings, task_factory: TaskFactory, *, threads: int) -> Lanes:
        if self.real_executors:
            return worker_lanes(settings, threads, databases=current_databases())
        return LocalLanes(task_factory, threads=threads)
