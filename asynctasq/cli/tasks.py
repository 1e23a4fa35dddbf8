"""`asynctasq tasks` and `asynctasq dead`: looks at messages and removes some, makes dead letters ready again."""

import sys
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress, TextColumn

from asynctasq.cli.exit_codes import ExitCode
from asynctasq.cli.operating import say, say_json, say_table, with_operator
from asynctasq.config import Settings
from asynctasq.core.queue_operator import QueueOperator, ShownTask, TaskFilter, TaskPage
from asynctasq.errors import ConfigError, DriverUnavailable, InvalidQueueName
from asynctasq.kernel.messages import ErrorRecord, State
from asynctasq.kernel.texts import printable, printable_lines

__all__ = ["cancel_tasks", "discard_tasks", "list_tasks", "purge_dead", "redrive_dead", "retry_tasks", "show_task"]

COLUMNS = ("id", "task", "queue", "state", "attempts", "since", "error")
WAITING = (State.SCHEDULED, State.READY, State.RESERVED)


def list_tasks(given: Mapping[str, Any], wanted: TaskFilter, *, limit: int, cursor: str | None, as_json: bool) -> None:
    """Write a line for each message that is meant, oldest first, or one JSON object with a cursor for the next page.

    Raises: ConfigError, DriverError.
    """

    async def search(operator: QueueOperator, _: Settings) -> TaskPage:
        try:
            return await operator.search(wanted, limit=limit, cursor=cursor)
        except InvalidQueueName:
            raise
        except ValueError as error:
            raise ConfigError(f"{cursor!r} is no cursor that a page has ended with: {error}") from error

    page = with_operator(given, search)
    if as_json:
        say_json({"tasks": [as_json_object(task) for task in page.tasks], "cursor": page.cursor})
        return
    if not page.tasks:
        say("no message is like that")
        return
    say_table(COLUMNS, [_row(task) for task in page.tasks])
    if page.cursor is not None:
        say(f"there are more: repeat it with --cursor '{page.cursor}'")


def show_task(given: Mapping[str, Any], task_id: str, *, as_json: bool) -> None:
    """Write all that is known of one message.

    Raises: TaskNotFoundError, ConfigError, DriverError.
    """
    task = with_operator(given, lambda operator, _: operator.show(task_id))
    if as_json:
        say_json(as_json_object(task))
        return
    for name, value in as_json_object(task).items():
        if name == "arguments":
            for argument, text in (task.arguments or {}).items():
                say(f"{'argument ' + printable(argument):<22} {printable(text)}")
        elif name == "error":
            _say_error(task.status.error)
        elif value not in (None, ""):
            say(f"{name:<22} {printable(str(value))}")


def cancel_tasks(given: Mapping[str, Any], task_ids: Sequence[str], *, as_json: bool) -> None:
    """Cancel messages by id; exit 1 if one of them was left alone.

    Raises: ConfigError, DriverError.
    """
    removed = with_operator(given, lambda operator, _: operator.cancel(task_ids))
    _say_done(task_ids, removed, "cancelled", "it has ended, is dead or is not there", as_json=as_json)


def retry_tasks(given: Mapping[str, Any], task_ids: Sequence[str], *, as_json: bool) -> None:
    """Make dead letters ready by id; exit 1 if one of the messages was left alone.

    Raises: ConfigError, DriverError.
    """
    redriven = with_operator(given, lambda operator, _: operator.retry(task_ids))
    _say_done(task_ids, redriven, "redriven", "it is no dead letter", as_json=as_json)


def discard_tasks(given: Mapping[str, Any], task_ids: Sequence[str], *, as_json: bool) -> None:
    """Discard dead letters by id; exit 1 if one of the messages was left alone.

    Raises: ConfigError, DriverError.
    """
    removed = with_operator(given, lambda operator, _: operator.discard(task_ids))
    _say_done(task_ids, removed, "discarded", "it is no dead letter", as_json=as_json)


def _say_done(task_ids: Sequence[str], meant: AbstractSet[str], done: str, why: str, *, as_json: bool) -> None:
    left = [task_id for task_id in task_ids if task_id not in meant]
    if as_json:
        say_json({done: sorted(meant), "left": left})
    else:
        for task_id in task_ids:
            say(f"{printable(task_id)}: {done if task_id in meant else f'left alone: {why}'}")
    if left:
        raise SystemExit(int(ExitCode.FAILED))


def counted(what: str, act: Callable[[Callable[[int], None]], int]) -> int:
    """Return what `act` returns, and show meanwhile on a terminal the count that it tells.

    Raises: DriverUnavailable, which says how far it came, and what else `act` raises.
    """
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed:,}"))
    console = Console(stderr=True)
    count = 0
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        shown = progress.add_task(what)

        def tell(so_far: int) -> None:
            nonlocal count
            count = so_far
            progress.update(shown, completed=so_far)

        try:
            return act(tell)
        except DriverUnavailable as error:
            raise DriverUnavailable(f"{error} ({count:,} are {what}; run it again for the rest)") from error


def redrive_dead(
    given: Mapping[str, Any], queue: str, *, limit: int | None, rate: float | None, dry_run: bool, as_json: bool
) -> None:
    """Make the dead letters of a queue ready again, the oldest death first.

    Raises: ConfigError, DriverError.
    """

    async def dead(operator: QueueOperator, _: Settings) -> int:
        depth = (await operator.depths([queue], own=True))[queue]
        return depth.dead if limit is None else min(limit, depth.dead)

    if dry_run:
        _say_count(with_operator(given, dead), queue, "would be ready again", as_json=as_json)
        return

    def redrive(tell: Callable[[int], None]) -> int:
        return with_operator(
            given, lambda operator, _: operator.redrive(queue, limit=limit, rate=rate, on_progress=tell)
        )

    _say_count(counted("redriven", redrive), queue, "ready again", as_json=as_json)


def purge_dead(given: Mapping[str, Any], wanted: TaskFilter, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove the dead letters that are meant, for good; asks first.

    Raises: ConfigError, DriverError.
    """
    where = wanted.queue or "all queues"
    if dry_run or not yes:
        meant = with_operator(given, lambda operator, _: operator.count(wanted))
        if dry_run:
            _say_count(meant, where, "would be removed", as_json=as_json)
            return
        if not _confirmed(f"Remove {meant:,} dead letters of {where} for good?"):
            say("nothing was removed")
            raise SystemExit(int(ExitCode.FAILED))

    def purge(tell: Callable[[int], None]) -> int:
        return with_operator(given, lambda operator, _: operator.discard_all(wanted, tell))

    _say_count(counted("removed", purge), where, "removed", as_json=as_json)


def _confirmed(question: str) -> bool:
    """Ask on standard error; no answer means no."""
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        return False


def _say_count(count: int, queue: str, what: str, *, as_json: bool) -> None:
    if as_json:
        say_json({"queue": queue, "count": count, "what": what})
    else:
        say(f"{count:,} dead letters of {printable(queue)}: {what}")


def as_json_object(task: ShownTask) -> dict[str, object]:
    """Return a message as the object that docs/reference/cli.md describes."""
    status = task.status
    return {
        "id": status.id,
        "task": status.task,
        "queue": status.queue,
        "state": status.state.value,
        "attempts": status.attempts,
        "max_attempts": status.max_attempts,
        "crashes": status.crashes,
        "enqueued_at": _instant(status.enqueued_at),
        "due_at": _instant(status.due_at),
        "started_at": _instant(status.started_at),
        "worker": status.worker,
        "progress": None if status.progress is None else str(status.progress),
        "reason": None if status.reason is None else status.reason.value,
        "arguments": None if task.arguments is None else dict(task.arguments),
        "error": _error_object(status.error),
        "size": task.size,
        "unreadable": task.unreadable,
    }


def _error_object(error: ErrorRecord | None) -> dict[str, str] | None:
    return None if error is None else {"type": error.type, "message": error.message, "traceback": error.traceback}


def _say_error(error: ErrorRecord | None) -> None:
    if error is not None:
        say(f"{'error':<22} {printable(error.type)}: {printable(error.message)}")
        if error.traceback:
            say(f"    {printable_lines(error.traceback)}")


def _row(task: ShownTask) -> tuple[str, ...]:
    status, error = task.status, task.status.error
    attempts = str(status.attempts) if status.max_attempts is None else f"{status.attempts} of {status.max_attempts}"
    since = status.started_at or status.due_at or status.enqueued_at
    state = status.state.value if status.reason is None else f"{status.state.value}: {status.reason.value}"
    said = task.unreadable or ("" if error is None else f"{error.type}: {error.message}".partition("\n")[0])
    shown_at = "-" if since is None else since.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return (status.id, status.task or "?", status.queue, state, attempts, shown_at, printable(said, 80) or "-")


def _instant(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
