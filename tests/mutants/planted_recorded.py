"""Defects that the trackers of other queues record, planted in ours."""

from dataclasses import replace
from typing import Any

from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.kernel import decide as decide_module
from asynctasq.kernel.messages import Release
from tests.mutants.planting import Change, Mutant, attribute

__all__ = ["RECORDED"]


def _method(name: str, make: Any) -> tuple[Change, ...]:
    return attribute(MemoryDriver, name, make)


def _no_counter(end: Any) -> Any:
    def wrong(self: Any, row: Any, settlement: Any) -> None:
        end(self, row, replace(settlement, counted=False) if isinstance(settlement, Release) else settlement)

    return wrong


def _lock_kept(original: Any) -> Any:
    def store_one(self: Any, message: Any, now: int) -> bool:
        seen = self.__dict__.setdefault("seen", set())
        if message.id in seen:
            return False
        seen.add(message.id)
        return bool(original(self, message, now))

    return store_one


def _still_visible(original: Any) -> Any:
    return lambda self, row, until: original(self, row, self._now())


def _never_again(original: Any) -> Any:
    def end(self: Any, row: Any, settlement: Any) -> None:
        later = isinstance(settlement, Release) and settlement.delay_s > 0
        original(self, row, replace(settlement, delay_s=10**7) if later else settlement)

    return end


def _still_dead(original: Any) -> Any:
    async def redrive(self: Any, queue: str, *, limit: int) -> int:
        before = dict(self._dead.get(queue, {}))
        count = await original(self, queue, limit=limit)
        self._dead[queue] = before
        return int(count)

    return redrive


def _zero_ignored(original: Any) -> Any:
    def delay(policy: Any, **given: Any) -> float:
        return float(original(policy, **given) or 15.0)

    return delay


def _now_if_scheduled(original: Any) -> Any:
    return lambda self, message, now: original(self, replace(message, delay_s=0.0), now)


def _retry_now(original: Any) -> Any:
    def end(self: Any, row: Any, settlement: Any) -> None:
        counted = isinstance(settlement, Release) and settlement.counted
        original(self, row, replace(settlement, delay_s=0.0) if counted else settlement)

    return end


RECORDED: tuple[Mutant, ...] = (
    Mutant(
        name="no delivery counter",
        breaks="max_attempts never comes in the driver in memory",
        changes=_method("_end", _no_counter),
        recorded="ruststream 367",
    ),
    Mutant(
        name="idempotency key never freed",
        breaks="an id can't come again after its message completed",
        changes=_method("_store_one", _lock_kept),
        recorded="Laravel 58533",
    ),
    Mutant(
        name="delivered to all",
        breaks="a running message stays visible",
        changes=_method("_lease", _still_visible),
        recorded="ActiveJob 38749",
    ),
    Mutant(
        name="put off and never run",
        breaks="what is released with a delay does not come back",
        changes=_method("_end", _never_again),
        recorded="huey 872",
    ),
    Mutant(
        name="dead letters stay behind",
        breaks="what was driven again is still counted and driven once more",
        changes=_method("redrive", _still_dead),
        recorded="dramatiq 243",
    ),
    Mutant(
        name="no delay is no setting",
        breaks="a retry delay of 0 is replaced by the default",
        changes=attribute(decide_module, "delay_before_next", _zero_ignored),
        recorded="dramatiq 388",
    ),
    Mutant(
        name="scheduled runs at once",
        breaks="a delay at dispatch is ignored",
        changes=_method("_store_one", _now_if_scheduled),
        recorded="ActiveJob 36864",
    ),
    Mutant(
        name="retries run at once",
        breaks="the store drops a retry's delay",
        changes=_method("_end", _retry_now),
        recorded="ActiveJob 38686",
    ),
)
