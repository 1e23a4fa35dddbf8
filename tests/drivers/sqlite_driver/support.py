"""What the tests of the SQLite driver share."""

from collections.abc import Callable, Iterable
from typing import Any

from asynctasq.drivers.sql.steps import run_steps
from asynctasq.drivers.sqlite_driver.schema import Row, Step, Steps


def run_plain(steps: Steps[Any], execute: Callable[[str, Any], Iterable[Row]]) -> Any:
    """Run an operation through a plain `execute(sql, params)` that returns rows."""

    def execute_step(step: Step) -> list[Row]:
        if not step.many:
            return list(execute(step.sql, step.params))
        for params in step.params:
            execute(step.sql, params)
        return []

    return run_steps(steps, execute_step)
