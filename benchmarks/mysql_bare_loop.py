"""Jobs per second of the MySQL/MariaDB driver's own statements in a bare loop: one `turn` after the other, no tasks.

Run: python benchmarks/mysql_bare_loop.py [--url mysql://...] [--messages 40000]
Without a URL a private server is started and set to synchronous commits (innodb_flush_log_at_trx_commit=1).
"""

import argparse
import asyncio
import contextlib
import statistics
import time
import uuid
from collections.abc import AsyncIterator

from asynctasq.drivers.base import Settlements
from asynctasq.drivers.mysql_driver import MySQLDriver
from asynctasq.drivers.mysql_driver.address import parse_address
from asynctasq.drivers.mysql_driver.pool import Connection, connect
from asynctasq.kernel.messages import Complete, Message
from asynctasq.testing.conformance.harnesses.mysql import MySQLHarness
from asynctasq.testing.servers import Server, Servers

QUEUE = "bench"
BODY = b"x" * 100


@contextlib.asynccontextmanager
async def stores(url: str | None) -> AsyncIterator[MySQLHarness]:
    """Lend a database of its own."""
    with Servers() as servers:
        harness = MySQLHarness(Server(kind="mysql", url=url, owned=False) if url else servers.mysql())
        await harness.prepare()
        if not url:
            async with harness.admin() as admin:
                await admin.run("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
        try:
            yield harness
        finally:
            await harness.clean_up()


async def open_connection(harness: MySQLHarness) -> Connection:
    return await connect(parse_address(harness.url, command_timeout_s=3600))


async def fill(driver: MySQLDriver, count: int) -> float:
    """Enqueue and return messages per second."""
    messages = [Message(id=str(uuid.uuid4()), queue=QUEUE, body=BODY) for _ in range(count)]
    started = time.perf_counter()
    await driver.enqueue(messages)
    return count / (time.perf_counter() - started)


async def drain(driver: MySQLDriver, batch: int, count: int) -> tuple[float, float]:
    """Turn until `count` messages are done; return jobs per second and microseconds of our own CPU per job."""
    settlements: Settlements = []
    done = 0
    started, cpu = time.perf_counter(), time.process_time()
    while done < count:
        lost, leases = await driver.turn(settlements, [QUEUE], limit=batch, lease_s=60)
        assert not lost
        done += len(settlements)
        settlements = [(lease, Complete()) for lease in leases]
    return count / (time.perf_counter() - started), (time.process_time() - cpu) / count * 1e6


async def commits(connection: Connection, count: int = 300) -> float:
    """Return the median milliseconds of a transaction that changes one small row: what the disk allows."""
    await connection.run("CREATE TABLE one (n INT PRIMARY KEY) ENGINE=InnoDB", "INSERT INTO one VALUES (0)")
    times: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        await connection.run("UPDATE one SET n = n + 1")
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


async def idle_statements(harness: MySQLHarness, driver: MySQLDriver, seconds: float) -> int:
    """Return how many statements the server got in this time from a worker that waits."""

    async def questions() -> int:
        async with harness.admin() as admin:
            return int((await admin.run("SHOW GLOBAL STATUS LIKE 'Com_select'"))[0].rows[0][1])

    before = await questions()
    assert await driver.reserve([QUEUE], limit=10, lease_s=60, wait_s=seconds) == []
    return await questions() - before


async def run(options: argparse.Namespace) -> None:
    async with stores(options.url) as harness:
        driver = harness.create()
        await driver.open()
        connection = await open_connection(harness)
        print(f"a commit of one row: {await commits(connection):.2f} ms")
        for batch, count in ((1, options.messages // 40), (10, options.messages // 4), (100, options.messages)):
            results: list[tuple[float, float, float]] = []
            for _ in range(options.rounds):
                enqueued = await fill(driver, count)
                results.append((*await drain(driver, batch, count), enqueued))
            jobs, cpu, enqueued = (statistics.median(column) for column in zip(*results, strict=True))
            spread = f"{min(results)[0]:,.0f} to {max(results)[0]:,.0f}"
            print(
                f"turn with {batch:>3}: {jobs:>8,.0f} jobs/s ({spread}), our CPU {cpu:.0f} us a job,"
                f" bulk enqueue {enqueued:,.0f}/s"
            )
        print(f"20 s of waiting: {await idle_statements(harness, driver, 20)} statements")
        await connection.close()
        await driver.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--messages", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    asyncio.run(run(parser.parse_args()))
