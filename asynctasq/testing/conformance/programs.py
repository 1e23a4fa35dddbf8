"""Random programs over the driver contract, run on the memory driver and on the driver under test, step by step."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from asynctasq.drivers.base import CancelsRunning, Driver, Enqueued, Inspectable, ReservesReleased
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import UniqueConflictError
from asynctasq.kernel.messages import (
    Bury,
    Complete,
    DeadReason,
    Depth,
    ErrorRecord,
    Lease,
    Message,
    Release,
    Settlement,
    UniqueKey,
)
from asynctasq.kernel.priority import NORMAL, Priority
from asynctasq.testing.conformance.store_under_test import StoreUnderTest

__all__ = ["DELAYS_S", "NO_OP", "Step", "run_program", "show"]

QUEUES = ("a", "b")
DELAYS_S = (0.0, 0.0, 0.0, 60.0, 120.0, 86400.0)
"""Multiples of a minute, as is what the clock is moved by: real time, which passes too, never decides."""
LEVELS: tuple[Priority, ...] = (NORMAL, "high", NORMAL, "low")
FAIR_KEYS = ("f0", "f0", "f1", "f0", "f0", "f2", "", "f0")
LEASES_S = (90.0, 630.0)
"""Half a minute off: no lease ends when a message becomes visible, or only some drivers would see a tie."""
KEYS: tuple[UniqueKey, ...] = (
    *(UniqueKey(key="k0"), UniqueKey(key="k0", until="started"), UniqueKey(key="k0", on_conflict="replace")),
    *(UniqueKey(key="k1", until="started", on_conflict="replace"), UniqueKey(key="k1", on_conflict="raise")),
    *(UniqueKey(key="k1", window_s=120.0), UniqueKey(key="k1", window_s=600.0, on_conflict="replace")),
)
STEP_S = 0.001
"""The model's clock moves on between steps, as a server's does, so that two steps never store at one instant."""

Step = tuple[Any, ...]
"""The name of an operation and numbers; they say which queue, message or lease is meant, whatever there is."""
NO_OP: Step = ("no-op",)
"""Does nothing: shrinking replaces the steps that a failing program does not need by it."""


@dataclass(slots=True)
class ModelClock:
    """The clock of the model: moved by hand."""

    time_s: float = 1_700_000_000.0

    def now(self) -> float:
        return self.time_s

    def monotonic(self) -> float:
        return self.time_s


@dataclass(slots=True)
class _Pair:
    """The model and the driver under test, and every lease that both have given, oldest first."""

    store: StoreUnderTest
    prefix: str
    clock: ModelClock
    model: MemoryDriver
    leases: list[tuple[Lease, Lease]] = field(default_factory=list[tuple[Lease, Lease]])

    @property
    def driver(self) -> Driver:
        return self.store.driver

    @property
    def has_levels(self) -> bool:
        return bool(self.store.capabilities.priorities)

    def queue(self, number: int) -> str:
        return f"{self.prefix}-{QUEUES[number % len(QUEUES)]}"

    def message(self, number: int, *, queue: int, delay: int) -> Message:
        """Return one of few messages, so that ids meet again."""
        name = f"{self.prefix}-{number % 8}"
        delay_s = DELAYS_S[delay % len(DELAYS_S)]
        body, level = f"{name} {queue}".encode(), LEVELS[(number + delay) % len(LEVELS)] if self.has_levels else NORMAL
        made = Message(id=name, queue=self.queue(queue), body=body, delay_s=delay_s, priority=level)
        return replace(made, fair_key=self.fair_key(number + queue)) if delay % 2 else made

    def fair_key(self, number: int) -> str:
        """Return one of few fair keys, or none; none where none is claimed."""
        return FAIR_KEYS[number % len(FAIR_KEYS)] if self.store.capabilities.fair else ""

    def fair(self, number: int, *, queue: int) -> Message:
        """Return such a message that takes turns with others of its queue, most of which have the same level."""
        plain = self.message(number, queue=queue, delay=0)
        return replace(plain, priority=NORMAL if queue % 4 else plain.priority, fair_key=self.fair_key(number))

    def keyed(self, number: int, key: int, *, queue: int) -> Message:
        """Return such a message with one of few unique keys, or with none; without one where none is claimed."""
        plain = self.message(number, queue=queue, delay=queue)
        if not self.store.capabilities.unique or key % 8 == len(KEYS):
            return plain
        unique = KEYS[key % 8]
        return replace(plain, unique=replace(unique, key=f"{self.prefix}-{unique.key}"))

    def names(self, numbers: Sequence[int]) -> list[str]:
        """Return the ids of messages, by odd numbers those leased last, of which some may be dead letters by now."""
        leased = {number: mine.message_id for number in numbers if number % 2 for mine, _ in self.leases_of([number])}
        return [leased.get(number) or f"{self.prefix}-{number % 8}" for number in numbers]

    def leases_of(self, numbers: Sequence[int]) -> list[tuple[Lease, Lease]]:
        """Return the leases meant, each once, oldest first; 0 is the latest, which is the likeliest to be live."""
        count = len(self.leases)
        chosen = {count - 1 - number % count for number in numbers} if count else set[int]()
        return [self.leases[number] for number in sorted(chosen)]


def _fields(leases: Sequence[Lease]) -> list[tuple[str, str, bytes, int, int]]:
    return [(one.message_id, one.queue, one.body, one.attempt, one.crashes) for one in leases]


async def _enqueue(pair: _Pair, queue: int, delay: int, *numbers: int) -> tuple[object, object]:
    batch = [pair.message(number, queue=queue + index, delay=delay + index) for index, number in enumerate(numbers)]
    return await pair.model.enqueue(batch), await pair.driver.enqueue(batch)


async def _enqueue_fair(pair: _Pair, queue: int, *numbers: int) -> tuple[object, object]:
    batch = [pair.fair(number, queue=queue) for number in numbers]
    return await pair.model.enqueue(batch), await pair.driver.enqueue(batch)


async def _enqueue_keyed(pair: _Pair, queue: int, key: int, *numbers: int) -> tuple[object, object]:
    batch = [pair.keyed(number, key + index, queue=queue + index) for index, number in enumerate(numbers)]
    return await _enqueued(pair.model, batch), await _enqueued(pair.driver, batch)


async def _enqueued(driver: Driver, batch: Sequence[Message]) -> object:
    """Return what is new, and who holds the keys of the rest; of a refused batch, who held the key."""
    try:
        new = await driver.enqueue(batch)
    except UniqueConflictError as error:
        return f"conflict with {error.task_id}"
    return list(new), dict(new.holders) if isinstance(new, Enqueued) else {}


async def _reserve(pair: _Pair, first: int, limit: int, lease: int) -> tuple[object, object]:
    queues = [pair.queue(first), pair.queue(first + 1)]
    lease_s = LEASES_S[lease % len(LEASES_S)]
    wanted = await pair.model.reserve(queues, limit=limit, lease_s=lease_s)
    got = await pair.driver.reserve(queues, limit=limit, lease_s=lease_s)
    if _fields(wanted) == _fields(got):
        pair.leases += zip(wanted, got, strict=True)
    return _fields(wanted), _fields(got)


def _settlement(pair: _Pair, kind: int, follow_up: int) -> Settlement:
    follow_ups: tuple[Message, ...] = ()
    if follow_up % 3 == 0:
        fair = (pair.fair(follow_up + 1, queue=kind), pair.fair(follow_up + 2, queue=kind))
        follow_ups = (pair.message(follow_up, queue=kind, delay=follow_up), *fair)
    elif follow_up % 3 == 1:
        follow_ups = (pair.keyed(follow_up, kind, queue=kind), pair.keyed(follow_up + 1, kind, queue=kind))
    error = ErrorRecord(type="E", message=f"{kind}")
    match kind % 6:
        case 0 | 1:
            return Complete(follow_ups=follow_ups)
        case 2:
            return Release(counted=True, error=error, follow_ups=follow_ups)
        case 3:
            return Release(counted=False, delay_s=60.0)
        case 4:
            return Release(counted=bool(follow_up % 2), crashed=True, delay_s=120.0)
        case _:
            reason = list(DeadReason)[follow_up % len(DeadReason)]
            return Bury(reason=reason, counted=True, error=error, follow_ups=follow_ups)


async def _settle(pair: _Pair, kind: int, follow_up: int, *numbers: int) -> tuple[object, object]:
    # The entries of a batch may have one instant or several: only outcomes that leave no tie are in one batch.
    chosen = pair.leases_of(numbers)
    plain = [Complete() if kind % 2 else Bury(reason=DeadReason.FAILED) for _ in chosen[:-1]]
    ends: list[Settlement] = [*plain, *(_settlement(pair, kind, follow_up) for _ in chosen[-1:])]
    wanted = await pair.model.settle([(lease, end) for (lease, _), end in zip(chosen, ends, strict=True)])
    got = await pair.driver.settle([(lease, end) for (_, lease), end in zip(chosen, ends, strict=True)])
    return sorted(wanted), sorted(got)


async def _turn(pair: _Pair, kind: int, limit: int, number: int) -> tuple[object, object]:
    chosen = pair.leases_of([number])
    end = _settlement(pair, kind, number)
    queues = [pair.queue(kind), pair.queue(kind + 1)]
    lease_s = LEASES_S[kind % len(LEASES_S)]
    lost, wanted = await pair.model.turn([(lease, end) for lease, _ in chosen], queues, limit=limit, lease_s=lease_s)
    driver_lost, got = await pair.driver.turn(
        [(lease, end) for _, lease in chosen], queues, limit=limit, lease_s=lease_s
    )
    if _fields(wanted) == _fields(got):
        pair.leases += zip(wanted, got, strict=True)
    return (sorted(lost), _fields(wanted)), (sorted(driver_lost), _fields(got))


async def _extend(pair: _Pair, lease: int, *numbers: int) -> tuple[object, object]:
    chosen = pair.leases_of(numbers)
    lease_s = LEASES_S[lease % len(LEASES_S)]
    wanted = await pair.model.extend([mine for mine, _ in chosen], lease_s=lease_s)
    return sorted(wanted), sorted(await pair.driver.extend([theirs for _, theirs in chosen], lease_s=lease_s))


async def _again(pair: _Pair, lease: int, *numbers: int) -> tuple[object, object]:
    driver = pair.driver
    if not isinstance(driver, ReservesReleased) or not driver.capabilities.reserves_released:
        return None, None
    chosen = pair.leases_of(numbers)
    lease_s = LEASES_S[lease % len(LEASES_S)]
    wanted = await pair.model.reserve_released([mine for mine, _ in chosen], lease_s=lease_s)
    got = await driver.reserve_released([theirs for _, theirs in chosen], lease_s=lease_s)
    if _fields(wanted) == _fields(got):
        pair.leases += zip(wanted, got, strict=True)
    return _fields(wanted), _fields(got)


async def _redrive(pair: _Pair, queue: int, limit: int) -> tuple[object, object]:
    name = pair.queue(queue)
    return await pair.model.redrive(name, limit=limit), await pair.driver.redrive(name, limit=limit)


async def _advance(pair: _Pair, minutes: int) -> tuple[object, object]:
    pair.clock.time_s += 60.0 * minutes
    await pair.store.advance(60.0 * minutes)
    return None, None


async def _remove(pair: _Pair, kind: int, *numbers: int) -> tuple[object, object]:
    driver = pair.driver
    if not isinstance(driver, Inspectable):
        return None, None
    names = pair.names(numbers)
    if kind % 4 == 0:
        return sorted(await pair.model.cancel(names)), sorted(await driver.cancel(names))
    if kind % 4 == 1:
        return sorted(await pair.model.discard(names)), sorted(await driver.discard(names))
    if kind % 4 == 3:
        return sorted(await pair.model.redrive_ids(names)), sorted(await driver.redrive_ids(names))
    return await pair.model.purge(pair.queue(kind)), await driver.purge(pair.queue(kind))


async def _cancel(pair: _Pair, *numbers: int) -> tuple[object, object]:
    driver = pair.driver
    if not driver.capabilities.cancels_running or not isinstance(driver, CancelsRunning):
        return None, None
    names = pair.names(numbers)
    wanted, got = await pair.model.cancel_running(names), await driver.cancel_running(names)
    return _known_tokens(pair, wanted, 0), _known_tokens(pair, got, 1)


def _known_tokens(pair: _Pair, tokens: Mapping[str, str], side: int) -> list[tuple[str, list[int]]]:
    """Return each message with the numbers of the leases whose token it was cancelled under."""
    return sorted(
        (
            name,
            [
                number
                for number, leases in enumerate(pair.leases)
                if leases[side].token == token and leases[side].message_id == name
            ],
        )
        for name, token in tokens.items()
    )


_STEPS: Mapping[str, Callable[..., Awaitable[tuple[object, object]]]] = {
    "enqueue": _enqueue,
    "enqueue fair": _enqueue_fair,
    "enqueue keyed": _enqueue_keyed,
    "reserve": _reserve,
    "settle": _settle,
    "turn": _turn,
    "extend": _extend,
    "again": _again,
    "redrive": _redrive,
    "advance": _advance,
    "remove": _remove,
    "cancel": _cancel,
}


def _counts(depth: Depth) -> tuple[int, int, int, int]:
    return depth.ready, depth.scheduled, depth.reserved, depth.dead


async def _messages(driver: Inspectable, queue: str) -> list[object]:
    """Return every message of a queue, as an operator sees it."""
    page = await driver.list_messages(queue)
    return [
        (one.id, one.queue, one.body, one.priority, one.state.value, one.attempts, one.crashes, one.reason, one.error)
        for one in page.messages
    ]


async def run_program(store: StoreUnderTest, prefix: str, steps: Sequence[Step]) -> None:
    """Run the steps on both; raise AssertionError at the first difference, with the program so far."""
    clock = ModelClock()
    pair = _Pair(store=store, prefix=prefix, clock=clock, model=MemoryDriver(clock=clock))
    for position, (name, *numbers) in enumerate(steps, 1):
        clock.time_s += STEP_S
        if name == "no-op":
            continue
        wanted, got = await _STEPS[name](pair, *numbers)
        _compare(wanted, got, "returned", steps[:position])
        queue = pair.queue(position)
        counted = _counts(await pair.model.depth(queue)), _counts(await pair.driver.depth(queue))
        _compare(*counted, f"counts in {queue}", steps[:position])
    driver = store.driver
    if isinstance(driver, Inspectable) and driver.capabilities.inspects:
        for queue in (pair.queue(0), pair.queue(1)):
            wanted, got = await _messages(pair.model, queue), await _messages(driver, queue)
            _compare(wanted, got, "left behind", steps)


def _compare(wanted: object, got: object, what: str, steps: Sequence[Step]) -> None:
    if wanted != got:
        raise AssertionError(f"the driver {what} {got}\nthe memory driver {what} {wanted}\nprogram:\n{show(steps)}")


def show(steps: Sequence[Step]) -> str:
    """Return the program as text that can be pasted into a test."""
    return "[\n" + "".join(f"    {step!r},\n" for step in steps if step != NO_OP) + "]"
