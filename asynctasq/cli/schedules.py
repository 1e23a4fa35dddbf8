"""`asynctasq schedules`: shows the schedules in the store, runs, pauses and resumes them."""

import json
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import uuid4
from zoneinfo import ZoneInfo

from asynctasq.cli.application import prepare_application
from asynctasq.codec.limits import Limits
from asynctasq.core.schedule_messages import ScheduleMessages, configured_schedules, definitions_of, scheduled_tasks
from asynctasq.core.schedule_operator import ScheduleOperator, ScheduleView
from asynctasq.kernel.schedule import CronRule
from asynctasq.kernel.texts import printable
from asynctasq.utils.loop import run

__all__ = ["list_schedules", "pause_schedule", "resume_schedule", "run_schedule", "show_next"]

T = TypeVar("T")

COLUMNS = ("name", "task", "schedule", "zone", "next", "last", "state")


def list_schedules(given: Mapping[str, Any], *, as_json: bool) -> None:
    """Write a line for each schedule, or one JSON array.

    Raises: ConfigError, DriverError.
    """
    views = _with_operator(given, lambda operator: operator.views())
    if as_json:
        _say(json.dumps([_as_json(view) for view in views]))
        return
    if not views:
        _say("no schedules: none in the store, and none in the code given with --app")
        return
    rows = [COLUMNS, *map(_row, views)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        _say("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip())


def show_next(given: Mapping[str, Any], name: str, count: int, *, as_json: bool) -> None:
    """Write the next instants of a schedule, in its time zone.

    Raises: ConfigError, DriverError.
    """
    definition, instants = _with_operator(given, lambda operator: operator.next_ticks(name, count, now=time.time()))
    tz = definition.rule.tz if isinstance(definition.rule, CronRule) else "UTC"
    texts = [_instant(at, tz) for at in instants]
    if as_json:
        _say(json.dumps({"name": name, "next": texts}))
    else:
        for text in texts:
            _say(text)


def run_schedule(given: Mapping[str, Any], name: str, *, as_json: bool) -> None:
    """Dispatch the task of a schedule once, now.

    Raises: ConfigError, DriverError.
    """
    new_id = str(uuid4())
    task_id = _with_operator(given, lambda operator: operator.run(name, new_id, now=time.time()))
    done = "dispatched as" if task_id == new_id else "not dispatched, its unique key is held by"
    _say(json.dumps({"name": name, "task_id": task_id}) if as_json else f"{printable(name)}: {done} {task_id}")


def pause_schedule(given: Mapping[str, Any], name: str, *, as_json: bool) -> None:
    """Pause a schedule; safe to repeat.

    Raises: ConfigError, DriverError.
    """
    changed = _with_operator(given, lambda operator: operator.pause(name))
    text = "paused; its ticks pass by until you resume it" if changed else "was paused already"
    _say(json.dumps({"name": name, "paused": True, "changed": changed}) if as_json else f"{printable(name)}: {text}")


def resume_schedule(given: Mapping[str, Any], name: str, *, as_json: bool) -> None:
    """Resume a paused schedule; safe to repeat.

    Raises: ConfigError, DriverError.
    """
    changed = _with_operator(given, lambda operator: operator.resume(name))
    text = "resumed; it runs again from its next tick on" if changed else "was not paused"
    _say(json.dumps({"name": name, "paused": False, "changed": changed}) if as_json else f"{printable(name)}: {text}")


def _with_operator(given: Mapping[str, Any], use: Callable[[ScheduleOperator], Coroutine[Any, Any, T]]) -> T:
    prepared = prepare_application(given)
    driver = prepared.setup.driver(prepared.settings.driver)
    limits = Limits(body_bytes_max=prepared.settings.body_bytes_max)
    scheduled = [
        *scheduled_tasks(other_processes=True),
        *configured_schedules(prepared.settings.schedules, prepared.application),
    ]
    messages = ScheduleMessages(keys=prepared.setup.queue.factory.keys, limits=limits)
    operator = ScheduleOperator(driver, messages, definitions_of(scheduled, limits))

    async def with_driver() -> T:
        try:
            await driver.open()
            return await use(operator)
        finally:
            await driver.close()

    return run(with_driver())


def _row(view: ScheduleView) -> Sequence[str]:
    state = view.state if view.defined else f"{view.state}, not in this code"
    last = "-" if view.last_at is None else _instant(view.last_at, view.tz)
    following = "-" if view.next_at is None else _instant(view.next_at, view.tz)
    texts = (view.name, view.task or "-", view.rule or "-", view.tz or "-", following, last, state)
    return [printable(text) for text in texts]


def _as_json(view: ScheduleView) -> dict[str, object]:
    shown: dict[str, object] = asdict(view)
    for name, at in (("next_at", view.next_at), ("last_at", view.last_at)):
        shown[name] = None if at is None else _instant(at, view.tz)
    return shown


def _instant(at: float, tz: str) -> str:
    return datetime.fromtimestamp(at, UTC if tz == "UTC" else ZoneInfo(tz)).isoformat()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
