"""Unique keys: drawn calls of a driver against a list of who holds what, and unique tasks of workers under faults."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from asynctasq import AsyncTask, Retry
from asynctasq.drivers.base import Enqueued
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import AsyncTasqError, UniqueConflictError
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Lease, Message, Release, Settlement, State, UniqueKey
from asynctasq.testing import Simulation
from asynctasq.unique import Unique
from tests.mutants.oracle import begin, want

__all__ = ["keyed", "unique_tasks"]

STEPS: Final = 50
KEYS: Final = (
    UniqueKey(key="a"),
    UniqueKey(key="a", on_conflict="replace"),
    UniqueKey(key="a", until="started"),
    UniqueKey(key="b", on_conflict="raise"),
    UniqueKey(key="b", window_s=90.0),
    UniqueKey(key="b", window_s=300.0, on_conflict="replace"),
)


@dataclass(slots=True)
class Known:
    """What is known of one message, from what was done with it; `gone` once it was completed or removed."""

    message: Message
    due: float
    reserved: bool = False
    leased_until: float | None = None
    dead: bool = False
    gone: bool = False
    redriven: bool = False

    def holds(self) -> bool:
        """Say whether it holds its key."""
        unique = self.message.unique
        if unique is None or unique.window_s is not None or self.dead or self.gone or self.redriven:
            return False
        return unique.until == "done" or not self.reserved

    def waits(self, now: float) -> bool:
        """Say whether it is scheduled or ready."""
        return not self.dead and not self.gone and (self.leased_until is None or self.leased_until <= now)


@dataclass(slots=True)
class Book:
    """All that is known, and who took which window until when."""

    sim: Simulation
    driver: MemoryDriver
    known: dict[str, Known] = field(default_factory=dict[str, Known])
    windows: dict[str, tuple[str, float]] = field(default_factory=dict[str, tuple[str, float]])
    leases: list[Lease] = field(default_factory=list[Lease])
    names: int = 0

    def pick(self, values: Any) -> Any:
        return values[int(self.sim.rng.random() * len(values))]

    def message(self) -> Message:
        """Return a message, now and then with an id that there was, mostly with a key."""
        again = self.pick((False, False, False, True)) and self.names
        self.names += not again
        name = f"m{int(self.sim.rng.random() * self.names) if again else self.names}"
        unique = self.pick((None, *KEYS, *KEYS))
        return Message(id=name, queue="q", body=b"", delay_s=self.pick((0.0, 0.0, 60.0)), unique=unique)

    def holder(self, unique: UniqueKey, now: float) -> str | None:
        if unique.window_s is not None:
            holder, until = self.windows.get(unique.key, ("", 0.0))
            return holder if until > now else None
        held = [
            name
            for name, one in self.known.items()
            if one.holds() and one.message.unique is not None and one.message.unique.key == unique.key
        ]
        want(len(held) <= 1, "unique", f"{held} hold one key")
        return held[0] if held else None

    def expect(self, batch: list[Message], now: float) -> tuple[set[str], set[str]] | str:
        """Return which of the batch are stored and which are told a holder, or who lets it raise; note nothing."""
        known, windows = {name: one for name, one in self.known.items() if not one.gone}, dict(self.windows)
        before = self.known, self.windows
        self.known, self.windows, told, stored = known, windows, set[str](), set[str]()
        try:
            for message in batch:
                unique = message.unique
                holder = None if message.id in known or unique is None else self.holder(unique, now)
                if message.id in known or holder == message.id:
                    continue
                if holder is not None and unique is not None:
                    found = known.get(holder)
                    if unique.on_conflict == "replace" and found is not None and found.waits(now):
                        del known[holder]
                        stored.discard(holder)
                        told |= {holder} & {one.id for one in batch}
                    elif unique.on_conflict == "raise":
                        self.known, self.windows = before
                        return holder
                    else:
                        told.add(message.id)
                        continue
                known[message.id] = Known(message, now + message.delay_s)
                stored.add(message.id)
                told.discard(message.id)
                if unique is not None and unique.window_s is not None:
                    windows[unique.key] = (message.id, now + unique.window_s)
        except BaseException:
            self.known, self.windows = before
            raise
        return stored, told


async def keyed(sim: Simulation) -> None:
    """Draw calls; what is stored, and who is told to hold a key, must be as the book has it."""
    book = Book(sim, MemoryDriver(clock=sim.clock))
    for step in range(STEPS):
        begin(sim, f"step {step}")
        call = book.pick((None, _enqueue, _enqueue, _enqueue, _reserve, _reserve, _settle, _settle, _pause, _operate))
        if call is not None:
            await call(book)
        there = {one.id for one in (await book.driver.list_messages("q", limit=1000)).messages}
        wanted = {name for name, one in book.known.items() if not one.gone}
        want(there == wanted, "stored", f"{sorted(there)} are there, not {sorted(wanted)}")


async def _enqueue(book: Book) -> None:
    batch = [book.message() for _ in range(book.pick((1, 1, 2, 4)))]
    expected = book.expect(batch, book.sim.clock.now())
    try:
        new = await book.driver.enqueue(batch)
    except UniqueConflictError as error:
        want(error.task_id == expected, "conflict", f"with {error.task_id}, not {expected}")
        return
    told = dict(new.holders) if isinstance(new, Enqueued) else {}
    want((set(new), set(told)) == expected, "enqueue", f"{new} are new and {told} held, not {expected}")
    for holder in told.values():
        want(
            holder in book.known or any(holder == by for by, _ in book.windows.values()), "holder", f"{holder} is none"
        )


async def _reserve(book: Book) -> None:
    now, lease_s = book.sim.clock.now(), book.pick((30, 600))
    for lease in await book.driver.reserve(["q"], limit=book.pick((1, 2)), lease_s=lease_s):
        one = book.known[lease.message_id]
        one.reserved, one.leased_until = True, now + lease_s
        book.leases.append(lease)


async def _settle(book: Book) -> None:
    if not book.leases:
        return
    lease = book.pick(book.leases[-3:])
    now, follow_up = book.sim.clock.now(), book.pick((None, book.message()))
    follow_ups = () if follow_up is None else (follow_up,)
    end: Settlement = book.pick(
        (
            Complete(follow_ups=follow_ups),
            Release(counted=True, delay_s=60, follow_ups=follow_ups),
            Bury(reason=DeadReason.FAILED, follow_ups=follow_ups),
        )
    )
    if await book.driver.settle([(lease, end)]):
        return
    one = book.known[lease.message_id]
    one.leased_until, one.dead = None, isinstance(end, Bury)
    one.gone = isinstance(end, Complete)
    if follow_up is not None:
        book.expect([follow_up], now)  # where it would raise, nothing is stored either


async def _pause(book: Book) -> None:
    await asyncio.sleep(book.pick((1, 59.5, 90, 601)))


async def _operate(book: Book) -> None:
    name = book.pick(sorted(book.known) or ["none"])
    done = book.pick((book.driver.cancel, book.driver.discard))
    for gone in await done([name]):
        book.known[gone].gone = True
    if book.pick((False, True)):
        dead = [name for name, one in book.known.items() if one.dead and not one.gone]
        moved = await book.driver.redrive("q", limit=len(dead))
        want(moved == len(dead), "redrive", f"{moved} came back, not {len(dead)}")
        for name in dead:
            book.known[name].dead, book.known[name].redriven = False, True


# -- tasks -------------------------------------------------------------------------------------------


class Kept(AsyncTask[str]):
    """Takes its time, fails at first, and holds its user's key until it is done."""

    user: str
    options: dict[str, int] = {}
    unique = Unique(lambda self: self.user)
    queue = "work"
    retry_delay = 5

    async def execute(self) -> str:
        await asyncio.sleep(7)
        if self.attempt == 1 and self.user == "u1":
            raise Retry
        return self.user


class Alike(Kept):
    """A task whose keys are made of all of its arguments."""

    unique = True


class Other(Kept):
    """Another task that makes its keys in the same way."""


async def unique_tasks(sim: Simulation) -> None:
    """Dispatch unique tasks while workers run them under faults: no key is held twice at once, and none for ever."""
    keys: dict[str, object] = {}
    store = sim.queue.driver

    async def dispatch(task: AsyncTask[Any], key: object) -> str:
        before = set(keys)
        task_id = await task.dispatch()
        known = keys.setdefault(task_id, key)
        want(known == key, "handle", f"{task_id} is of {known}, not of {key}")
        living = [one.id for one in (await store.list_messages("work")).messages if one.state is not State.DEAD]  # type: ignore[attr-defined]  # pyright: ignore
        held = [keys[name] for name in living if name in keys]
        want(len(held) == len(set(held)), "unique", f"held twice: {held}")
        want(task_id in living or task_id in before, "handle", f"{task_id} is no message")
        want(task_id == task.task_id, "handle", f"{task_id} was returned, and the task says {task.task_id}")
        return task_id

    async def produce(number: int) -> None:
        for turn in range(6):
            await asyncio.sleep(sim.rng.random() * 6)
            user = f"u{(number + turn) % 2}"
            options = {"x": 1, "y": 2} if turn % 2 else {"y": 2, "x": 1}
            try:
                await dispatch(Kept(user=user), ("kept", user))
                await dispatch(Other(user=user), ("other", user))
                await dispatch(Alike(user=user, options=options), ("alike", user))
            except AsyncTasqError:  # a fault: whether it was stored is not known
                return

    producers = [asyncio.ensure_future(produce(number)) for number in range(3)]
    await sim.settle()
    await asyncio.gather(*producers)
    sim.faults.stop()
    await sim.settle()
    before = set(keys)
    for user in ("u0", "u1"):
        for task, key in ((Kept(user=user), "kept"), (Alike(user=user, options={"x": 1, "y": 2}), "alike")):
            task_id = await dispatch(task, (key, user))
            want(task_id not in before, "unique", f"{key} of {user} is held for ever by {task_id}")
    await sim.settle()
