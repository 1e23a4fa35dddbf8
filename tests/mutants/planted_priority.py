"""Defects of priorities: levels turned round, forgotten on the way back, starved, or not seen by who waits."""

from dataclasses import replace
from typing import Any

from asynctasq.codec import schedule as schedule_codec_module
from asynctasq.core.schedule_messages import ScheduleMessages
from asynctasq.drivers import levels as levels_module
from asynctasq.drivers.levels import LevelTurns
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.memory_driver import driver as memory_module
from asynctasq.kernel.messages import Release
from asynctasq.kernel.priority import NORMAL, PRIORITIES
from asynctasq.queue import MessageFactory
from asynctasq.tasks import base as tasks_module
from tests.mutants.planting import Mutant, planter

__all__ = ["PRIORITY"]

PRIORITY: list[Mutant] = []
_plant = planter(PRIORITY)


def _made_normal(row: Any) -> None:
    row.message = replace(row.message, priority=NORMAL)


@_plant(levels_module, "claim_order", "levels turned round", "what matters most runs last")
def _inverted(original: Any) -> Any:
    return lambda claims: original(claims)[::-1]


@_plant(levels_module, "claim_order", "low level starves", "a stream of high messages lets no other run")
def _strict(original: Any) -> Any:
    del original
    return lambda claims: PRIORITIES if claims >= 0 else ()


@_plant(
    levels_module, "claim_order", "turns of low come twice as often", "what matters least takes a tenth of the time"
)
def _too_often(original: Any) -> Any:
    return lambda claims: original(claims * 2 + 1)


@_plant(LevelTurns, "note", "messages counted for claims", "large claims give low levels more turns than they have")
def _by_message(original: Any) -> Any:
    def note(self: Any, leases: Any) -> None:
        for lease in leases:
            original(self, [lease])
        if leases:
            original(self, leases[:1])

    return note


@_plant(MessageFactory, "message", "level forgotten at dispatch", "every message is normal")
def _normal(original: Any) -> Any:
    return lambda self, *given: replace(original(self, *given), priority=NORMAL)


@_plant(tasks_module, "changed_options", "level of one dispatch ignored", "with_options(priority=...) does nothing")
def _of_class(original: Any) -> Any:
    return lambda **given: original(**{**given, "priority": None})


@_plant(MemoryDriver, "_end", "level forgotten at release", "a retry of what matters waits behind everything")
def _at_release(original: Any) -> Any:
    def end(self: Any, row: Any, settlement: Any) -> None:
        if isinstance(settlement, Release):
            _made_normal(row)
        original(self, row, settlement)

    return end


@_plant(MemoryDriver, "redrive", "level forgotten at redrive", "what was driven again is normal")
def _at_redrive(original: Any) -> Any:
    async def redrive(self: Any, queue: str, *, limit: int) -> int:
        for message_id in self._dead.get(queue, {}):
            _made_normal(self._rows[message_id])
        return await original(self, queue, limit=limit)

    return redrive


@_plant(MemoryDriver, "_lease", "takeover ignores levels", "an expired lease comes back as normal")
def _at_takeover(original: Any) -> Any:
    def lease(self: Any, row: Any, until: int) -> Any:
        _made_normal(row)
        return original(self, row, until)

    return lease


@_plant(MemoryDriver, "_follow", "follow-ups lose their levels", "what a settlement stores is normal")
def _follow_ups(original: Any) -> Any:
    return lambda self, messages: original(self, [replace(one, priority=NORMAL) for one in messages])


@_plant(memory_module, "all_lines_of", "waits for normal messages only", "a low or high message wakes nobody")
def _one_line(original: Any) -> Any:
    return lambda queue: original(queue)[1:2]


@_plant(ScheduleMessages, "_message", "ticks have no level", "a schedule of low priority goes before everything")
def _ticks(original: Any) -> Any:
    return lambda self, *given: replace(original(self, *given), priority=NORMAL)


@_plant(schedule_codec_module, "check_priority", "ticker loses its level", "from its second tick on it is normal")
def _ticker(original: Any) -> Any:
    del original
    return lambda value: NORMAL if value else value
