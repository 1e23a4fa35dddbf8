"""Rows of SQLite that no driver has written: how to tell them, and the dead letters they become; runs no statement."""

from asynctasq.drivers.damaged import DamagedMessage, damaged_message, is_count, is_message
from asynctasq.drivers.levels import lines_of, queue_in
from asynctasq.drivers.sqlite_driver.schema import Row, Step, Steps

__all__ = ["DUE_COLUMNS", "NEXT_DEATH", "bury_damaged", "is_readable"]

DUE_COLUMNS: tuple[str, ...] = (
    "arrival",
    "id",
    "token",
    "attempts",
    "crashes",
    "leased",
    "visible_us",
    "enqueued_us",
    "body",
)
TOKEN_NUMBER_MAX = 2**32 - 2
NEXT_DEATH = "1 + max({0}, {0}, {0})".format(
    "coalesce((SELECT max(death) FROM asynctasq_message WHERE queue = ? AND death IS NOT NULL), 0)"
)
"""The number of the next dead letter of a queue; takes its lines."""
DAMAGED = f"""UPDATE asynctasq_message SET id = ?, queue = ?, attempts = ?, crashes = ?, enqueued_us = ?, error = ?,
    reason = 'undecodable', visible_us = ?, token = 2, leased = 0, body = CAST(body AS BLOB),
    death = {NEXT_DEATH} WHERE arrival = ?"""


def is_readable(row: Row) -> bool:
    """Say whether the columns of a row, in the order of `DUE_COLUMNS`, are those of a message."""
    _, message_id, token, attempts, crashes, leased, visible_us, enqueued_us, body = row
    return (
        is_message(message_id, body, attempts, crashes, enqueued_us)
        and is_count(token, TOKEN_NUMBER_MAX)
        and leased in (0, 1)
        and type(visible_us) is int
    )


def bury_damaged(line: str, rows: list[Row], now_us: int) -> Steps[list[DamagedMessage]]:
    """Make dead letters of such rows, in this line; whatever their columns held, they can be read from then on."""
    buried: list[DamagedMessage] = []
    queue = queue_in(line)
    for row in rows:
        columns: dict[str, object] = dict(zip(DUE_COLUMNS, row, strict=True))
        dead = damaged_message(queue, columns, arrival=row[0], now_us=now_us)
        kept = (dead.message_id, line, dead.attempts, dead.crashes, dead.enqueued_us, dead.error)
        yield Step(DAMAGED, (*kept, now_us, *lines_of(queue), row[0]))
        buried.append(dead)
    return buried
