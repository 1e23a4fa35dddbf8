"""Jobs per second of the PostgreSQL driver's own statements in a bare loop: one `turn` after the other, no tasks.

Run: python benchmarks/postgres_bare_loop.py [--url postgresql://...] [--messages 40000]
Without a URL a private server is started. Commits are synchronous.
"""

import argparse
import asyncio
import contextlib
import statistics
import time
import uuid
from collections.abc import Iterator

from asynctasq.drivers.base import Settlements
from asynctasq.drivers.postgres_driver import PostgresDriver
from asynctasq.kernel.messages import Complete, Message
from asynctasq.testing.servers import Servers

QUEUE = "bench"
BODY = b"x" * 100


@contextlib.contextmanager
def server_url(given: str | None) -> Iterator[str]:
    if given:
        yield given
        return
    with Servers() as servers:
        yield servers.postgres().url


async def fill(driver: PostgresDriver, count: int) -> float:
    """Enqueue and return messages per second."""
    messages = [Message(id=str(uuid.uuid4()), queue=QUEUE, body=BODY) for _ in range(count)]
    started = time.perf_counter()
    for start in range(0, count, 5_000):
        await driver.enqueue(messages[start : start + 5_000])
    return count / (time.perf_counter() - started)


async def drain(driver: PostgresDriver, batch: int, count: int) -> tuple[float, float]:
    """Turn until `count` messages are done; return jobs per second and microseconds of our own CPU per job."""
    settlements: Settlements = []
    done = 0
    started, cpu = time.perf_counter(), time.process_time()
    while done < count:
        lost, leases = await driver.turn(settlements, [QUEUE], limit=batch, lease_s=30)
        assert not lost
        done += len(settlements)
        settlements = [(lease, Complete()) for lease in leases]
    elapsed = time.perf_counter() - started
    return done / elapsed, (time.process_time() - cpu) / done * 1e6


async def enqueue_singly(driver: PostgresDriver, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        await driver.enqueue([Message(id=str(uuid.uuid4()), queue=QUEUE, body=BODY)])
    return count / (time.perf_counter() - started)


async def run(url: str, count: int, rounds: int) -> None:
    driver = PostgresDriver(url, table_prefix="bench", auto_migrate=True)
    await driver.open()
    await driver.purge(QUEUE)
    for batch in (10, 100):
        size = count if batch > 10 else max(count // 4, 1_000)
        results: list[tuple[float, float]] = []
        bulk: list[float] = []
        for _ in range(rounds):
            bulk.append(await fill(driver, size))
            results.append(await drain(driver, batch, size))
        rates = sorted(rate for rate, _ in results)
        print(
            f"turn of {batch:3}: {statistics.median(rates):9,.0f} jobs/s (from {rates[0]:,.0f} to {rates[-1]:,.0f}), "
            f"{statistics.median(cpu for _, cpu in results):.1f} us of our CPU per job; "
            f"enqueue in bulk {statistics.median(bulk):,.0f}/s"
        )
    print(f"enqueue one by one: {await enqueue_singly(driver, 2_000):,.0f}/s")
    await driver.purge(QUEUE)
    await driver.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--messages", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    with server_url(options.url) as url:
        if options.uvloop:
            import uvloop

            uvloop.run(run(url, options.messages, options.rounds))
        else:
            asyncio.run(run(url, options.messages, options.rounds))


if __name__ == "__main__":
    main()
