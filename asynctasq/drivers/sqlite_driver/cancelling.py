"""How a message is cancelled whatever it is doing, and how its holder hears of it, as SQLite statements.

A worker of another process is told by a row among the results, whose id no message can have: `PRAGMA data_version` and
notices tell of every commit, which would keep all workers busy.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from asynctasq.drivers.damaged import read_text
from asynctasq.drivers.sql.settlements import cancels_of, names_to_wake
from asynctasq.drivers.sqlite_driver.retention import RESULTS_PRUNED, prune_results
from asynctasq.drivers.sqlite_driver.schema import Row, Step, Steps
from asynctasq.drivers.sqlite_driver.statements import token_of
from asynctasq.kernel.messages import CANCELLED_TTL_S, cancelled_mark, microseconds

__all__ = ["Cancelled", "cancel_running", "no_news", "take_news"]

NEWS_TTL_S = 120.0
"""For how long a worker may hear that something of it was cancelled: it looks every second, if it still lives."""

FOUND = """SELECT arrival, id, leased, token, reserved_by FROM asynctasq_message
    WHERE id IN (SELECT value FROM json_each(?)) AND death IS NULL"""
KEEP = "INSERT OR REPLACE INTO asynctasq_result VALUES (?, ?, ?)"


class Cancelled(NamedTuple):
    """The tokens by id, and the names of the calls that are to hear of it."""

    tokens: Mapping[str, str]
    wakes: frozenset[str]


def cancel_running(message_ids: Sequence[str], now_us: int) -> Steps[Cancelled]:
    """Remove those that are no dead letters; keep marks of them in place of results."""
    found = yield Step(FOUND, (json.dumps(message_ids),))
    if not found:
        return Cancelled({}, frozenset())
    tokens = {message_id: token_of(arrival, token) if leased else "" for arrival, message_id, leased, token, _ in found}
    holders = {holder for row in found if (holder := _holder(row))}
    yield from prune_results(now_us, at_most=2 * len(found) + RESULTS_PRUNED)
    until_us, news_us = now_us + microseconds(CANCELLED_TTL_S), now_us + microseconds(NEWS_TTL_S)
    kept = [(message_id, until_us, cancelled_mark(token)) for message_id, token in tokens.items()]
    yield Step(KEEP, [*kept, *((cancels_of(holder), news_us, b"") for holder in holders)], many=True)
    chosen = json.dumps([row[0] for row in found])
    yield Step("DELETE FROM asynctasq_message WHERE arrival IN (SELECT value FROM json_each(?))", (chosen,))
    return Cancelled(tokens, names_to_wake(tokens, holders))


def _holder(row: Row) -> str:
    """Return who holds a lease, "" for nobody that could be told."""
    _, _, leased, _, reserved_by = row
    return read_text(reserved_by) if leased and reserved_by else ""


def no_news(holder: str) -> Steps[bool | None]:
    """Return False if nothing of this holder was cancelled, else None; writes nothing."""
    found = yield Step("SELECT 1 FROM asynctasq_result WHERE id = ?", (cancels_of(holder),))
    return None if found else False


def take_news(holder: str) -> Steps[bool]:
    """Return whether something of this holder was cancelled, once."""
    found = yield Step("DELETE FROM asynctasq_result WHERE id = ? RETURNING 1", (cancels_of(holder),))
    return bool(found)
