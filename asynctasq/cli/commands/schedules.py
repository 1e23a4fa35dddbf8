"""`asynctasq schedules`: its commands and their options."""

from typing import Annotated

import typer

from asynctasq.cli.app import App, AsJson, DriverName, given
from asynctasq.cli.exit_codes import exit_on_error

__all__ = ["app"]

ScheduleName = Annotated[str, typer.Argument(metavar="NAME", help="A name that `schedules list` shows.")]

app = typer.Typer()
schedules = typer.Typer(help="Show, run and pause schedules.", no_args_is_help=True)
app.add_typer(schedules, name="schedules")


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
