"""Count the API calls that SQS would bill: per task at full load, and per idle minute and queue.

python benchmarks/sqs_calls.py [--messages 500] [--concurrency 100] [--idle-s 60]

Runs against moto on this machine, or an account with ASYNCTASQ_SQS_URL; what is counted are HTTP requests of the
driver, so the figures hold for SQS as long as its replies are as full as moto's.
"""

import argparse
import asyncio
import os
import time
import uuid
from collections import Counter

from asynctasq.drivers.sqs_driver import SQSDriver
from asynctasq.kernel.messages import Complete, Lease, Message, Release
from asynctasq.testing.servers import Server, Servers


def new_driver(server: Server) -> SQSDriver:
    if server.owned:
        os.environ.setdefault("AWS_ACCESS_KEY_ID", "testing")
        os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "testing")
    region = "eu-central-1" if server.owned else None
    return SQSDriver(region=region, endpoint_url=server.url, queue_name_prefix=f"b{uuid.uuid4().hex[:8]}-")


async def full_load(driver: SQSDriver, count: int, concurrency: int) -> Counter[str]:
    """Enqueue all, then run turn after turn with every slot full, as a busy worker does."""
    await warm_up(driver, "load")
    await driver.enqueue([Message(id=f"m{number}", queue="load", body=b"x" * 200) for number in range(count)])
    done = 0
    leases: list[Lease] = []
    while done < count:
        settlements = [(lease, Complete()) for lease in leases]
        lost, leases = await driver.turn(settlements, ["load"], limit=concurrency, lease_s=60)
        assert not lost
        done += len(settlements)
    return driver.api_calls


async def retries(driver: SQSDriver, count: int, concurrency: int) -> Counter[str]:
    """Release each message once: what a retry costs on top."""
    await warm_up(driver, "retry")
    await driver.enqueue([Message(id=f"m{number}", queue="retry", body=b"x" * 200) for number in range(count)])
    done = 0
    while done < count:
        leases = await driver.reserve(["retry"], limit=concurrency, lease_s=60, wait_s=1)
        await driver.settle([(lease, Release(counted=True) if lease.attempt == 1 else Complete()) for lease in leases])
        done += sum(lease.attempt > 1 for lease in leases)
    return driver.api_calls


async def idle(driver: SQSDriver, idle_s: float, queues: list[str]) -> Counter[str]:
    """Wait for work that does not come."""
    for queue in queues:
        await warm_up(driver, queue)
    await driver.reserve(queues, limit=10, lease_s=60)
    driver.api_calls.clear()
    end = time.monotonic() + idle_s
    while (left := end - time.monotonic()) > 0.5:
        await driver.reserve(queues, limit=10, lease_s=60, wait_s=min(20, left))
    return driver.api_calls


async def warm_up(driver: SQSDriver, queue: str) -> None:
    await driver.enqueue([Message(id="warm", queue=queue, body=b"x")])
    leases: list[Lease] = []
    while not leases:
        leases = await driver.reserve([queue], limit=1, lease_s=60, wait_s=1)
    await driver.settle([(lease, Complete()) for lease in leases])
    driver.api_calls.clear()


async def main(arguments: argparse.Namespace, server: Server) -> None:
    count, concurrency = arguments.messages, arguments.concurrency
    for title, measure in {"complete": full_load, "one retry, then complete": retries}.items():
        driver = new_driver(server)
        calls = await measure(driver, count, concurrency)
        print(
            f"{title}: {sum(calls.values()) / count:.3f} calls per task ({count} tasks, limit {concurrency}): {calls}"
        )
        await driver.close()
    for queues in (["a"], ["a", "b", "c"]):
        driver = new_driver(server)
        calls = await idle(driver, arguments.idle_s, queues)
        per_minute = sum(calls.values()) * 60 / arguments.idle_s / len(queues)
        print(f"idle, {len(queues)} queue(s): {per_minute:.2f} calls per minute and queue: {dict(calls)}")
        await driver.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=500)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--idle-s", type=float, default=60.0)
    with Servers() as servers:
        asyncio.run(main(parser.parse_args(), servers.sqs()))
