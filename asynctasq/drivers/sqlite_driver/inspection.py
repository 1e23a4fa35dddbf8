"""What an operator reads and changes in a SQLite file, as statements; on no worker's hot path."""

from collections.abc import Set as AbstractSet
from typing import NamedTuple

from asynctasq.drivers.base import Page
from asynctasq.drivers.damaged import queue_names, read_instant_us
from asynctasq.drivers.levels import all_lines_of, is_by_rank, lines_of, queue_in
from asynctasq.drivers.sql.rows import depth_from, stored_message
from asynctasq.drivers.sqlite_driver.schema import Row, Step, Steps
from asynctasq.kernel.messages import Depth, State, StoredMessage

__all__ = ["depth", "find", "list_messages", "purge", "queues", "redrive", "redrive_ids", "remove"]

STORED_COLUMNS = (
    "death IS NOT NULL, id, queue, body, leased, attempts, crashes, enqueued_us, visible_us, reason, error, "
    "reserved_us, reserved_by, progress"
)
REMOVE = "DELETE FROM asynctasq_message WHERE id IN (SELECT value FROM json_each(?)) AND"
REDRIVE = """UPDATE asynctasq_message SET visible_us = ?, enqueued_us = ?, attempts = 0, crashes = 0, death = NULL,
    reason = NULL, error = NULL, unique_key = NULL"""
WAITING = "death IS NULL AND (leased = 0 OR visible_us <= ?)"
OF_QUEUE = f"queue IN ({', '.join('?' * len(all_lines_of('')))})"

FIRST_BY_RANK = """SELECT enqueued_us FROM asynctasq_message WHERE queue = ? AND death IS NULL
    ORDER BY visible_us, arrival LIMIT 1"""


def depth(queue: str, now_us: int) -> Steps[Depth]:
    """Count the messages of one queue, from the indexes alone."""
    count = "FROM asynctasq_message WHERE queue = ? AND death IS"
    ready = later = reserved = dead = 0
    oldest: list[int] = []
    for line in all_lines_of(queue):
        ((due, oldest_us),) = yield Step(
            f"SELECT count(*), min(visible_us) {count} NULL AND visible_us <= ?", (line, now_us)
        )
        ((after, leased),) = yield Step(
            f"SELECT count(*), coalesce(sum(leased <> 0), 0) {count} NULL AND visible_us > ?", (line, now_us)
        )
        ((buried,),) = yield Step(f"SELECT count(*) {count} NOT NULL", (line,))
        ready, later, reserved, dead = ready + due, later + after, reserved + leased, dead + buried
        if due and is_by_rank(line):
            ((oldest_us,),) = yield Step(FIRST_BY_RANK, (line,))
        oldest += [oldest_us] if isinstance(oldest_us, int) else []  # a damaged one may be anything
    first_us = min(oldest, default=None)
    return depth_from(
        ready=ready, scheduled=later - reserved, reserved=reserved, dead=dead, oldest_us=first_us, now_us=now_us
    )


def redrive(queue: str, limit: int, now_us: int) -> Steps[int]:
    """Move dead letters, oldest death first, back to ready; return how many."""
    deaths: list[Row] = []
    for line in lines_of(queue):
        deaths += yield Step(
            """SELECT death, arrival FROM asynctasq_message WHERE queue = ? AND death IS NOT NULL
               ORDER BY death LIMIT ?""",
            (line, max(0, limit)),
        )
    chosen = deaths
    if len(deaths) > limit:
        chosen = sorted(deaths, key=lambda row: read_instant_us(row[0]))[: max(0, limit)]
    arrivals = str([arrival for _, arrival in chosen])
    yield Step(f"{REDRIVE} WHERE arrival IN (SELECT value FROM json_each(?))", (now_us, now_us, arrivals))
    return len(chosen)


def redrive_ids(ids_json: str, now_us: int) -> Steps[dict[str, str]]:
    """Move those of the ids that are dead letters back to ready; return their ids with their queues."""
    rows = yield Step(
        f"{REDRIVE} WHERE id IN (SELECT value FROM json_each(?)) AND death IS NOT NULL RETURNING id, queue",
        (now_us, now_us, ids_json),
    )
    return {message_id: queue_in(line) for message_id, line in rows}


def queues() -> Steps[list[str]]:
    """Return the names of all queues, each found by one step in an index."""
    names: set[object] = set()
    for state in ("NULL", "NOT NULL"):
        first = f"SELECT min(queue) FROM asynctasq_message WHERE death IS {state}"
        rows = yield Step(
            f"""WITH RECURSIVE name(queue) AS (
                {first} UNION ALL SELECT ({first} AND queue > name.queue) FROM name WHERE queue IS NOT NULL
            ) SELECT queue FROM name WHERE queue IS NOT NULL"""
        )
        names.update(name for (name,) in rows)
    return queue_names(names)


def find(message_id: str, now_us: int) -> Steps[StoredMessage | None]:
    """Return one message."""
    rows = yield Step(f"SELECT {STORED_COLUMNS} FROM asynctasq_message WHERE id = ?", (message_id,))
    return stored_message(rows[0][1:], now_us, dead=rows[0][0]) if rows else None


class _Filter(NamedTuple):
    sql: str
    takes_now: bool


FILTERS = {
    State.READY: _Filter("death IS NULL AND visible_us <= ?", takes_now=True),
    State.RESERVED: _Filter("death IS NULL AND leased <> 0 AND visible_us > ?", takes_now=True),
    State.SCHEDULED: _Filter("death IS NULL AND leased = 0 AND visible_us > ?", takes_now=True),
    State.DEAD: _Filter("death IS NOT NULL", takes_now=False),
    State.COMPLETED: _Filter("0", takes_now=False),
    State.CANCELLED: _Filter("0", takes_now=False),
}


def list_messages(queue: str, state: State | None, limit: int, after: int, now_us: int) -> Steps[Page]:
    """Return messages of a queue in the order of arrival."""
    chosen = _Filter("1", takes_now=False) if state is None else FILTERS[state]
    params = [*all_lines_of(queue), after, *([now_us] if chosen.takes_now else []), limit + 1]
    rows = yield Step(
        f"""SELECT arrival, {STORED_COLUMNS} FROM asynctasq_message
            WHERE {OF_QUEUE} AND arrival > ? AND {chosen.sql} ORDER BY arrival LIMIT ?""",
        params,
    )
    more = str(rows[limit - 1][0]) if len(rows) > limit else None
    return Page(messages=[stored_message(row[2:], now_us, dead=row[1]) for row in rows[:limit]], cursor=more)


def remove(ids_json: str, *, dead: bool, now_us: int) -> Steps[AbstractSet[str]]:
    """Remove those of the ids that are dead letters, or else scheduled or ready; return their ids."""
    condition, params = ("death IS NOT NULL", ()) if dead else (WAITING, (now_us,))
    rows = yield Step(f"{REMOVE} {condition} RETURNING id", (ids_json, *params))
    return {message_id for (message_id,) in rows}


def purge(queue: str, now_us: int) -> Steps[int]:
    """Remove the scheduled and ready messages of a queue; return how many."""
    yield Step(f"DELETE FROM asynctasq_message WHERE {OF_QUEUE} AND {WAITING}", (*all_lines_of(queue), now_us))
    ((count,),) = yield Step("SELECT changes()")
    return int(count)
