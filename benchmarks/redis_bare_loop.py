"""How fast the Redis driver turns when nothing runs in between: the ceiling that a worker is measured against.

    python benchmarks/redis_bare_loop.py [--jobs 50000] [--rounds 3] [--url redis://host:6379/9]

Each round stores messages, then calls `turn` with as many settlements as it has leases, until the queue is empty.
Without --url it starts a private server, once with its append-only file on (everysec) and once without.
"""

import argparse
import asyncio
import statistics
import time
from dataclasses import dataclass

from asynctasq.drivers.redis_driver import RedisDriver
from asynctasq.kernel.messages import Complete, Lease, Message, Settlement
from asynctasq.testing.servers import start_server

BODY = b"x" * 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one drained queue took."""

    stored_s: float
    drained_s: float
    client_s: float
    server_s: float


async def server_cpu_s(driver: RedisDriver) -> float:
    """Return the seconds of CPU that the server has used, system time included."""
    lines = (await driver.command("INFO", "cpu")).decode().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return float(fields["used_cpu_sys"]) + float(fields["used_cpu_user"])


async def drain(driver: RedisDriver, queue: str, batch: int) -> int:
    """Settle and reserve until nothing is left; return how many messages were settled."""
    settled = 0
    settlements: list[tuple[Lease, Settlement]] = []
    while True:
        lost, leases = await driver.turn(settlements, [queue], limit=batch, lease_s=30)
        settled += len(settlements) - len(lost)
        if not leases:
            return settled
        settlements = [(lease, Complete()) for lease in leases]


async def run_round(driver: RedisDriver, *, jobs: int, batch: int, number: int) -> Round:
    """Store and drain one queue."""
    queue = f"bench-{batch}"
    messages = [Message(id=f"{number:04x}-{batch:03x}-{job:028x}", queue=queue, body=BODY) for job in range(jobs)]
    started = time.perf_counter()
    await driver.enqueue(messages)
    stored = time.perf_counter()
    client_s, server_s = time.process_time(), await server_cpu_s(driver)
    before = time.perf_counter()
    settled = await drain(driver, queue, batch)
    after = time.perf_counter()
    assert settled == jobs, f"{settled} of {jobs} settled"
    return Round(
        stored_s=stored - started,
        drained_s=after - before,
        client_s=time.process_time() - client_s,
        server_s=await server_cpu_s(driver) - server_s,
    )


async def measure(url: str, title: str, *, jobs: int, rounds: int) -> None:
    """Print the medians of interleaved rounds for batches of 10 and 100."""
    driver = RedisDriver(url, namespace="bare-loop")
    await driver.open()
    found: dict[int, list[Round]] = {10: [], 100: []}
    try:
        for number in range(rounds):
            for batch, results in found.items():
                results.append(await run_round(driver, jobs=jobs, batch=batch, number=number))
    finally:
        await driver.close()
    for batch, results in found.items():
        per_second = statistics.median(jobs / result.drained_s for result in results)
        client_us = statistics.median(result.client_s for result in results) / jobs * 1e6
        server_us = statistics.median(result.server_s for result in results) / jobs * 1e6
        stored = statistics.median(jobs / result.stored_s for result in results)
        print(
            f"{title:>10}  batch {batch:>3}  {per_second:>8,.0f} jobs/s  "
            f"CPU us/job {client_us:5.1f} client {server_us:5.1f} server  enqueue {stored:>8,.0f}/s in one call"
        )


async def main() -> None:
    """Measure, on the given server or on a private one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url", default=None)
    arguments = parser.parse_args()
    if arguments.url:
        await measure(arguments.url, "given", jobs=arguments.jobs, rounds=arguments.rounds)
        return
    server = start_server("redis")
    try:
        await measure(server.url, "AOF on", jobs=arguments.jobs, rounds=arguments.rounds)
        control = RedisDriver(server.url)
        await control.command("CONFIG", "SET", "appendonly", "no")
        await control.close()
        await measure(server.url, "AOF off", jobs=arguments.jobs, rounds=arguments.rounds)
    finally:
        server.remove()


if __name__ == "__main__":
    asyncio.run(main())
