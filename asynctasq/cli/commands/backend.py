"""`asynctasq demo`, `migrate`, `bench` and `config`: setting a backend up, and trying it."""

from typing import Annotated

import typer

from asynctasq.cli.app import AsJson, DriverName, given
from asynctasq.cli.exit_codes import exit_on_error

__all__ = ["app"]

app = typer.Typer()
config = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
app.add_typer(config, name="config")


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


@app.command()
def bench(
    tasks: Annotated[
        int, typer.Option("--tasks", "-n", min=1, max=1_000_000, help="How many to store and run.")
    ] = 2000,
    driver: DriverName = None,
    json: AsJson = False,
) -> None:
    """Measure how fast the backend stores and runs tasks that do nothing, in a queue of its own."""
    with exit_on_error():
        from asynctasq.cli.bench import run_bench

        run_bench(given(None, driver), tasks=tasks, as_json=json)


@config.command("show")
def show_config(driver: DriverName = None, json: AsJson = False) -> None:
    """Show every setting, its value without secrets, and where that comes from."""
    with exit_on_error():
        from asynctasq.cli.config import show_config as show

        show(given(None, driver), as_json=json)
