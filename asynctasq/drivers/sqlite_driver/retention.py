"""What is to go from a SQLite file, as statements; runs none itself."""

from collections.abc import Sequence

from asynctasq.drivers.damaged import read_instant_us
from asynctasq.drivers.levels import lines_of
from asynctasq.drivers.retention import PRUNED_AT_ONCE, Retention
from asynctasq.drivers.sqlite_driver.schema import Step, Steps

__all__ = ["RESULTS_PRUNED", "nothing_to_prune", "prune", "prune_results"]

RESULTS_PRUNED = 100

OLDEST = """SELECT arrival, visible_us FROM asynctasq_message WHERE queue = ? AND death IS NOT NULL
    ORDER BY death LIMIT ?"""
TOO_MANY = """SELECT arrival FROM asynctasq_message WHERE queue = ? AND death IS NOT NULL
    ORDER BY death DESC LIMIT ? OFFSET ?"""


def prune_results(now_us: int, *, at_most: int = RESULTS_PRUNED) -> Steps[int]:
    """Remove expired results; return how many."""
    yield Step(
        """DELETE FROM asynctasq_result WHERE id IN (
            SELECT id FROM asynctasq_result WHERE expires_us <= ? OR expires_us >= '' LIMIT ?)""",
        (now_us, at_most),
    )
    ((count,),) = yield Step("SELECT changes()")
    return int(count)


def prune(queues: Sequence[str], retention: Retention, now_us: int) -> Steps[bool]:
    """Remove expired results, and dead letters that are too old or too many; return whether there may be more."""
    arrivals = yield from _dead_to_go(queues, retention, now_us)
    yield Step("DELETE FROM asynctasq_message WHERE arrival IN (SELECT value FROM json_each(?))", (str(arrivals),))
    results = yield from prune_results(now_us, at_most=PRUNED_AT_ONCE)
    return max(results, len(arrivals)) >= PRUNED_AT_ONCE


def nothing_to_prune(queues: Sequence[str], retention: Retention, now_us: int) -> Steps[bool | None]:
    """Return False, as `prune` would, if it would remove nothing, else None; writes nothing."""
    results = yield Step("SELECT 1 FROM asynctasq_result WHERE expires_us <= ? LIMIT 1", (now_us,))
    return None if results or (yield from _dead_to_go(queues, retention, now_us)) else False


def _dead_to_go(queues: Sequence[str], retention: Retention, now_us: int) -> Steps[list[int]]:
    """Return the arrivals of dead letters to remove. The oldest death is first in the index, whatever the clock was."""
    arrivals, until_us = set[int](), now_us - retention.dead_ttl_us
    for line in (line for queue in dict.fromkeys(queues) for line in lines_of(queue)):
        oldest = yield Step(OLDEST, (line, PRUNED_AT_ONCE))
        many = yield Step(TOO_MANY, (line, PRUNED_AT_ONCE, retention.dead_max))
        arrivals.update(arrival for arrival, died_us in oldest if read_instant_us(died_us) <= until_us)
        arrivals.update(arrival for (arrival,) in many)
    return sorted(arrivals)
