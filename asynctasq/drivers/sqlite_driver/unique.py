"""Messages with unique keys as SQLite statements; whether a row holds its key is what the index of keys says."""

from collections.abc import Sequence
from typing import Any

from asynctasq.drivers.base import Enqueued
from asynctasq.drivers.levels import line_of
from asynctasq.drivers.sql.unique import (
    Execute,
    Insert,
    KeepWindow,
    Lock,
    Look,
    Remove,
    Request,
    executed,
    store_unique,
    window_id,
)
from asynctasq.drivers.sqlite_driver.schema import HOLDS_KEY, Step, Steps, instant_after
from asynctasq.kernel.messages import Message

__all__ = ["store_keyed"]

INSERT = """INSERT OR IGNORE INTO asynctasq_message
    (id, queue, visible_us, enqueued_us, body, unique_key, unique_started) VALUES (?, ?, ?, ?, ?, ?, ?)"""
REMOVE = """DELETE FROM asynctasq_message
    WHERE id = ? AND death IS NULL AND (leased = 0 OR visible_us <= ?) RETURNING id"""


def store_keyed(messages: Sequence[Message], now_us: int, *, may_raise: bool) -> Steps[Enqueued]:
    """Store messages of which some have unique keys."""
    return executed(store_unique(messages, may_raise=may_raise), lambda request: _execute(request, now_us))


def _execute(request: Request, now_us: int) -> Steps[Any]:
    match request:
        case Insert(messages):
            return (yield from _insert(messages, now_us))
        case Look(message):
            return (yield from _look(message, now_us))
        case Remove(holder, message):
            removed = yield Step(REMOVE, (holder, now_us))
            if removed and message.unique is not None and message.unique.window_s is not None:
                yield Step("DELETE FROM asynctasq_result WHERE id = ?", (window_id(message.unique),))
            return bool(removed)
        case KeepWindow(message):
            assert message.unique is not None, "it has a window"
            until = instant_after(now_us, message.unique.window_s or 0.0)
            kept = (window_id(message.unique), until, message.id.encode())
            yield Step("INSERT OR REPLACE INTO asynctasq_result VALUES (?, ?, ?)", kept)
        case Execute(sql):
            yield Step(sql)
        case Lock():  # a file has one writer at a time
            pass
    return None


def _insert(messages: Sequence[Message], now_us: int) -> Steps[set[str]]:
    ((last,),) = yield Step("SELECT coalesce(max(arrival), 0) FROM asynctasq_message")
    yield Step(INSERT, [_row(message, now_us) for message in messages], many=True)
    return {found for (found,) in (yield Step("SELECT id FROM asynctasq_message WHERE arrival > ?", (last,)))}


def _row(message: Message, now_us: int) -> tuple[object, ...]:
    unique = message.unique
    held = (None, None) if unique is None or unique.window_s is not None else (unique.key, unique.until == "started")
    return message.id, line_of(message), instant_after(now_us, message.delay_s), now_us, message.body, *held


def _look(message: Message, now_us: int) -> Steps[tuple[bool, str | None]]:
    lives = bool((yield Step("SELECT 1 FROM asynctasq_message WHERE id = ?", (message.id,))))
    unique = message.unique
    assert unique is not None, "only messages with keys are looked after"
    if unique.window_s is None:
        found = yield Step(f"SELECT id FROM asynctasq_message WHERE unique_key = ? AND {HOLDS_KEY}", (unique.key,))
        return lives, found[0][0] if found else None
    params = (window_id(unique), now_us)
    kept = yield Step("SELECT body FROM asynctasq_result WHERE id = ? AND expires_us > ?", params)
    return lives, kept[0][0].decode() if kept else None
