"""What the commands of an operator share: the driver they act on, and how they show what they found."""

import json
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from shutil import get_terminal_size
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asynctasq.cli.application import prepare_application
from asynctasq.clock import SystemClock
from asynctasq.codec.limits import Limits
from asynctasq.config import Settings
from asynctasq.core.queue_operator import QueueOperator
from asynctasq.errors import UnsupportedFeature
from asynctasq.kernel.texts import printable
from asynctasq.utils.loop import run

__all__ = ["say", "say_json", "say_table", "with_operator"]

T = TypeVar("T")

UNBOUNDED = 100_000
"""The width of what is written to no terminal: nothing is wrapped or cut."""
GAP = 2
LAST_COLUMN_MIN = 20
"""How much of the last column must fit into a table."""
SQS_HINT = (
    "On Amazon SQS the console shows how many messages a queue has, polls some of them to look at, purges a queue, and "
    "starts the redrive of its dead-letter queue; to pause one, take sqs:ReceiveMessage from its workers' role"
)


def with_operator(given: Mapping[str, Any], use: Callable[[QueueOperator, Settings], Coroutine[Any, Any, T]]) -> T:
    """Return what `use` returns, called with the queues of the configured driver, which is open meanwhile.

    Raises: ConfigError, DriverError.
    """
    prepared = prepare_application(given)
    settings = prepared.settings
    driver = prepared.setup.driver(settings.driver)

    async def with_driver() -> T:
        try:
            limits = Limits(body_bytes_max=settings.body_bytes_max)
            operator = QueueOperator(driver, limits=limits, clock=SystemClock())
            await driver.open()
            return await use(operator, settings)
        except UnsupportedFeature as error:
            if settings.driver.partition(":")[0] == "sqs":
                raise UnsupportedFeature(f"{error}. {SQS_HINT}") from error
            raise
        finally:
            await driver.close()

    return run(with_driver())


def say(text: str) -> None:
    """Write a line to standard output."""
    sys.stdout.write(f"{text}\n")


def say_json(value: object) -> None:
    """Write one line of JSON to standard output."""
    say(json.dumps(value))


def say_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table; on a terminal that is too narrow for it, one line for each value instead."""
    rows = [[printable(text) for text in row] for row in rows]
    width = get_terminal_size().columns if sys.stdout.isatty() else UNBOUNDED
    widest = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    if sum(widest[:-1]) + GAP * len(widest[:-1]) + min(widest[-1], LAST_COLUMN_MIN) > width:
        for row in rows:
            say("\n".join(f"{name:<10} {text}" for name, text in zip(columns, row, strict=True)) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        say(line.rstrip())
