"""What a FakeQueue adds to real I/O on the test's own loop: a week of hourly retries, and its writes in a plain loop.

    python benchmarks/own_loop.py [--rounds 5] [--url postgresql://postgres@host/database]

Each attempt writes one row through a pooled SQLAlchemy engine on asyncpg and fails, and runs again an hour later in
virtual time. Without --url it starts a private server. The best round of each counts.
"""

import argparse
import asyncio
import time
from urllib.parse import urlsplit

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from asynctasq import AsyncTask
from asynctasq.testing import FakeQueue
from asynctasq.testing.servers import Servers

HOURS_OF_A_WEEK = 168
TABLE = "asynctasq_own_loop"

engines: list[AsyncEngine] = []


async def write(number: int) -> None:
    """Write one row in a transaction of its own."""
    async with engines[-1].begin() as connection:
        await connection.execute(text(f"INSERT INTO {TABLE} VALUES (:number)"), {"number": number})


class Hourly(AsyncTask[None]):
    """Writes a row and fails, each hour of a week."""

    max_attempts = HOURS_OF_A_WEEK
    retry_delay = 3600

    async def execute(self) -> None:
        await write(self.attempt)
        raise ConnectionError("not yet")


async def week() -> float:
    """Return the real seconds of a week of hourly retries."""
    started = time.perf_counter()
    async with FakeQueue() as queue:
        await Hourly().dispatch()
        await queue.run_until_idle()
        queue.assert_failed(Hourly, attempts=HOURS_OF_A_WEEK)
        assert queue.clock.elapsed.total_seconds() == (HOURS_OF_A_WEEK - 1) * 3600
    return time.perf_counter() - started


async def plain() -> float:
    """Return the real seconds of the same writes in a loop."""
    started = time.perf_counter()
    for number in range(HOURS_OF_A_WEEK):
        await write(number)
    return time.perf_counter() - started


async def measure(address: str, rounds: int) -> tuple[float, float]:
    """Return the best week and the best plain loop."""
    engine = create_async_engine(f"postgresql+asyncpg://{address}")
    engines.append(engine)
    try:
        async with engine.begin() as connection:
            await connection.execute(text(f"DROP TABLE IF EXISTS {TABLE}"))
            await connection.execute(text(f"CREATE TABLE {TABLE} (number int)"))
        pairs = [(await week(), await plain()) for _ in range(rounds)]
        async with engine.begin() as connection:
            written = await connection.scalar(text(f"SELECT count(*) FROM {TABLE}"))
            await connection.execute(text(f"DROP TABLE {TABLE}"))
        assert written == 2 * rounds * HOURS_OF_A_WEEK
    finally:
        engines.pop()
        await engine.dispose()
    return min(week for week, _ in pairs), min(plain for _, plain in pairs)


def main() -> None:
    """Print both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--url")
    options = parser.parse_args()
    with Servers() as servers:
        parts = urlsplit(options.url or servers.postgres().url)
        week_s, plain_s = asyncio.run(measure(f"{parts.netloc}{parts.path}", options.rounds))
    print(f"a week of hourly retries that write a row: {week_s:.3f} s")
    print(f"the same {HOURS_OF_A_WEEK} writes in a plain loop:      {plain_s:.3f} s")
    print(f"ratio: {week_s / plain_s:.2f}")


if __name__ == "__main__":
    main()
