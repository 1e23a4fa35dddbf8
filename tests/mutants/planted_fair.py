"""Defects of fair keys: turns that are none, keys that are forgotten, ranks that stay or are shown."""

from dataclasses import replace
from typing import Any

from asynctasq.codec import schedule as schedule_codec_module
from asynctasq.core.schedule_messages import ScheduleMessages
from asynctasq.drivers import levels as levels_module
from asynctasq.drivers.levels import LevelTurns
from asynctasq.drivers.memory_driver import ranks as ranks_module
from asynctasq.drivers.memory_driver.ranks import Ranks
from asynctasq.drivers.memory_driver.row import MemoryRow
from asynctasq.queue import MessageFactory
from asynctasq.tasks import base as tasks_module
from tests.mutants.planting import Mutant, planter

__all__ = ["FAIR"]

FAIR: list[Mutant] = []
_plant = planter(FAIR)


@_plant(ranks_module, "next_rank", "key has a whole round", "one tenant's million runs before another's ten")
def _whole_round(original: Any) -> Any:
    return lambda first, last: original(first, 0) if last else original(first, last)


@_plant(ranks_module, "next_rank", "key begins in the present round", "who sends again and again starves the others")
def _present_round(original: Any) -> Any:
    return lambda first, last: max(1, first, original(0, last) if last else 0)


@_plant(Ranks, "rank", "fair keys are one key", "what came first runs first, whosever it is")
def _one_key(original: Any) -> Any:
    def rank(self: Any, row: Any) -> None:
        message = row.message
        row.message = replace(message, fair_key="all")
        original(self, row)
        row.message = message

    return rank


@_plant(Ranks, "_waits", "cancelled message keeps its rank", "a key waits behind what nobody wants any more")
def _cancelled_waits(original: Any) -> Any:
    del original
    return lambda self, row: row.rank > 0


@_plant(LevelTurns, "all_lines", "ranked line always first", "a retry waits until nobody else waits")
def _ranked_first(original: Any) -> Any:
    def all_lines(self: Any, queues: Any) -> list[str]:
        return sorted(original(self, queues), key=lambda line: not levels_module.is_by_rank(line))

    return all_lines


@_plant(MemoryRow, "line", "retry waits by rank again", "what failed once runs in nobody's turn")
def _stays_ranked(original: Any) -> Any:
    del original
    return property(lambda self: levels_module.line_of(self.message))


@_plant(MemoryRow, "is_visible", "ranked messages not visible", "nothing with a fair key ever runs")
def _invisible(original: Any) -> Any:
    del original
    return lambda self, now: not self.rank and self.visible_us <= now


@_plant(MessageFactory, "message", "fair key forgotten at dispatch", "nobody has a turn")
def _forgotten(original: Any) -> Any:
    return lambda self, *given: replace(original(self, *given), fair_key="")


@_plant(tasks_module, "changed_options", "fair key of one dispatch ignored", "with_options(fair_key=...) does nothing")
def _of_class(original: Any) -> Any:
    return lambda **given: original(**{**given, "fair_key": None})


@_plant(ScheduleMessages, "run", "ticks have no fair key", "a tenant's schedule waits by time")
def _ticks(original: Any) -> Any:
    return lambda self, *given, **named: replace(original(self, *given, **named), fair_key="")


@_plant(schedule_codec_module, "check_fair_key", "ticker loses its fair key", "from its second tick on it has none")
def _ticker(original: Any) -> Any:
    del original
    return lambda value: ""
