"""The commands and their options; what they do is in one file per command."""

from typing import Annotated

import typer

from asynctasq.cli.exit_codes import exit_on_error

__all__ = ["AsJson", "DriverName", "app", "given"]

app = typer.Typer(
    name="asynctasq",
    help="A task queue that people can test.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

App = Annotated[
    list[str] | None,
    typer.Option("--app", "-A", metavar="MODULE", help="Module that defines tasks; repeat or separate by commas."),
]
DriverName = Annotated[
    str | None, typer.Option("--driver", metavar="NAME|URL", help="sqlite, redis, postgres, mysql, sqs, or a URL.")
]


AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]
ScheduleName = Annotated[str, typer.Argument(metavar="NAME", help="A name that `schedules list` shows.")]

schedules = typer.Typer(help="Show, run and pause schedules.", no_args_is_help=True)
app.add_typer(schedules, name="schedules")


def _version(wanted: bool) -> None:
    if wanted:
        from asynctasq import __version__

        typer.echo(f"asynctasq {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A task queue that people can test."""


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
        str | None, typer.Option("--health", metavar="[HOST:]PORT", help="Answer /live and /ready there; see the docs.")
    ] = None,
    ready_file: Annotated[
        str | None, typer.Option("--ready-file", metavar="FILE", help="Keep this file while tasks are taken.")
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
        from asynctasq.cli.worker import Output, run_worker

        run_worker(
            {name: value for name, value in given.items() if value is not None},
            output=Output(json=json, quiet=quiet, log_level=log_level),
            burst=burst,
            max_tasks=max_tasks,
            folders=tuple(context.obj or ()),  # set by programs that call this command
        )


@app.command()
def demo(
    keep: Annotated[str | None, typer.Option("--keep", metavar="FILE", help="Keep the queue in this file.")] = None,
) -> None:
    """Dispatch a small mix of tasks, run them, and show what became of each."""
    with exit_on_error():
        from asynctasq.cli.demo import run_demo

        run_demo(keep)


@app.command()
def migrate(
    driver: DriverName = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 if a migration is missing.")] = False,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the statements of all migrations; connect to nothing.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be applied, and apply nothing.")] = False,
) -> None:
    """Bring the schema of a PostgreSQL or MySQL database up to date; safe to repeat."""
    with exit_on_error():
        from asynctasq.cli.migrate import run_migrate

        run_migrate(driver, check=check, sql=sql, dry_run=dry_run)


def given(apps: list[str] | None, driver: str | None) -> dict[str, str]:
    """Return the settings that options give."""
    values = {"app": ",".join(apps) if apps else None, "driver": driver}
    return {name: value for name, value in values.items() if value is not None}


@schedules.command("list")
def list_schedules(apps: App = None, driver: DriverName = None, json: AsJson = False) -> None:
    """Show every schedule: task, expression, time zone, next and last tick, and whether it is paused."""
    with exit_on_error():
        from asynctasq.cli import schedules as commands

        commands.list_schedules(given(apps, driver), as_json=json)


@schedules.command("next")
def show_next(
    name: ScheduleName,
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=1000, help="How many.")] = 5,
    apps: App = None,
    driver: DriverName = None,
    json: AsJson = False,
) -> None:
    """Show when a schedule ticks next."""
    with exit_on_error():
        from asynctasq.cli import schedules as commands

        commands.show_next(given(apps, driver), name, count, as_json=json)


@schedules.command("run")
def run_schedule(name: ScheduleName, apps: App = None, driver: DriverName = None, json: AsJson = False) -> None:
    """Dispatch the task of a schedule once, now; its ticks stay as they are."""
    with exit_on_error():
        from asynctasq.cli import schedules as commands

        commands.run_schedule(given(apps, driver), name, as_json=json)


@schedules.command("pause")
def pause_schedule(name: ScheduleName, apps: App = None, driver: DriverName = None, json: AsJson = False) -> None:
    """Let the ticks of a schedule pass by, until it is resumed; deploys change nothing about that."""
    with exit_on_error():
        from asynctasq.cli import schedules as commands

        commands.pause_schedule(given(apps, driver), name, as_json=json)


@schedules.command("resume")
def resume_schedule(name: ScheduleName, apps: App = None, driver: DriverName = None, json: AsJson = False) -> None:
    """Let a paused schedule run again, from its next tick on."""
    with exit_on_error():
        from asynctasq.cli import schedules as commands

        commands.resume_schedule(given(apps, driver), name, as_json=json)
