"""Drivers that are wrong about unique keys in one way each; `wrong_drivers` says which test must notice."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from asynctasq.drivers.base import Enqueued
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.memory_driver.row import MemoryRow
from asynctasq.drivers.memory_driver.unique import UniqueKeys
from asynctasq.kernel.messages import Message, State, UniqueKey


class _OtherKeys(MemoryDriver):
    """A driver whose keys are those of `keys`."""

    keys: type[UniqueKeys] = UniqueKeys

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._keys = self.keys(self._rows)


class LooksThenInserts(MemoryDriver):
    """Asks who holds the key, and stores in another step."""

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        self._check(messages)
        plan = self._keys.plan(messages, self._now(), may_raise=True)
        await asyncio.sleep(0)
        for message in plan.stored.values():
            self._store_one(message, self._now())
            self._keys.hold(self._rows[message.id], self._now())
        return plan.enqueued(messages)


class TellsNoHolder(MemoryDriver):
    """Says what is new, and not why the rest is not."""

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        return list(await super().enqueue(messages))


class _HeldByTheDead(UniqueKeys):
    def holder(self, unique: UniqueKey, now: int) -> str | None:
        row = self._holders.get(unique.key)
        if row is not None and row.reason is not None and unique.window_s is None:
            return row.message.id
        return super().holder(unique, now)


class KeepsKeysOfTheDead(_OtherKeys):
    """Frees a key where a message is deleted, and a dead letter is not."""

    keys = _HeldByTheDead


class _FreeAfterARelease(UniqueKeys):
    def holder(self, unique: UniqueKey, now: int) -> str | None:
        holder = super().holder(unique, now)
        row = self._rows.get(holder or "")
        return None if row is not None and row.token and not row.leased and unique.window_s is None else holder


class FreesKeysAtRelease(_OtherKeys):
    """Takes the end of an attempt for the end of the message."""

    keys = _FreeAfterARelease


class _FreeAfterALease(UniqueKeys):
    def holder(self, unique: UniqueKey, now: int) -> str | None:
        holder = super().holder(unique, now)
        row = self._rows.get(holder or "")
        return None if row is not None and row.leased and row.state(now) is State.READY else holder


class FreesKeysWithTheLease(_OtherKeys):
    """Has the key expire with the lease."""

    keys = _FreeAfterALease


class _TimedByTheClient(UniqueKeys):
    offset_us = 0

    def hold(self, row: MemoryRow, now: int) -> None:
        super().hold(row, now - self.offset_us)

    def holder(self, unique: UniqueKey, now: int) -> str | None:
        return super().holder(unique, now - self.offset_us if unique.window_s is not None else now)


class TimesWindowsByTheClient(_OtherKeys):
    """Measures windows by the clock of who dispatches."""

    keys = _TimedByTheClient

    def _now(self) -> int:
        self._keys.offset_us = round(self.clock_offset * 1_000_000)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        return super()._now()


class ReplacesWhatRuns(MemoryDriver):
    """Takes the place of whatever holds the key."""

    def _remove_now(self, message_ids: Any, states: Any, now: int) -> set[str]:
        for message_id in self._rows.keys() & set(message_ids) if State.DEAD not in states else ():
            self._rows[message_id].leased = False
        return super()._remove_now(message_ids, states, now)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._keys._replaces = lambda unique, *_: unique.on_conflict == "replace"  # type: ignore[method-assign]


class RedriveTakesKeysBack(MemoryDriver):
    """Makes a dead letter what it was, its key included."""

    async def redrive(self, queue: str, *, limit: int) -> int:
        moved = await super().redrive(queue, limit=limit)
        for row in self._rows.values():
            if row.redriven:
                row.redriven = False
                self._keys.hold(row, self._now())
        return moved


class _HeldToTheEnd(UniqueKeys):
    def hold(self, row: MemoryRow, now: int) -> None:
        if row.message.unique is not None:
            row.message = replace(row.message, unique=replace(row.message.unique, until="done"))
        super().hold(row, now)


class HoldsStartedUntilDone(_OtherKeys):
    """Frees no key at a reserve."""

    keys = _HeldToTheEnd


class StoresPartOfARefusedBatch(MemoryDriver):
    """Stores what came before the conflict."""

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        for message in messages:
            await super().enqueue([message])
        return await super().enqueue(messages)


class StoresFollowUpsWithoutKeys(MemoryDriver):
    """Sees to keys in enqueue alone."""

    def _follow(self, messages: Sequence[Message]) -> None:
        self._store([replace(message, unique=None) for message in messages])


class AsksForKeysFirst(MemoryDriver):
    """Takes a message for one that is kept out by the key that it holds itself."""

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        held = {one.id: self._keys.holder(one.unique, self._now()) for one in messages if one.unique is not None}
        new = await super().enqueue(messages)
        return Enqueued(new, {name: holder for name, holder in held.items() if holder is not None})


class TakesWindowsForStates(_OtherKeys):
    """Has a window end with its message."""

    def _store(self, messages: Sequence[Message], *, may_raise: bool = True) -> list[str]:
        held = [
            replace(one, unique=replace(one.unique, window_s=None)) if one.unique is not None else one
            for one in messages
        ]
        return super()._store(held, may_raise=may_raise)
