"""What an idle worker asks of its server, over 20 seconds.

    python benchmarks/idle_worker.py [redis postgres mysql] [--seconds 20]

One worker process on an empty queue of a private server. Redis: calls in INFO commandstats but those that scripts make
inside the server. PostgreSQL: transactions in pg_stat_database; MariaDB: Questions.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from asynctasq.drivers.base import Migratable
from asynctasq.drivers.urls import create_driver
from asynctasq.testing.servers import Servers


async def redis_calls(url: str) -> int:
    """Return how many commands clients have sent."""
    from redis.asyncio import Redis

    async with Redis.from_url(url) as client:
        stats = await client.info("commandstats")
    return sum(
        fields["calls"]
        for name, fields in stats.items()
        if name.removeprefix("cmdstat_").partition("|")[0] in ("evalsha", "eval", "blpop", "bzpopmin", "ping", "client")
    )


async def postgres_calls(url: str) -> int:
    """Return how many transactions the database has ended."""
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        return int(
            await connection.fetchval(
                "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
            )
        )
    finally:
        await connection.close()


async def mysql_calls(url: str) -> int:
    """Return how many statements clients have sent."""
    import asyncmy

    parts = urlsplit(url)
    connection = await asyncmy.connect(host=parts.hostname, port=parts.port, user=parts.username or "root")
    try:
        async with connection.cursor() as cursor:
            await cursor.execute("SHOW GLOBAL STATUS LIKE 'Questions'")
            return int((await cursor.fetchone())[1])
    finally:
        connection.close()


COUNTERS = {"redis": redis_calls, "postgres": postgres_calls, "mysql": mysql_calls}


async def migrate(url: str) -> None:
    """Make the schema where there is one."""
    driver = create_driver(url)
    if isinstance(driver, Migratable):
        await driver.migrate()
    await driver.close()


def measure(kind: str, url: str, seconds: float) -> None:
    """Print one line."""
    asyncio.run(migrate(url))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "asynctasq", "worker", "--driver", url, "--quiet"]
        worker = subprocess.Popen(command, cwd=Path(folder), stdout=subprocess.DEVNULL)
        try:
            time.sleep(5)  # its start is not what is measured
            before = asyncio.run(COUNTERS[kind](url))
            time.sleep(seconds)
            after = asyncio.run(COUNTERS[kind](url))
        finally:
            worker.terminate()
            worker.wait()
    print(f"{kind:<9} {after - before} in {seconds:g} s, {(after - before) / seconds:.2f} a second", flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=list(COUNTERS))
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    with Servers() as servers:
        for kind in options.kinds:
            measure(kind, str(getattr(servers, kind)().url), options.seconds)


if __name__ == "__main__":
    main()
