"""How long ten messages of a small tenant wait behind 100,000 of another, with and without fair keys.

    python benchmarks/fairness.py [sqlite redis postgres] [--messages 100000] [--limit 10]

One loop takes and completes `--limit` messages a turn, until the small tenant's ten are done. Printed are how many
messages were done by then and how long that took, and Jain's index of the shares that ten tenants with backlogs of 1 to
10 times 100 messages have of the first 500: 1 is equal, 1/10 is one tenant alone. Servers are private ones, started for
the run.
"""

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from asynctasq.drivers.base import Driver
from asynctasq.drivers.urls import create_driver
from asynctasq.kernel.messages import Complete, Lease, Message
from asynctasq.testing.conformance.harnesses import postgres, redis, sqlite
from asynctasq.testing.servers import Servers

KINDS = {"sqlite": sqlite.make_harness, "redis": redis.make_harness, "postgres": postgres.make_harness}
SMALL, BATCH, TENANTS, UNIT, TAKEN = 10, 1000, 10, 100, 500


async def store(driver: Driver, queue: str, tenant: str, count: int, *, fair: bool) -> float:
    """Store messages of a tenant; return seconds."""
    messages = [
        Message(id=f"{queue} {tenant} {number}", queue=queue, body=tenant.encode(), fair_key=tenant if fair else "")
        for number in range(count)
    ]
    started = time.perf_counter()
    for first in range(0, count, BATCH):
        await driver.enqueue(messages[first : first + BATCH])
    return time.perf_counter() - started


async def turn(driver: Driver, queue: str, done: Sequence[Lease], limit: int) -> list[Lease]:
    """Complete what was taken and take more."""
    _, leases = await driver.turn([(lease, Complete()) for lease in done], [queue], limit=limit, lease_s=600)
    return leases


async def small_behind_large(driver: Driver, queue: str, count: int, limit: int, *, fair: bool) -> str:
    """Return how long the small tenant waits."""
    took_s = await store(driver, queue, "large", count, fair=fair)
    started = time.perf_counter()
    await store(driver, queue, "small", SMALL, fair=fair)
    leases: list[Lease] = []
    done, left = 0, SMALL
    while left:
        leases = await turn(driver, queue, leases, limit)
        done += len(leases)
        left -= sum(lease.body == b"small" for lease in leases)
    waited_s = time.perf_counter() - started
    return f"done after {done:>7,} messages, {waited_s:8.3f} s (stored {count / took_s:8,.0f}/s)"


async def jain(driver: Driver, queue: str, limit: int, *, fair: bool) -> float:
    """Return how equal the shares of tenants with unequal backlogs are."""
    for number in range(TENANTS):
        await store(driver, queue, f"t{number}", UNIT * (TENANTS - number), fair=fair)
    shares = Counter[bytes]()
    leases: list[Lease] = []
    while shares.total() < TAKEN:
        leases = await turn(driver, queue, leases, limit)
        shares.update(lease.body for lease in leases)
    return shares.total() ** 2 / (TENANTS * sum(share**2 for share in shares.values()))


async def measure(kind: str, servers: Servers, count: int, limit: int) -> None:
    """Measure one backend and print it."""
    for fair in (False, True):
        harness = KINDS[kind](servers)
        await harness.prepare()
        driver = create_driver(harness.address())
        await driver.open()
        waited = await small_behind_large(driver, "mail", count, limit, fair=fair)
        index = await jain(driver, "print", limit, fair=fair)
        keys = "with keys" if fair else "without keys"
        print(f"{kind:<9} {keys:<13} ten of a small tenant: {waited}   Jain {index:.3f}", flush=True)
        await driver.close()
        await harness.clean_up()


def main() -> None:
    """Measure on the backends that are named, or on all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--limit", type=int, default=10)
    options = parser.parse_args()
    with Servers() as servers:
        for kind in options.kinds:
            asyncio.run(measure(kind, servers, options.messages, options.limit))


if __name__ == "__main__":
    main()
