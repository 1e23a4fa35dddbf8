"""What only Redis has of unique keys: entries that are out of date go, and an empty namespace keeps none."""

from collections.abc import AsyncIterator, Iterator

import pytest

from asynctasq.drivers.redis_driver import RedisDriver
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Message, UniqueKey
from tests.drivers.redis_driver.server import RedisServer, driving

KEYS = "{asynctasq}:unique"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer("--save", "", "--appendonly", "no") as server:
        yield server


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[RedisDriver]:
    async with driving(server.url) as driver:
        await driver.command("FLUSHALL")
        yield driver


def keyed(name: str, **of: object) -> Message:
    return Message(id=name, queue="q", body=b"body", unique=UniqueKey(key=f"key of {name}", **of))  # type: ignore[arg-type]


async def test_keys_that_nobody_holds_any_more_are_removed(redis: RedisDriver) -> None:
    await redis.enqueue([keyed(f"m{number}") for number in range(450)])
    leases = await redis.reserve(["q"], limit=400, lease_s=60)
    await redis.settle([(lease, Complete()) for lease in leases])
    assert await redis.command("HLEN", KEYS) == 450

    for _ in range(60):
        redis.clock_offset += 10  # so that it is time to look
        await redis.reserve(["none"], limit=1, lease_s=60)

    assert await redis.command("HLEN", KEYS) < 100
    left = {field.decode() for field in await redis.command("HKEYS", KEYS)}
    assert {f"key of m{number}" for number in range(400, 450)} <= left, "those that are held stay"


async def test_a_dead_letter_and_a_message_that_was_started_leave_no_key(redis: RedisDriver) -> None:
    await redis.enqueue([keyed("dead"), keyed("started", until="started")])
    dead, _ = await redis.reserve(["q"], limit=2, lease_s=60)
    await redis.settle([(dead, Bury(reason=DeadReason.FAILED))])

    for _ in range(3):
        redis.clock_offset += 10
        await redis.reserve(["none"], limit=1, lease_s=60)

    assert await redis.command("HLEN", KEYS) == 0


async def test_an_empty_namespace_has_no_keys(redis: RedisDriver) -> None:
    await redis.enqueue([keyed("a"), keyed("b")])
    await redis.settle([(lease, Complete()) for lease in await redis.reserve(["q"], limit=2, lease_s=60)])

    assert await redis.command("KEYS", "*") == []


async def test_a_window_expires_by_itself(redis: RedisDriver) -> None:
    await redis.enqueue([keyed("a", window_s=60.0)])

    [key] = [found for found in await redis.command("KEYS", "*") if b"window" in found]
    assert 0 < await redis.command("PTTL", key) <= 60_000
