"""Messages with unique or fair keys as SQLite statements; whether a row holds its key is what an index says."""

from collections.abc import Sequence
from typing import Any

from asynctasq.drivers.base import Enqueued
from asynctasq.drivers.levels import is_by_rank, line_of
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
from asynctasq.drivers.sqlite_driver.schema import HOLDS_KEY, RANKED, Step, Steps, instant_after
from asynctasq.kernel.messages import Message

__all__ = ["store_keyed"]

INSERT = """INSERT OR IGNORE INTO asynctasq_message
    (id, queue, visible_us, enqueued_us, body, unique_key, unique_started) VALUES (?, ?, ?, ?, ?, ?, ?)"""
# An instant for who waits by time, else a rank: one row after the other, so that each sees those before it. A rank is
# never later than now: whatever others have stored there, the message is visible.
PLACE = f"""CASE WHEN ? THEN min(?, 1 + max(
        coalesce((SELECT visible_us FROM asynctasq_message WHERE queue = ? AND death IS NULL
            ORDER BY visible_us LIMIT 1), 0),
        coalesce((SELECT visible_us FROM asynctasq_message WHERE queue = ? AND fair_key = ? AND {RANKED}
            ORDER BY visible_us DESC LIMIT 1), 0))) ELSE ? END"""
INSERT_FAIR = f"""INSERT OR IGNORE INTO asynctasq_message
    (id, queue, enqueued_us, body, unique_key, unique_started, fair_key, visible_us)
    VALUES (?, ?, ?, ?, ?, ?, ?, {PLACE})"""
REMOVE = """DELETE FROM asynctasq_message
    WHERE id = ? AND death IS NULL AND (leased = 0 OR visible_us <= ?) RETURNING id"""


def store_keyed(messages: Sequence[Message], now_us: int, *, may_raise: bool) -> Steps[Enqueued]:
    """Store messages of which some have unique or fair keys."""
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
    if any(message.fair_key for message in messages):
        yield Step(INSERT_FAIR, [_row_with_place(message, now_us) for message in messages], many=True)
    else:
        yield Step(INSERT, [_row(message, now_us) for message in messages], many=True)
    return {found for (found,) in (yield Step("SELECT id FROM asynctasq_message WHERE arrival > ?", (last,)))}


def _row(message: Message, now_us: int) -> tuple[object, ...]:
    visible_us = instant_after(now_us, message.delay_s)
    return message.id, line_of(message), visible_us, now_us, message.body, *_held(message)


def _held(message: Message) -> tuple[str | None, bool | None]:
    unique = message.unique
    return (None, None) if unique is None or unique.window_s is not None else (unique.key, unique.until == "started")


def _row_with_place(message: Message, now_us: int) -> tuple[object, ...]:
    line = line_of(message)
    key = message.fair_key if is_by_rank(line) else None
    place = (key is not None, now_us, line, line, key, instant_after(now_us, message.delay_s))
    return message.id, line, now_us, message.body, *_held(message), key, *place


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
