"""What the tests of the SQLite driver share."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from asynctasq.drivers.sql.steps import run_steps
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.drivers.sqlite_driver.schema import Row, Step, Steps
from asynctasq.kernel.messages import Lease, Message

FAR_S = 3600.0


def run_plain(steps: Steps[Any], execute: Callable[[str, Any], Iterable[Row]]) -> Any:
    """Run an operation through a plain `execute(sql, params)` that returns rows."""

    def execute_step(step: Step) -> list[Row]:
        if not step.many:
            return list(execute(step.sql, step.params))
        for params in step.params:
            execute(step.sql, params)
        return []

    return run_steps(steps, execute_step)


def message(number: int, *, queue: str = "mail", delay_s: float = 0.0, body: bytes = b"x") -> Message:
    return Message(id=f"m{number}", queue=queue, body=body, delay_s=delay_s)


async def reserve(driver: SQLiteDriver, limit: int = 100, *, wait_s: float = 0) -> list[Lease]:
    return await driver.reserve(["mail"], limit=limit, lease_s=30, wait_s=wait_s)


@contextmanager
def write_lock(path: Path) -> Iterator[sqlite3.Connection]:
    """Hold the write lock of the file, as another process would."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other
        if other.in_transaction:
            other.execute("ROLLBACK")


def connection_of(driver: SQLiteDriver) -> sqlite3.Connection:
    session = driver._sessions.get_if_open()
    assert session is not None
    connection = session._main._connection
    assert connection is not None
    return connection
