"""`asynctasq queues`, `pause` and `resume`: how many messages each queue has, and whether workers take them."""

import random
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import timedelta
from typing import Any

from asynctasq.cli.operating import say, say_json, say_table, with_operator
from asynctasq.config import Settings
from asynctasq.core.queue_operator import QueueOperator
from asynctasq.core.queue_order import parse_queues
from asynctasq.kernel.messages import Depth

__all__ = ["list_queues", "pause_queues", "resume_queues"]

COLUMNS = ("queue", "ready", "scheduled", "reserved", "dead", "oldest", "paused")


def list_queues(given: Mapping[str, Any], *, own: bool, as_json: bool) -> None:
    """Write a line for each queue that holds a message or is configured, or one JSON array.

    Raises: ConfigError, DriverError.
    """

    async def read(operator: QueueOperator, settings: Settings) -> tuple[dict[str, Depth], AbstractSet[str]]:
        paused = await operator.paused()
        names = parse_queues(settings.queues, random.Random()).names
        return await operator.depths([*names, *paused], own=own), paused

    found, paused = with_operator(given, read)
    if as_json:
        say_json([_as_json(name, depth, paused=name in paused) for name, depth in found.items()])
    elif found:
        say_table(COLUMNS, [_row(name, depth, paused=name in paused) for name, depth in found.items()])
    else:
        say("no queue holds a message")


def pause_queues(given: Mapping[str, Any], names: Sequence[str], *, as_json: bool) -> None:
    """Let workers take no more messages of queues.

    Raises: ConfigError, InvalidQueueName, DriverError.
    """
    changed = with_operator(given, lambda operator, _: operator.pause(names))
    _say_changes(names, changed, "paused", "was paused already", as_json=as_json)


def resume_queues(given: Mapping[str, Any], names: Sequence[str], *, as_json: bool) -> None:
    """Let workers take messages of queues again.

    Raises: ConfigError, InvalidQueueName, DriverError.
    """
    changed = with_operator(given, lambda operator, _: operator.resume(names))
    _say_changes(names, changed, "resumed", "was not paused", as_json=as_json)


def _say_changes(names: Sequence[str], changed: AbstractSet[str], done: str, else_: str, *, as_json: bool) -> None:
    names = list(dict.fromkeys(names))
    if as_json:
        say_json([{"queue": name, done: name in changed} for name in names])
        return
    for name in names:
        say(f"{name}: {done if name in changed else else_}")


def _as_json(name: str, depth: Depth, *, paused: bool) -> dict[str, object]:
    return {
        "queue": name,
        "ready": depth.ready,
        "scheduled": depth.scheduled,
        "reserved": depth.reserved,
        "dead": depth.dead,
        "oldest_age_s": depth.oldest_age_s,
        "paused": paused,
    }


def _row(name: str, depth: Depth, *, paused: bool) -> tuple[str, ...]:
    counts = (depth.ready, depth.scheduled, depth.reserved, depth.dead)
    oldest = "-" if depth.oldest_age_s is None else str(timedelta(seconds=round(depth.oldest_age_s)))
    return (name, *(f"{count:,}" for count in counts), oldest, "paused" if paused else "-")
