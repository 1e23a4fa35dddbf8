"""`asynctasq worker`: configuration, banner, run, exit code."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asynctasq.cli.application import prepare_application
from asynctasq.cli.early_signals import end_at_stop_signals, stop_requested
from asynctasq.cli.output import AttemptLines, configure_logging
from asynctasq.cli.processes import address_of_child, stop_with_parent
from asynctasq.cli.supervision import tell_supervisor
from asynctasq.config import Settings
from asynctasq.core.orms import open_orms
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.schedule_messages import ScheduledTask, configured_schedules, scheduled_tasks
from asynctasq.core.setup import Setup, signing_key_bytes
from asynctasq.core.shutdown import on_stop_signals
from asynctasq.core.standard_streams import tolerate_output_errors
from asynctasq.core.worker import Worker
from asynctasq.errors import ConfigError
from asynctasq.kernel.ledger import Entry
from asynctasq.kernel.texts import printable
from asynctasq.tasks.application import Application
from asynctasq.tasks.configured import lifespans_of, middleware_of
from asynctasq.tasks.definition import definition_of
from asynctasq.tasks.registry import known_names, registered
from asynctasq.utils.loop import run_despite_exits

if TYPE_CHECKING:
    from asynctasq.cli.monitor import Monitor

__all__ = ["Output", "run_worker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a worker writes, and how."""

    json: bool = False
    quiet: bool = False
    log_level: str = "INFO"


def run_worker(
    given: Mapping[str, Any],
    *,
    output: Output,
    burst: bool,
    max_tasks: int | None,
    max_rss_mb: int | None = None,
    child: int | None = None,
    folders: tuple[str, ...] = (),
) -> None:
    """Run a worker until it is stopped; its application is imported from `folders` first, from the current one last.

    `child` is which of `--processes` it is. With more than `max_rss_mb` megabytes in memory it stops by itself.

    Raises: ConfigError, DriverError.
    """
    end_at_stop_signals()
    tolerate_output_errors()  # here, too: Django has a main of its own
    configure_logging(output.log_level, as_json=output.json)
    prepared = prepare_application(given, folders)
    settings, setup, application = _of_child(prepared.settings, child), prepared.setup, prepared.application
    record = None if output.quiet else AttemptLines(sys.stdout, as_json=output.json)
    monitor = None
    if settings.health is not None:
        from asynctasq.cli.monitor import Monitor  # few workers have one

        monitor = Monitor(record)
    worker = _worker(settings, setup, application, monitor or record, burst=burst, max_tasks=max_tasks)
    health = nullcontext("") if monitor is None else monitor.serve(settings.health or "", worker, settings)
    with health as address, tell_supervisor(worker, ready_file=settings.ready_file):
        _banner(worker, settings, setup, output, address)
        run_despite_exits(_serve(worker, prepared.root, monitor, max_rss_mb, is_child=child is not None))


def _of_child(settings: Settings, number: int | None) -> Settings:
    """Return the settings with an address and a ready file of its own for each child of `--processes`."""
    if number is None:
        return settings
    changes: dict[str, str] = {}
    if settings.health is not None:
        changes["health"] = address_of_child(settings.health, number)
    if settings.ready_file is not None:
        changes["ready_file"] = f"{settings.ready_file}.{number}"
    return settings.model_copy(update=changes)


async def _serve(
    worker: Worker, root: Path, monitor: "Monitor | None", max_rss_mb: int | None, *, is_child: bool
) -> None:
    with on_stop_signals(worker.stop):
        if stop_requested():
            return
        if monitor is not None:
            monitor.bind()
        if is_child:
            stop_with_parent(worker.stop)
        async with _watched(worker, max_rss_mb), open_orms(root):
            await worker.start()


@asynccontextmanager
async def _watched(worker: Worker, max_rss_mb: int | None) -> AsyncGenerator[None]:
    """Stop the worker when it has more than so many megabytes in memory."""
    if max_rss_mb is None:
        yield
        return
    from asynctasq.cli.memory import stop_above  # few workers are watched

    watch = asyncio.create_task(stop_above(max_rss_mb, worker.stop))
    try:
        yield
    finally:
        watch.cancel()


def _worker(
    settings: Settings,
    setup: Setup,
    application: Application,
    record: Callable[[Entry], None] | None,
    *,
    burst: bool,
    max_tasks: int | None,
) -> Worker:
    driver = setup.driver(settings.driver)
    if not driver.capabilities.cross_process:
        raise ConfigError(
            f"the driver {driver} keeps its messages in one process: a worker would never see a task; "
            "use sqlite, redis, postgres, mysql or sqs"
        )
    setup.in_use = True
    return Worker(
        driver,
        settings.queues,
        settings.concurrency,
        process_pool_size=settings.process_pool_size,
        process_pool_max_tasks_per_child=settings.process_pool_max_tasks_per_child,
        max_tasks=max_tasks,
        settings=WorkerSettings(
            application=application,
            signing_keys=signing_key_bytes(settings),
            lease_s=settings.lease_s,
            shutdown_timeout_s=settings.shutdown_timeout_s,
            broker_timeout_s=settings.broker_timeout_s,
            body_bytes_max=settings.body_bytes_max,
            burst=burst,
            schedules=_schedules(settings, application),
            middleware=middleware_of(setup.settings.middleware),
            lifespans=lifespans_of(setup.settings.lifespan),
            registers=True,
            handle_signals=False,  # `_serve` does, from before the worker starts
        ),
        runtime=ProductionRuntime(record=record),
    )


def _schedules(settings: Settings, application: Application) -> tuple[ScheduledTask, ...]:
    """Return the schedules of the imported tasks, and those that the settings give."""
    return (*scheduled_tasks(other_processes=True), *configured_schedules(settings.schedules, application))


def _unserved_queues(served: Sequence[str]) -> list[str]:
    """Return the other queues that the imported tasks go to by default, but for tasks with a driver of their own."""
    tasks = [(task, definition_of(task)) for task in map(registered, known_names()) if task is not None]
    used = {task.queue for task, definition in tasks if definition.runnable and definition.driver is None}
    return sorted(used.difference(served))


def _banner(worker: Worker, settings: Settings, setup: Setup, output: Output, health: str) -> None:
    from asynctasq import __version__

    facts = {
        "version": __version__,
        "worker": worker.name,
        "pid": os.getpid(),
        "driver": str(worker.driver),
        **({"tls": worker.driver.tls} if worker.driver.tls else {}),
        "queues": str(worker.queues),
        "concurrency": worker.concurrency,
        "process_pool": settings.process_pool_size or os.cpu_count() or 1,
        "lease_s": settings.lease_s,
        "signing": _signing(setup),
        **_around(worker),
        **({"health": health} if health else {}),
        "app": ", ".join(settings.app) or "tasks are found in the project root",
    }
    if other_queues := _unserved_queues(worker.queues.names):
        facts["not_served"] = f"{', '.join(other_queues)}: tasks here go to them; add them to --queues or run a worker"
    if output.json:
        sys.stdout.write(json.dumps({"event": "started", **facts}) + "\n")
    else:
        width = max(map(len, facts))
        sys.stdout.write(
            "asynctasq worker\n"
            + "".join(f"  {name:<{width}}  {printable(str(fact))}\n" for name, fact in facts.items())
        )
    sys.stdout.flush()


def _around(worker: Worker) -> dict[str, str]:
    """Return what the application has put around attempts and the worker, if anything."""
    middleware = ", ".join(type(each).__qualname__ for each in worker.settings.middleware or ())
    lifespans = ", ".join(lifespan.name for lifespan in worker.settings.lifespans or ())
    return {name: text for name, text in (("middleware", middleware), ("lifespan", lifespans)) if text}


def _signing(setup: Setup) -> str:
    keys = setup.queue.factory.keys
    return "off" if keys is None else f"on, accepts {', '.join(keys.ids)}, signs with {keys.sign_with}"
