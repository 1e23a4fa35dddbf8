"""What reserve costs on PostgreSQL with a large backlog, and after churn beside an open long transaction.

Each step prints the median time of a reserve of ten as the server measures it, up to its commit (whose time is
that of the disk), and its ratio to that of a store that holds nothing else.
Run: python benchmarks/postgres_claim.py [--url postgresql://...] [--ready 1000000] [--churn 500000] [--explain]
Without a URL a private server is started.
"""

import argparse
import asyncio
import contextlib
import statistics
import time
import uuid
from collections.abc import Iterator
from typing import Any

import asyncpg

from asynctasq.drivers.base import Settlements
from asynctasq.drivers.postgres_driver import PostgresDriver
from asynctasq.drivers.postgres_driver.rows import NO_BOUND_US, ScanBounds
from asynctasq.kernel.messages import Complete, Message
from asynctasq.testing.servers import Servers

QUEUE, LIMIT, SAMPLES = "bench", 10, 150
FILL = """
    INSERT INTO claim_messages (id, queue, body, visible_us, enqueued_us, reason)
    SELECT gen_random_uuid()::text, 'bench', '\\x00', now_us.us + {visible}, now_us.us, {reason}
    FROM generate_series(1, {count}) n, (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us) now_us
"""


@contextlib.contextmanager
def server_url(given: str | None) -> Iterator[str]:
    if given:
        yield given
        return
    with Servers() as servers:
        yield servers.postgres().url


class ObservedScanBounds(ScanBounds):
    """Scan bounds that remember how long the last statement took."""

    __slots__ = ("took_us",)

    def note_scan(self, now_us: int, took_us: int, rows: int, first_us: dict[str, int]) -> None:
        self.took_us = took_us
        super().note_scan(now_us, took_us, rows, first_us)


async def reserve_ms(driver: PostgresDriver, *, refill: bool) -> float:
    """Return the median milliseconds of a reserve; what was reserved is completed, and with `refill` replaced."""
    observed = driver._scan_bounds = ObservedScanBounds()
    times: list[float] = []
    for _ in range(SAMPLES):
        if refill:
            await driver.enqueue([Message(id=str(uuid.uuid4()), queue=QUEUE, body=b"x") for _ in range(LIMIT)])
        leases = await driver.reserve([QUEUE], limit=LIMIT, lease_s=60)
        times.append(observed.took_us / 1000)
        assert len(leases) == LIMIT
        await driver.settle([(lease, Complete()) for lease in leases])
    return statistics.median(times)


async def churn(driver: PostgresDriver, count: int) -> float:
    """Enqueue, reserve and complete `count` messages; return messages per second."""
    started = time.perf_counter()
    settlements: Settlements = []
    done = 0
    for _ in range(0, count, 1_000):
        await driver.enqueue([Message(id=str(uuid.uuid4()), queue=QUEUE, body=b"x" * 100) for _ in range(1_000)])
        for _ in range(10):
            _, leases = await driver.turn(settlements, [QUEUE], limit=100, lease_s=60)
            done += len(settlements)
            settlements = [(lease, Complete()) for lease in leases]
    await driver.settle(settlements)
    return done / (time.perf_counter() - started)


async def explain(driver: PostgresDriver, connection: Any) -> None:
    values = [0, [QUEUE], [NO_BOUND_US], LIMIT, 60_000_000]
    transaction = connection.transaction()
    await transaction.start()
    try:
        for row in await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS) {driver._sql.claim}", *values):
            print("   ", row[0])
    finally:
        await transaction.rollback()


async def run(options: argparse.Namespace, url: str) -> None:
    driver = PostgresDriver(url, table_prefix="claim", auto_migrate=True)
    await driver.open()
    connection: Any = await driver._address.connect()
    await connection.execute("TRUNCATE claim_messages")
    base = await reserve_ms(driver, refill=True)
    print(f"no other messages: reserve {base:.2f} ms")
    for count, visible, reason in (
        (options.ready, "n - 2000000000", "NULL"),
        (options.ready, "3600000000 + n", "NULL"),
        (options.ready // 10, "-n", "'failed'"),
    ):
        await connection.execute(FILL.format(count=count, visible=visible, reason=reason), timeout=600)
    await connection.execute("ANALYZE claim_messages")
    found = await reserve_ms(driver, refill=False)
    print(f"{options.ready:,} ready, as many delayed, a tenth dead: reserve {found:.2f} ms, ratio {found / base:.2f}")
    if options.explain:
        await explain(driver, connection)
    await connection.execute("TRUNCATE claim_messages")
    await connection.execute("VACUUM claim_messages")
    old: Any = await asyncpg.connect(url)
    await old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current()")
    rate = await churn(driver, options.churn)
    found = await reserve_ms(driver, refill=True)
    print(f"{options.churn:,} churned beside an open transaction ({rate:,.0f}/s):")
    print(f"    reserve {found:.2f} ms, ratio {found / base:.2f}")
    if options.explain:
        await explain(driver, connection)
    await old.close()
    await connection.execute("VACUUM claim_messages")
    found = await reserve_ms(driver, refill=True)
    print(f"after that transaction ended and a vacuum: {found:.2f} ms, ratio {found / base:.2f}")
    await connection.execute("TRUNCATE claim_messages")
    await connection.close()
    await driver.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--ready", type=int, default=1_000_000)
    parser.add_argument("--churn", type=int, default=500_000)
    parser.add_argument("--explain", action="store_true")
    options = parser.parse_args()
    with server_url(options.url) as url:
        asyncio.run(run(options, url))


if __name__ == "__main__":
    main()
