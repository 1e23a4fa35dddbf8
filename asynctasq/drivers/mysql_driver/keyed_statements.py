"""The SQL texts of the MySQL/MariaDB driver for messages with unique keys; runs nothing."""

from collections.abc import Iterable, Sequence

from asynctasq.drivers.levels import line_of
from asynctasq.drivers.mysql_driver.statements import Statements, literal
from asynctasq.kernel.messages import Message, UniqueKey, microseconds

__all__ = ["forget_window", "free_key", "insert_keyed", "keep_window", "key_of", "lock_keys", "window"]


def insert_keyed(sql: Statements, messages: Sequence[Message], *, now: str, claim: str) -> str:
    """Do `insert` for messages of which some have unique keys: what breaks one of the constraints is left out."""
    rows = ",".join(
        f"({literal(message.id)},{literal(line_of(message))},{now}+{microseconds(message.delay_s)},{now},{claim},"
        f"{literal(message.body)},{_key(message.unique)})"
        for message in messages
    )
    columns = "id, queue, visible_us, enqueued_us, claim, body, unique_key, unique_started"
    return f"INSERT INTO {sql.messages} ({columns}) VALUES {rows} ON DUPLICATE KEY UPDATE id = id"


def key_of(sql: Statements, key: str) -> str:
    """Select the row that has a unique key, as it is now, and whether it holds it: that follows from the row."""
    return (
        f"SELECT seq, id, dead = 0 AND (unique_started = 0 OR token = 0) FROM {sql.messages}"
        f" FORCE INDEX (by_unique) WHERE unique_key = {literal(key)} LOCK IN SHARE MODE"
    )


def free_key(sql: Statements, seq: int) -> str:
    """Take the key out of a row that does not hold it any more."""
    return (
        f"UPDATE {sql.messages} AS m FORCE INDEX (PRIMARY) SET m.unique_key = NULL"
        f" WHERE m.seq = {seq} AND (m.dead > 0 OR (m.unique_started > 0 AND m.token > 0))"
    )


def window(sql: Statements, window_id: str, *, now: str) -> str:
    """Select who holds a key whose window is not over, as it is now."""
    return f"{sql.result(window_id, now=now)} LOCK IN SHARE MODE"


def keep_window(sql: Statements, window_id: str, message_id: str, *, ttl_us: int, now: str) -> str:
    """Let a message hold a key for its window."""
    until, holder = f"{now} + {ttl_us}", literal(message_id)
    return (
        f"INSERT INTO {sql.results} (id, expires_us, result) VALUES ({literal(window_id)}, {until}, {holder})"
        f" ON DUPLICATE KEY UPDATE expires_us = {until}, result = {holder}"
    )


def forget_window(sql: Statements, window_id: str) -> str:
    """Delete the window of a key."""
    return f"DELETE FROM {sql.results} WHERE id = {literal(window_id)}"


def lock_keys(sql: Statements, lock_ids: Iterable[str]) -> str:
    """Lock rows that are there for that alone, in the order given; they are removed as expired results are."""
    rows = ",".join(f"({literal(lock_id)}, 0, '')" for lock_id in lock_ids)
    return f"INSERT INTO {sql.results} (id, expires_us, result) VALUES {rows} ON DUPLICATE KEY UPDATE expires_us = 0"


def _key(unique: UniqueKey | None) -> str:
    """Return a unique key, and whether it is held until its message is started, as SQL."""
    if unique is None or unique.window_s is not None:
        return "NULL,0"
    return f"{literal(unique.key)},{int(unique.until == 'started')}"
