"""`asynctasq demo`: a small mix of tasks on a SQLite queue, watched live, then a table and exit code 0."""

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from asynctasq.cli.demo_tasks import ChargeCard, CountPrimes, DownloadReport, SendReminder, WelcomeUser, WriteLog
from asynctasq.cli.exit_codes import ExitCode
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Driver
from asynctasq.drivers.urls import create_driver, sqlite_url
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.texts import printable
from asynctasq.queue import Queue
from asynctasq.tasks.application import Application
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.definition import definition_of
from asynctasq.utils.loop import run

__all__ = ["run_demo"]

REFRESHES_PER_SECOND = 10
SECONDS_MAX = 60.0
REMINDER_DELAY_S = 1.5
STATES = {"complete": "[green]completed", "retry": "[yellow]waits for retry", "bury: failed": "[red]dead letter"}


@dataclass(slots=True)
class _Row:
    task: str
    mode: str
    expected: str
    attempts_expected: int
    note: str
    state: str = "waiting"
    attempts: int = 0
    took_s: float = 0.0


@dataclass(slots=True)
class _TaskTable:
    """The state of each message, as a table; a ledger sink."""

    rows: dict[str, _Row] = field(default_factory=dict[str, _Row])
    dispatched_at: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, entry: Entry) -> None:
        row = self.rows.get(entry.message_id)
        if row is None:
            return
        if entry.kind is Kind.STARTED:
            row.state, row.attempts = "running", entry.attempt
        elif entry.kind is Kind.SETTLED:
            row.state, row.took_s = entry.detail, entry.at - self.dispatched_at
        self.changed.set()

    @property
    def settled(self) -> bool:
        return all(row.state in ("complete", "bury: failed") for row in self.rows.values())

    @property
    def as_expected(self) -> bool:
        return all(row.state == row.expected and row.attempts == row.attempts_expected for row in self.rows.values())

    def table(self, title: str) -> Table:
        table = Table(title=title, title_justify="left")
        for column in ("task", "runs in", "what it shows", "attempts", "state", "after"):
            table.add_column(column, justify="right" if column in ("attempts", "after") else "left")
        for row in self.rows.values():
            state = STATES.get(row.state, f"[dim]{row.state}")
            took = f"{row.took_s:.2f} s" if row.took_s else ""
            table.add_row(row.task, row.mode, row.note, str(row.attempts or ""), state, took)
        return table


def run_demo(keep: str | None = None) -> None:
    """Run the demo; raise SystemExit(1) if a task did not end as it should."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="asynctasq-demo-") as folder:
        path = Path(keep) if keep else Path(folder) / "queue.db"
        task_table = run(_demo(create_driver(sqlite_url(path)), console))
    if not task_table.as_expected:
        console.print("[red]a task did not end as it should have")
        raise SystemExit(int(ExitCode.FAILED))


async def _demo(driver: Driver, console: Console) -> _TaskTable:
    task_table = _TaskTable()
    runtime = ProductionRuntime(record=task_table)
    application = Application(("asynctasq.cli.demo_tasks",))
    worker = Worker(
        driver,
        process_pool_size=1,
        settings=WorkerSettings(application=application, handle_signals=False, schedules=()),
        runtime=runtime,
    )
    place = printable(str(driver))
    console.print(f"asynctasq demo on {place}: no server, one worker, four ways to run a task\n", markup=False)
    task_table.dispatched_at = runtime.clock.now()
    await _dispatch(Queue(driver), task_table)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(worker.start())
        await _show(task_table, console)
        worker.stop()
        await running
    depth = await driver.depth("default")
    console.print(f"\nin the queue now: {depth.ready} ready, {depth.scheduled} scheduled, {depth.dead} dead letter")
    return task_table


async def _dispatch(queue: Queue, task_table: _TaskTable) -> None:
    plan: list[tuple[BaseTask[object], str, int, str]] = [
        (WelcomeUser("Ada"), "complete", 1, "success"),
        (WelcomeUser("Grace"), "complete", 1, "success"),
        (WriteLog(), "complete", 1, "blocking code"),
        (DownloadReport(), "complete", 2, "retry, then success"),
        (ChargeCard(), "bury: failed", 2, "permanent failure"),
        (SendReminder().delay(REMINDER_DELAY_S), "complete", 1, f"delay of {REMINDER_DELAY_S} s"),
        (CountPrimes(20_000), "complete", 1, "heavy code"),
    ]
    ids = await queue.dispatch([task for task, *_ in plan])
    for message_id, (task, expected, attempts, note) in zip(ids, plan, strict=True):
        mode = definition_of(type(task)).mode.value
        task_table.rows[message_id] = _Row(type(task).__name__, mode, expected, attempts, note)


async def _show(task_table: _TaskTable, console: Console) -> None:
    """Keep the table up to date until every task has ended."""
    with Live(
        task_table.table("running"), console=console, refresh_per_second=REFRESHES_PER_SECOND, transient=True
    ) as live:
        async with asyncio.timeout(SECONDS_MAX):
            while not task_table.settled:
                await task_table.changed.wait()
                task_table.changed.clear()
                live.update(task_table.table("running"))
    console.print(task_table.table("done"))
