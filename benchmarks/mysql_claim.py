"""What a claim costs on MySQL/MariaDB with a large backlog, and after churn beside an open long transaction.

Each step prints the median time of a reserve of ten, commit included, and its ratio to that of a store that holds
nothing else. Run: python benchmarks/mysql_claim.py [--url mysql://...] [--rows 1000000] [--churn 200000] [--explain]
"""

import argparse
import asyncio
import statistics
import time
import uuid

from mysql_bare_loop import QUEUE, drain, fill, open_connection, stores

from asynctasq.drivers.mysql_driver import MySQLDriver
from asynctasq.drivers.mysql_driver.pool import Connection
from asynctasq.drivers.mysql_driver.statements import Statements, literal, server_now
from asynctasq.kernel.messages import Complete, Message

SQL = Statements("asynctasq")
SAMPLES = 150
CHUNK = 50_000


async def rows(connection: Connection, count: int, *, visible: str, dead: int) -> None:
    """Put rows there by the server itself, in transactions of some size."""
    digits = "(SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4)"
    ten = f"(SELECT a.d * 2 + b.d AS n FROM {digits} AS a, (SELECT 0 AS d UNION ALL SELECT 1) AS b)"
    numbers = f"{ten} AS x1, {ten} AS x2, {ten} AS x3, {ten} AS x4, {digits} AS x5"
    for start in range(0, count, CHUNK):
        await connection.run(
            f"INSERT INTO asynctasq_messages (id, queue, dead, visible_us, enqueued_us, reason, body)"
            f" SELECT UUID(), {literal(QUEUE)}, {dead}, {server_now(0)} + ({visible}) + x1.n, 0,"
            f" {literal('failed') if dead else 'NULL'}, 0x78 FROM {numbers} LIMIT {min(CHUNK, count - start)}"
        )


async def reserve_ms(driver: MySQLDriver, *, refill: bool) -> float:
    """Return the median milliseconds of a reserve; what was reserved is completed, and with `refill` replaced."""
    times: list[float] = []
    for _ in range(SAMPLES):
        if refill:
            await driver.enqueue([Message(id=str(uuid.uuid4()), queue=QUEUE, body=b"x") for _ in range(10)])
        started = time.perf_counter()
        leases = await driver.reserve([QUEUE], limit=10, lease_s=60)
        times.append((time.perf_counter() - started) * 1e3)
        assert len(leases) == 10
        await driver.settle([(lease, Complete()) for lease in leases])
    return statistics.median(times)


async def settle_down(connection: Connection) -> None:
    """Wait until the server has written and purged what the filling left to do."""
    dirty = "SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'"
    history = "SELECT count FROM information_schema.innodb_metrics WHERE name = 'trx_rseg_history_len'"
    await connection.run("SET GLOBAL innodb_max_dirty_pages_pct = 0, GLOBAL innodb_max_dirty_pages_pct_lwm = 0")
    while (
        int((await connection.run(dirty))[0].rows[0][1]) > 500
        or int((await connection.run(history))[0].rows[0][0]) > 1000
    ):
        await connection.run("DO SLEEP(0.2)")
    await connection.run("SET GLOBAL innodb_max_dirty_pages_pct = 90")


async def explain(connection: Connection) -> None:
    await connection.run(f"SET @now = {server_now(0)}")
    for row in (
        await connection.run(f"EXPLAIN {SQL.claim([QUEUE], limit=10, now='@now', lease_us=1, holder='', after={})}")
    )[0].rows:
        print("   ", *row)


async def run(options: argparse.Namespace) -> None:
    async with stores(options.url) as harness:
        driver = harness.create()
        connection = await open_connection(harness)
        alone = await reserve_ms(driver, refill=True)
        print(f"nothing else there: {alone:.2f} ms")

        started = time.perf_counter()
        await rows(connection, options.rows, visible="-1000000000", dead=0)
        await rows(connection, options.rows, visible="3600000000", dead=0)
        await rows(connection, options.rows // 10, visible="0", dead=1)
        filled = time.perf_counter() - started
        await settle_down(connection)
        full = await reserve_ms(driver, refill=False)
        print(f"{options.rows:,} ready, as many delayed, a tenth dead (filled in {filled:.0f} s):")
        print(f"    {full:.2f} ms, {full / alone:.2f}x")
        if options.explain:
            await explain(connection)

        await connection.run("TRUNCATE TABLE asynctasq_messages")
        reader = await open_connection(harness)
        await reader.run("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await reader.run("START TRANSACTION WITH CONSISTENT SNAPSHOT", "SELECT COUNT(*) FROM asynctasq_schema")
        for name in ("an open long transaction", "after it ended and purge caught up"):
            if name.startswith("after"):
                await reader.run("COMMIT")
                await settle_down(connection)
            else:
                await fill(driver, options.churn)
                rate, _ = await drain(driver, 100, options.churn)
                print(f"{options.churn:,} messages went through at {rate:,.0f}/s beside a long transaction")
            few = await reserve_ms(driver, refill=True)
            await fill(driver, 5_000)
            backlog = await reserve_ms(driver, refill=False)
            await driver.purge(QUEUE)
            print(f"{name}: {few:.2f} ms ({few / alone:.1f}x), in a backlog {backlog:.2f} ms ({backlog / alone:.1f}x)")
        for one in (reader, connection):
            await one.close()
        await driver.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--churn", type=int, default=200_000)
    parser.add_argument("--explain", action="store_true")
    asyncio.run(run(parser.parse_args()))
