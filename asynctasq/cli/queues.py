"""`asynctasq queues`: how many messages each queue has, by state."""

import random
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from asynctasq.cli.operating import say, say_json, say_table, with_operator
from asynctasq.config import Settings
from asynctasq.core.queue_operator import QueueOperator
from asynctasq.core.queue_order import parse_queues
from asynctasq.kernel.messages import Depth

__all__ = ["list_queues"]

COLUMNS = ("queue", "ready", "scheduled", "reserved", "dead", "oldest")


def list_queues(given: Mapping[str, Any], *, own: bool, as_json: bool) -> None:
    """Write a line for each queue that holds a message or is configured, or one JSON array.

    Raises: ConfigError, DriverError.
    """

    async def depths(operator: QueueOperator, settings: Settings) -> dict[str, Depth]:
        return await operator.depths(parse_queues(settings.queues, random.Random()).names, own=own)

    found = with_operator(given, depths)
    if as_json:
        say_json([_as_json(name, depth) for name, depth in found.items()])
    elif found:
        say_table(COLUMNS, [_row(name, depth) for name, depth in found.items()])
    else:
        say("no queue holds a message")


def _as_json(name: str, depth: Depth) -> dict[str, object]:
    return {
        "queue": name,
        "ready": depth.ready,
        "scheduled": depth.scheduled,
        "reserved": depth.reserved,
        "dead": depth.dead,
        "oldest_age_s": depth.oldest_age_s,
    }


def _row(name: str, depth: Depth) -> tuple[str, ...]:
    counts = (depth.ready, depth.scheduled, depth.reserved, depth.dead)
    oldest = "-" if depth.oldest_age_s is None else str(timedelta(seconds=round(depth.oldest_age_s)))
    return (name, *(f"{count:,}" for count in counts), oldest)
