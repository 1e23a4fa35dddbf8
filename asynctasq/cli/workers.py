"""`asynctasq workers`: which workers there are, and what they run."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from asynctasq.cli.operating import say, say_json, say_table, with_operator
from asynctasq.config import Settings
from asynctasq.core.queue_operator import QueueOperator
from asynctasq.core.worker_register import WorkerEntry
from asynctasq.tasks.task_status import TaskStatus

__all__ = ["list_workers"]

COLUMNS = ("worker", "state", "seen", "started", "version", "running", "queues", "tasks")


def list_workers(given: Mapping[str, Any], *, as_json: bool) -> None:
    """Write a line for each worker, or one JSON array.

    Raises: ConfigError, DriverError.
    """

    async def read(operator: QueueOperator, _: Settings) -> tuple[list[WorkerEntry], list[TaskStatus]]:
        return await operator.workers(), await operator.running()

    entries, running = with_operator(given, read)
    tasks: dict[str, list[TaskStatus]] = defaultdict(list)
    for each in running:
        tasks[each.worker or ""].append(each)
    if as_json:
        say_json([_as_json(entry, tasks[entry.name]) for entry in entries])
    elif entries:
        now = datetime.now(UTC)
        say_table(COLUMNS, [_row(entry, tasks[entry.name], now) for entry in entries])
    else:
        say("no worker has entered itself; those that `asynctasq worker` runs do")


def _as_json(entry: WorkerEntry, running: Sequence[TaskStatus]) -> dict[str, object]:
    return {
        "worker": entry.name,
        "alive": entry.alive,
        "last_seen_at": _instant(entry.last_seen_at).isoformat(),
        "started_at": _instant(entry.started_at).isoformat(),
        "host": entry.host,
        "pid": entry.pid,
        "version": entry.version,
        "queues": list(entry.queues),
        "concurrency": entry.concurrency,
        "running": [
            {
                "id": task.id,
                "task": task.task,
                "queue": task.queue,
                "started_at": task.started_at.isoformat() if task.started_at else None,
            }
            for task in running
        ],
    }


def _row(entry: WorkerEntry, running: Sequence[TaskStatus], now: datetime) -> tuple[str, ...]:
    return (
        entry.name or entry.id,
        "alive" if entry.alive else "gone",
        _ago(now - _instant(entry.last_seen_at)),
        _ago(now - _instant(entry.started_at)),
        entry.version,
        f"{len(running)}/{entry.concurrency}",
        ", ".join(entry.queues),
        ", ".join(task.task for task in running) or "-",
    )


def _instant(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # what no worker has written
        return datetime.fromtimestamp(0, UTC)


def _ago(age: timedelta) -> str:
    return f"{timedelta(seconds=max(0, round(age.total_seconds())))} ago"
