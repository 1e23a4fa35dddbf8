"""`asynctasq queues`, `workers`, `pause`, `resume`, `tasks` and `dead`: their commands and options."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from asynctasq.cli.app import AsJson, DriverName, given
from asynctasq.cli.exit_codes import exit_on_error
from asynctasq.kernel.messages import State

if TYPE_CHECKING:
    from asynctasq.core.queue_operator import TaskFilter

__all__ = ["app"]

app = typer.Typer()
tasks = typer.Typer(help="Look at the messages of queues, and cancel or discard some.", no_args_is_help=True)
dead = typer.Typer(help="Look at dead letters, make them ready again, or remove them.", no_args_is_help=True)
app.add_typer(tasks, name="tasks")
app.add_typer(dead, name="dead")

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def _age(text: str) -> float:
    """Return the seconds that an age such as `90`, `15m` or `7d` means."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no age; write a number and s, m, h, d or w, such as 15m")
    return float(match[1]) * SECONDS[match[2] or "s"]


def _argument(text: str) -> str:
    if not text.partition("=")[0] or "=" not in text:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE")
    return text


TaskIds = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of tasks.")]
QueueNames = Annotated[list[str], typer.Argument(metavar="QUEUE...", help="Names of queues.")]
QueueName = Annotated[str | None, typer.Option("--queue", "-q", help="Only this queue.")]
TaskName = Annotated[str | None, typer.Option("--task", "-t", help="Only this task: module:name, or its name alone.")]
Age = Annotated[
    float | None, typer.Option("--older-than", metavar="AGE", parser=_age, help="Dispatched before: 90s, 15m, 2h, 7d.")
]
Arguments = Annotated[
    list[str] | None,
    typer.Option("--argument", metavar="NAME=VALUE", parser=_argument, help="Only with this argument."),
]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many to show.")]
Cursor = Annotated[str | None, typer.Option("--cursor", help="Go on where the page before ended.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say how many it would be, and change nothing.")]


def _filter(
    queue: str | None, task: str | None, age: float | None, arguments: list[str] | None, state: State | None
) -> "TaskFilter":
    from asynctasq.core.queue_operator import TaskFilter

    pairs = [text.partition("=") for text in arguments or ()]
    texts = {name: value for name, _, value in pairs}
    return TaskFilter(queue=queue, task=task, state=state, older_than_s=age, arguments=texts)


@app.command()
def queues(
    own: Annotated[bool, typer.Option("--own", help="Also those that asynctasq keeps for itself.")] = False,
    driver: DriverName = None,
    json: AsJson = False,
) -> None:
    """Show how many messages each queue has, by state, and how long the first in line has waited."""
    with exit_on_error():
        from asynctasq.cli.queues import list_queues

        list_queues(given(None, driver), own=own, as_json=json)


@app.command()
def workers(driver: DriverName = None, json: AsJson = False) -> None:
    """Show which workers there are, when they gave the last sign of life, and what they run."""
    with exit_on_error():
        from asynctasq.cli.workers import list_workers

        list_workers(given(None, driver), as_json=json)


@app.command()
def pause(queues: QueueNames, driver: DriverName = None, json: AsJson = False) -> None:
    """Let workers take no more messages of queues, until they are resumed; what runs goes on."""
    with exit_on_error():
        from asynctasq.cli.queues import pause_queues

        pause_queues(given(None, driver), queues, as_json=json)


@app.command()
def resume(queues: QueueNames, driver: DriverName = None, json: AsJson = False) -> None:
    """Let workers take messages of paused queues again."""
    with exit_on_error():
        from asynctasq.cli.queues import resume_queues

        resume_queues(given(None, driver), queues, as_json=json)


@tasks.command("list")
def list_tasks(  # noqa: PLR0913, PLR0917 - one parameter per option
    queue: QueueName = None,
    task: TaskName = None,
    state: Annotated[
        State | None, typer.Option("--state", "-s", help="Only in this state.", case_sensitive=False)
    ] = None,
    older_than: Age = None,
    argument: Arguments = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    driver: DriverName = None,
    json: AsJson = False,
) -> None:
    """Show messages, oldest first, page by page."""
    with exit_on_error():
        from asynctasq.cli import tasks as commands

        wanted = _filter(queue, task, older_than, argument, state)
        commands.list_tasks(given(None, driver), wanted, limit=limit, cursor=cursor, as_json=json)


@tasks.command("show")
@dead.command("show")
def show_task(
    task_id: Annotated[str, typer.Argument(metavar="ID")], driver: DriverName = None, json: AsJson = False
) -> None:
    """Show all that is known of one message, its arguments and its last error included."""
    with exit_on_error():
        from asynctasq.cli import tasks as commands

        commands.show_task(given(None, driver), task_id, as_json=json)


@tasks.command("cancel")
def cancel_tasks(task_ids: TaskIds, driver: DriverName = None, json: AsJson = False) -> None:
    """Cancel tasks: those that wait are removed, those that run are ended by their workers."""
    with exit_on_error():
        from asynctasq.cli import tasks as commands

        commands.cancel_tasks(given(None, driver), task_ids, as_json=json)


@tasks.command("retry")
def retry_tasks(task_ids: TaskIds, driver: DriverName = None, json: AsJson = False) -> None:
    """Make dead letters ready again by id; they begin anew."""
    with exit_on_error():
        from asynctasq.cli import tasks as commands

        commands.retry_tasks(given(None, driver), task_ids, as_json=json)


@tasks.command("discard")
def discard_tasks(task_ids: TaskIds, driver: DriverName = None, json: AsJson = False) -> None:
    """Remove dead letters by id, for good."""
    with exit_on_error():
        from asynctasq.cli import tasks as commands

        commands.discard_tasks(given(None, driver), task_ids, as_json=json)


@dead.command("list")
def list_dead(  # noqa: PLR0913, PLR0917 - one parameter per option
    queue: QueueName = None,
    task: TaskName = None,
    older_than: Age = None,
    argument: Arguments = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    driver: DriverName = None,
    json: AsJson = False,
) -> None:
    """Show dead letters, oldest first, page by page."""
    with exit_on_error():
        from asynctasq.cli import tasks as commands

        wanted = _filter(queue, task, older_than, argument, State.DEAD)
        commands.list_tasks(given(None, driver), wanted, limit=limit, cursor=cursor, as_json=json)


@dead.command("redrive")
def redrive_dead(
    queue: Annotated[str, typer.Argument(metavar="QUEUE")],
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="At most so many.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", min=0.01, help="At most so many a second.")] = None,
    dry_run: DryRun = False,
    driver: DriverName = None,
    json: AsJson = False,
) -> None:
    """Make the dead letters of a queue ready again, the oldest death first; they begin anew."""
    with exit_on_error():
        from asynctasq.cli import tasks as commands

        commands.redrive_dead(given(None, driver), queue, limit=limit, rate=rate, dry_run=dry_run, as_json=json)


@dead.command("purge")
def purge_dead(  # noqa: PLR0913, PLR0917 - one parameter per option
    queue: QueueName = None,
    task: TaskName = None,
    older_than: Age = None,
    argument: Arguments = None,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    driver: DriverName = None,
    json: AsJson = False,
) -> None:
    """Remove dead letters for good: those that all options fit."""
    with exit_on_error():
        from asynctasq.cli import tasks as commands

        wanted = _filter(queue, task, older_than, argument, State.DEAD)
        commands.purge_dead(given(None, driver), wanted, dry_run=dry_run, yes=yes, as_json=json)
