"""The Redis driver and the memory driver, step by step through the same random program."""

import random
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from asynctasq.clock import Clock
from asynctasq.drivers.base import Page
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.redis_driver import RedisDriver
from asynctasq.kernel.messages import (
    Bury,
    Complete,
    DeadReason,
    Depth,
    ErrorRecord,
    Lease,
    Message,
    Progress,
    Release,
    Settlement,
    State,
    StoredMessage,
)
from asynctasq.testing.servers import Server, start_server

QUEUES = ("a", "b", "c")
STEP_S = 100.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = start_server("redis")
    yield server
    server.remove()


class CallClock(Clock):
    """Goes on by a millisecond a call, as a server's does: the order of calls is the order of times in both."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class Program:
    """Do the same with both drivers. Delays and leases are multiples of a step much longer than any run."""

    def __init__(self, redis: RedisDriver, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = CallClock()
        self.redis, self.memory = redis, MemoryDriver(clock=self.clock)
        self.leases: list[tuple[Lease, Lease]] = []
        self.ids = 0

    async def both(self, method: str, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self.clock.at += 0.001
        return await getattr(self.redis, method)(*args, **kwargs), await getattr(self.memory, method)(*args, **kwargs)

    async def same(self, method: str, *args: Any, **kwargs: Any) -> None:
        ours, theirs = await self.both(method, *args, **kwargs)
        assert plain(ours) == plain(theirs), (method, args, kwargs)

    def messages(self, most: int) -> list[Message]:
        return [self.message() for _ in range(self.rng.randint(0, most))]

    def message(self) -> Message:
        self.ids += 1
        number = self.rng.randint(1, self.ids)
        if f"m-{number}" not in self.memory._rows:
            # Not an id of the past: the memory driver's tokens start again when an id is used again.
            number = self.ids
        delay_s = STEP_S * self.rng.choice((0, 0, 0, 1, 3))
        return Message(id=f"m-{number}", queue=self.rng.choice(QUEUES), body=b"%d" % number, delay_s=delay_s)

    def settlement(self) -> Settlement:
        rng = self.rng
        error = rng.choice((None, ErrorRecord(type="E", message="é\ud800", traceback="")))
        follow_ups = tuple(self.messages(2)) if rng.random() < 0.3 else ()
        counted, crashed = rng.random() < 0.5, rng.random() < 0.2
        match rng.randint(0, 3):
            case 0:
                return Complete(follow_ups=follow_ups)
            case 1:
                result, ttl_s = rng.choice((None, b"", b"r")), rng.choice((0, STEP_S))
                return Complete(result=result, result_ttl_s=ttl_s, follow_ups=follow_ups)
            case 2:
                delay_s = rng.choice((0, STEP_S))
                return Release(delay_s=delay_s, counted=counted, crashed=crashed, error=error, follow_ups=follow_ups)
            case _:
                reason = rng.choice(list(DeadReason))
                return Bury(reason=reason, counted=counted, crashed=crashed, error=error, follow_ups=follow_ups)

    async def turn(self, most_settled: int, limit: int) -> None:
        count = min(len(self.leases), self.rng.randint(0, most_settled))
        chosen = [(pair, self.settlement()) for pair in self.rng.choices(self.leases, k=count)] if count else []
        queues = self.rng.sample(QUEUES, self.rng.randint(1, 3))
        self.clock.at += 0.001
        ours = await self.redis.turn(
            [(pair[0], settlement) for pair, settlement in chosen], queues, limit=limit, lease_s=STEP_S
        )
        theirs = await self.memory.turn(
            [(pair[1], settlement) for pair, settlement in chosen], queues, limit=limit, lease_s=STEP_S
        )
        assert set(ours[0]) == set(theirs[0])
        assert [plain(lease) for lease in ours[1]] == [plain(lease) for lease in theirs[1]]
        self.leases += zip(ours[1], theirs[1], strict=True)
        completed = {pair[1].message_id for pair, settlement in chosen if isinstance(settlement, Complete)}
        self.leases = [pair for pair in self.leases if pair[1].message_id not in completed][-30:]

    async def extend(self) -> None:
        chosen = self.rng.sample(self.leases, min(len(self.leases), 3))
        self.clock.at += 0.001
        ours = await self.redis.extend([pair[0] for pair in chosen], lease_s=2 * STEP_S)
        assert set(ours) == set(await self.memory.extend([pair[1] for pair in chosen], lease_s=2 * STEP_S))

    def advance(self) -> None:
        by_s = self.rng.choice((STEP_S, STEP_S / 2, 3 * STEP_S))
        self.redis.clock_offset += by_s
        self.memory.clock_offset += by_s

    async def step(self) -> None:  # noqa: C901 - one of many calls
        ids = [f"m-{self.rng.randint(1, self.ids + 1)}" for _ in range(3)]
        queue = self.rng.choice(QUEUES)
        match self.rng.randint(0, 15):
            case 0 | 1 | 2:
                await self.same("enqueue", self.messages(8))
            case 3 | 4 | 5:
                await self.turn(6, self.rng.choice((0, 1, 5)))
            case 6:
                await self.extend()
            case 7 | 8:
                self.advance()
            case 9:
                await self.same("redrive", queue, limit=self.rng.randint(0, 3))
            case 10:
                await self.same("cancel", ids)
            case 11:
                await self.same("discard", ids)
            case 12 if self.rng.random() < 0.2:
                await self.same("purge", queue)
            case 13:
                await self.same("fetch_result", ids[0])
                await self.same("wait_result", ids[0], wait_s=0)
            case 14 if self.leases:
                await self.report()
            case _:
                await self.same("find", ids[0])

    async def report(self) -> None:
        """Report by leases of now and of the past, in one call."""
        chosen = self.rng.sample(self.leases, min(3, len(self.leases)))
        told = [Progress(self.rng.randint(0, 5), 5, "é") for _ in chosen]
        self.clock.at += 0.001
        await self.redis.report_progress([(ours, each) for (ours, _), each in zip(chosen, told, strict=True)])
        await self.memory.report_progress([(theirs, each) for (_, theirs), each in zip(chosen, told, strict=True)])

    async def compare(self) -> None:
        for queue in QUEUES:
            await self.same("depth", queue)
            state = self.rng.choice((None, *State))
            cursor_limit = self.rng.choice((1, 3, 100))
            ours, theirs = await self.pages(queue, state, cursor_limit)
            assert ours == theirs, (queue, state)
        await self.same("queues")

    async def pages(self, queue: str, state: State | None, limit: int) -> tuple[list[Any], list[Any]]:
        found: list[list[Any]] = []
        for driver in (self.redis, self.memory):
            pages, cursor = [], None
            while True:
                page = await driver.list_messages(queue, state=state, limit=limit, cursor=cursor)
                pages.append(plain(page))
                cursor = page.cursor
                if cursor is None:
                    break
            found.append(pages)
        return found[0], found[1]


def plain(value: Any) -> Any:
    """Leave out what must differ: instants (whole steps stay) and tokens."""
    match value:
        case Lease():
            return replace(value, token="", enqueued_at=0, expires_at=0)
        case StoredMessage():
            return replace(value, enqueued_at=0, visible_at=0, reserved_at=None if value.reserved_at is None else 0)
        case Depth():
            age = value.oldest_age_s
            return replace(value, oldest_age_s=None if age is None else round(age / STEP_S, 0))
        case Page():
            return [plain(message) for message in value.messages], value.cursor is None
        case set() | frozenset():
            return set(value)
        case _:
            return value


@pytest.fixture
async def redis(server: Server) -> AsyncIterator[RedisDriver]:
    driver = RedisDriver(server.url, namespace=f"model-{uuid.uuid4()}")
    yield driver
    await driver.close()


@pytest.mark.parametrize("seed", range(12))
async def test_does_what_the_memory_driver_does(redis: RedisDriver, seed: int) -> None:
    program = Program(redis, seed)

    for _ in range(120):
        await program.step()
        await program.compare()


async def test_an_emptied_namespace_leaves_no_key(redis: RedisDriver) -> None:
    program = Program(redis, 99)
    for _ in range(80):
        await program.step()

    for queue in QUEUES:
        await redis.redrive(queue, limit=10**6)
    redis.clock_offset += 1000 * STEP_S
    while leases := await redis.reserve(QUEUES, limit=1000, lease_s=STEP_S):
        await redis.settle([(lease, Complete()) for lease in leases])

    for number in range(1, program.ids + 1):
        await redis.fetch_result(f"m-{number}")
    keys = [key for key in await redis.command("KEYS", "*") if key.startswith(f"{{{redis._namespace}}}".encode())]
    assert keys == []
