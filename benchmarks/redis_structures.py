"""What ways of keeping messages in Redis cost the server: CPU per message and memory per waiting message.

    python benchmarks/redis_structures.py [--jobs 20000]

The rivals do no more than store, lease and complete, without checking what they do; the driver's own scripts do
everything the contract asks for. Server CPU hardly depends on what else the machine does.
"""

import argparse
import asyncio
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from asynctasq.drivers.redis_driver import RedisDriver
from asynctasq.kernel.messages import Complete, Lease, Message, Settlement
from asynctasq.testing.servers import start_server

BODY = b"x" * 200

# One hash per message, two sorted sets: HSET, HINCRBY and DEL once per message.
HASHES_STORE = """
for i = 1, #ARGV, 2 do
  redis.call('HSET', '{h}:m:' .. ARGV[i], 'queue', 'q', 'body', ARGV[i + 1], 'enqueued', '1795519524243735')
  redis.call('ZADD', '{h}:due', 1795519524243735, ARGV[i])
end
"""
HASHES_TURN = """
for i = 2, #ARGV do
  if redis.call('ZREM', '{h}:leased', ARGV[i]) == 1 then redis.call('DEL', '{h}:m:' .. ARGV[i]) end
end
local reply = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', '{h}:due', '-inf', '+inf', 'LIMIT', 0, ARGV[1])) do
  redis.call('ZREM', '{h}:due', id)
  redis.call('ZADD', '{h}:leased', 1795519554243735, id)
  redis.call('HINCRBY', '{h}:m:' .. id, 'token', 1)
  reply[#reply + 1] = id
  reply[#reply + 1] = redis.call('HMGET', '{h}:m:' .. id, 'token', 'body', 'attempts', 'crashes')
end
return reply
"""
# A list of ids, one hash of bodies, a sorted set of leases: arrival order only, no delay, no token, no counts.
LIST_STORE = """
for i = 1, #ARGV, 2 do
  redis.call('HSET', '{l}:bodies', ARGV[i], ARGV[i + 1])
  redis.call('RPUSH', '{l}:ready', ARGV[i])
end
"""
LIST_TURN = """
if #ARGV > 1 then
  redis.call('ZREM', '{l}:leased', unpack(ARGV, 2))
  redis.call('HDEL', '{l}:bodies', unpack(ARGV, 2))
end
local ids = redis.call('LPOP', '{l}:ready', ARGV[1])
if not ids then return {} end
local places = {}
for i = 1, #ids do places[2 * i - 1] = 1795519554243735; places[2 * i] = ids[i] end
redis.call('ZADD', '{l}:leased', unpack(places))
local bodies, reply = redis.call('HMGET', '{l}:bodies', unpack(ids)), {}
for i = 1, #ids do reply[2 * i - 1] = ids[i]; reply[2 * i] = bodies[i] end
return reply
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to keep messages: how to store ids, and how to drain them in turns of a batch."""

    title: str
    store: Callable[[list[str]], Awaitable[None]]
    drain: Callable[[int], Awaitable[None]]


def scripted(driver: RedisDriver, title: str, store: str, turn: str) -> Way:
    """Return the way of two scripts."""

    async def store_all(ids: list[str]) -> None:
        for first in range(0, len(ids), 500):
            arguments: list[str | bytes] = []
            for message_id in ids[first : first + 500]:
                arguments += (message_id, BODY)
            await driver.command("EVAL", store, 0, *arguments)

    async def drain(batch: int) -> None:
        done: list[bytes] = []
        while True:
            reply = await driver.command("EVAL", turn, 0, batch, *done)
            if not reply:
                return
            done = reply[::2]

    return Way(title=title, store=store_all, drain=drain)


def of_the_driver(driver: RedisDriver) -> Way:
    """Return the way of the driver's own scripts."""

    async def store(ids: list[str]) -> None:
        for first in range(0, len(ids), 500):
            await driver.enqueue([Message(id=one, queue="q", body=BODY) for one in ids[first : first + 500]])

    async def drain(batch: int) -> None:
        settlements: list[tuple[Lease, Settlement]] = []
        while True:
            _, leases = await driver.turn(settlements, ["q"], limit=batch, lease_s=30)
            if not leases:
                return
            settlements = [(lease, Complete()) for lease in leases]

    return Way(title="hashes and sorted sets in bulk (the driver)", store=store, drain=drain)


async def info(driver: RedisDriver, section: str) -> dict[str, str]:
    """Return the fields of one section of INFO."""
    lines = (await driver.command("INFO", section)).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


async def server_cpu_s(driver: RedisDriver) -> float:
    """Return the seconds of CPU that the server has used in user mode, where its commands and scripts run."""
    return float((await info(driver, "cpu"))["used_cpu_user"])


async def measure(driver: RedisDriver, way: Way, jobs: int, batch: int) -> tuple[float, float, float]:
    """Return CPU per message of storing and of draining, in microseconds, and bytes per waiting message."""
    await driver.command("FLUSHALL")
    ids = [f"{number:08x}-0000-4000-8000-{batch:012x}" for number in range(jobs)]
    empty = int((await info(driver, "memory"))["used_memory"])
    before = await server_cpu_s(driver)
    await way.store(ids)
    stored = await server_cpu_s(driver)
    full = int((await info(driver, "memory"))["used_memory"])
    between = await server_cpu_s(driver)
    await way.drain(batch)
    drained = await server_cpu_s(driver)
    assert await driver.command("DBSIZE") == 0, "something was left behind"
    return (stored - before) / jobs * 1e6, (drained - between) / jobs * 1e6, (full - empty) / jobs


async def main() -> None:
    """Measure all ways on one private server, interleaved; print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    server = start_server("redis")
    driver = RedisDriver(server.url)
    await driver.command("CONFIG", "SET", "appendonly", "no")
    ways = [
        of_the_driver(driver),
        scripted(driver, "a hash per message, one command each", HASHES_STORE, HASHES_TURN),
        scripted(driver, "a list, arrival order only, nothing checked", LIST_STORE, LIST_TURN),
    ]
    try:
        results: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
        for _ in range(arguments.rounds):
            for way in ways:
                for batch in (10, 100):
                    found = await measure(driver, way, arguments.jobs, batch)
                    results.setdefault((way.title, batch), []).append(found)
        for (title, batch), rounds in results.items():
            store_us, drain_us, memory = (statistics.median(column) for column in zip(*rounds, strict=True))
            print(
                f"{title:<46} batch {batch:>3}: store {store_us:5.1f} us, turn {drain_us:5.1f} us, {memory:5.0f} bytes"
            )
    finally:
        await driver.close()
        server.remove()


if __name__ == "__main__":
    asyncio.run(main())
