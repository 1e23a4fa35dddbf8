"""`asynctasq worker` and its options."""

import gc
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

import typer

from asynctasq.cli.app import App, DriverName
from asynctasq.cli.exit_codes import exit_on_error

__all__ = ["app"]

app = typer.Typer()


@contextmanager
def _without_garbage_collection() -> Generator[None]:
    """Import what a worker needs: all of it stays, and looking through it for garbage takes a tenth of the start."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


@app.command()
def worker(  # noqa: PLR0913, PLR0917 - one parameter per option
    context: typer.Context,
    apps: App = None,
    queues: Annotated[
        str | None, typer.Option("--queues", "-q", help="a,b in strict order, or a:3,b:1 by weight.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option("--concurrency", "-c", min=1, help="Attempts at once.")] = None,
    driver: DriverName = None,
    process_pool_size: Annotated[int | None, typer.Option(min=1, help="Child processes for process tasks.")] = None,
    process_pool_max_tasks_per_child: Annotated[
        int | None, typer.Option(min=1, help="Replace a child after so many tasks.")
    ] = None,
    burst: Annotated[bool, typer.Option("--burst", help="End when nothing is visible and nothing runs.")] = False,
    max_tasks: Annotated[int | None, typer.Option(min=1, help="End after so many attempts.")] = None,
    shutdown_timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds for running attempts to end after the first signal.")
    ] = None,
    broker_timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds without the backend before giving up.")
    ] = None,
    lease: Annotated[float | None, typer.Option(min=0, help="Seconds a message is held without renewal.")] = None,
    health: Annotated[
        str | None,
        typer.Option("--health", metavar="[HOST:]PORT", help="Answer /live, /ready, /metrics; see the docs."),
    ] = None,
    ready_file: Annotated[
        str | None, typer.Option("--ready-file", metavar="FILE", help="Keep this file while tasks are taken.")
    ] = None,
    processes: Annotated[int, typer.Option("--processes", min=1, max=256, help="Run so many workers.")] = 1,
    max_rss: Annotated[
        int | None, typer.Option("--max-rss", metavar="MB", min=1, help="End when it has more in memory.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Write JSON lines: one per attempt and per log record.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No line per attempt.")] = False,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
) -> None:
    """Run tasks until stopped.

    The first SIGTERM or SIGINT drains, the second hands everything back at once.
    Exit codes: 0 stopped, 1 failed, 2 wrong usage, 3 wrong configuration, 4 backend not usable, 5 unexpected error.
    """
    given = {
        "app": ",".join(apps) if apps else None,
        "queues": queues,
        "concurrency": concurrency,
        "driver": driver,
        "process_pool_size": process_pool_size,
        "process_pool_max_tasks_per_child": process_pool_max_tasks_per_child,
        "shutdown_timeout_s": shutdown_timeout,
        "broker_timeout_s": broker_timeout,
        "lease_s": lease,
        "health": health,
        "ready_file": ready_file,
    }
    with exit_on_error():
        from asynctasq.cli.processes import child_number, run_processes

        number = child_number()
        if processes > 1 and number is None:
            raise SystemExit(run_processes(processes, burst=burst, log_level=log_level, as_json=json))
        with _without_garbage_collection():
            from asynctasq.cli.worker import Output, run_worker

        run_worker(
            {name: value for name, value in given.items() if value is not None},
            output=Output(json=json, quiet=quiet, log_level=log_level),
            burst=burst,
            max_tasks=max_tasks,
            max_rss_mb=max_rss,
            child=number,
            folders=tuple(context.obj or ()),  # set by programs that call this command
        )
