"""What is to go from MySQL/MariaDB, as a generator that yields statements; does no I/O."""

from collections.abc import Sequence

from asynctasq.drivers.batches import chunks
from asynctasq.drivers.levels import lines_of
from asynctasq.drivers.mysql_driver.statements import Statements, server_now
from asynctasq.drivers.mysql_driver.storing import ROWS_MAX, Steps
from asynctasq.drivers.retention import Retention

__all__ = ["prune"]


def prune(sql: Statements, queues: Sequence[str], keep: Retention, *, most: int, offset_us: int) -> Steps[bool]:
    """Remove up to `most` expired results, and dead letters of each queue; return whether there may be more.

    Each statement is a transaction of its own. Keys are found without locks: the newest dead letters stay unlocked.
    """
    now = server_now(offset_us)
    (results,) = yield [sql.prune_results(now=now, limit=most)]
    more = results.affected >= most
    for line in (line for queue in dict.fromkeys(queues) for line in lines_of(queue)):
        (old,) = yield [sql.dead_too_old(line, ttl_us=keep.dead_ttl_us, limit=most, now=now)]
        (many,) = yield [sql.dead_too_many(line, keep=keep.dead_max, limit=most)]
        for group in chunks(sorted({seq for (seq,) in (*old.rows, *many.rows)}), ROWS_MAX):
            yield [sql.remove_dead(group)]
        more = more or max(len(old.rows), len(many.rows)) >= most
    return more
