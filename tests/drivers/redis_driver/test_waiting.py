"""How workers wait on Redis: woken at once, one per token, without polling, leaking nothing."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from asynctasq.drivers.redis_driver import RedisDriver
from asynctasq.drivers.redis_driver.server_checks import parse_info
from asynctasq.errors import DriverUnavailable
from asynctasq.kernel.messages import Complete, Lease, Message, Release
from tests.drivers.redis_driver.server import RedisServer, driving
from tests.patience import SOON_S, until

FAR_S = 3600.0


def message(number: int, *, queue: str = "q", delay_s: float = 0.0) -> Message:
    return Message(id=f"m-{number}", queue=queue, body=b"", delay_s=delay_s)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer("--save", "", "--appendonly", "no") as server:
        yield server


@pytest.fixture(autouse=True)
def _no_recheck(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look that makes up for lost wake-ups is an hour away, so that what comes in time was woken."""
    for module in ("driver", "waiting"):
        monkeypatch.setattr(f"asynctasq.drivers.redis_driver.{module}.BLOCK_S", int(FAR_S))


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[RedisDriver]:
    async with driving(server.url) as driver:
        await driver.command("FLUSHALL")
        yield driver


async def blocked(driver: RedisDriver) -> int:
    return int(parse_info(await driver.command("INFO", "clients"))["blocked_clients"])


async def until_blocked(driver: RedisDriver, count: int) -> None:
    async def enough() -> bool:
        return await blocked(driver) == count

    await until(enough)


def take(driver: RedisDriver, *queues: str, limit: int = 1) -> "asyncio.Task[list[Lease]]":
    return asyncio.create_task(driver.reserve(queues or ["q"], limit=limit, lease_s=FAR_S, wait_s=FAR_S))


async def ids(task: "asyncio.Task[list[Lease]]") -> list[str]:
    async with asyncio.timeout(SOON_S):
        return [lease.message_id for lease in await task]


async def test_a_waiting_reserve_is_woken_by_another_process(redis: RedisDriver, server: RedisServer) -> None:
    async with driving(server.url) as producer:
        task = take(redis)
        await until_blocked(producer, 1)

        await producer.enqueue([message(1)])

        assert await ids(task) == ["m-1"]


@pytest.mark.parametrize("queue", ["a", "b", "c"])
async def test_any_of_the_queues_wakes(redis: RedisDriver, queue: str) -> None:
    task = take(redis, "a", "b", "c")
    await until_blocked(redis, 1)

    await redis.enqueue([message(1, queue=queue)])

    assert await ids(task) == ["m-1"]


async def test_one_enqueue_wakes_as_many_workers_as_it_has_messages(redis: RedisDriver, server: RedisServer) -> None:
    async with driving(server.url) as second, driving(server.url) as third:
        tasks = [take(driver) for driver in (redis, second, third)]
        await until_blocked(redis, 3)

        await redis.enqueue([message(number) for number in range(3)])

        assert sorted([await ids(task) for task in tasks]) == [["m-0"], ["m-1"], ["m-2"]]


async def test_what_was_left_in_another_queue_wakes_the_next_worker(redis: RedisDriver, server: RedisServer) -> None:
    async with driving(server.url) as second:
        tasks = [take(redis, "a", "b"), take(second, "a", "b")]
        await until_blocked(redis, 2)

        await redis.enqueue([message(1, queue="b"), message(2, queue="a")])

        assert sorted([await ids(task) for task in tasks]) == [["m-1"], ["m-2"]]


async def test_a_sleeper_comes_back_when_a_delayed_message_is_due(redis: RedisDriver) -> None:
    await redis.enqueue([message(1, delay_s=0.3)])

    assert await ids(take(redis)) == ["m-1"]


async def test_a_delayed_message_shortens_the_sleep_of_one_who_waits_already(redis: RedisDriver) -> None:
    task = take(redis)
    await until_blocked(redis, 1)

    await redis.enqueue([message(1, delay_s=0.2)])

    assert await ids(task) == ["m-1"]


async def test_a_lease_that_runs_out_ends_the_sleep(redis: RedisDriver) -> None:
    await redis.enqueue([message(1)])
    await redis.reserve(["q"], limit=1, lease_s=0.2)

    assert await ids(take(redis)) == ["m-1"]


async def test_a_released_message_wakes(redis: RedisDriver) -> None:
    await redis.enqueue([message(1)])
    leases = await redis.reserve(["q"], limit=1, lease_s=FAR_S)
    task = take(redis)
    await until_blocked(redis, 1)

    await redis.settle([(leases[0], Release(counted=False))])

    assert await ids(task) == ["m-1"]


async def test_a_lease_made_shorter_wakes_and_a_renewal_does_not(redis: RedisDriver) -> None:
    await redis.enqueue([message(1), message(2)])
    leases = await redis.reserve(["q"], limit=2, lease_s=FAR_S)
    first = asyncio.create_task(redis.wait_visible(["q"], wait_s=FAR_S))
    await until_blocked(redis, 1)

    await redis.command("CONFIG", "RESETSTAT")

    await redis.extend(leases, lease_s=2 * FAR_S)
    await redis.extend(leases[:1], lease_s=2 * FAR_S)
    assert "cmdstat_lpush" not in parse_info(await redis.command("INFO", "commandstats")), "a renewal woke somebody"
    await redis.extend(leases[1:], lease_s=0.2)

    async with asyncio.timeout(SOON_S):
        assert await first


async def test_waiting_ends_with_its_time(redis: RedisDriver) -> None:
    assert await redis.reserve(["q"], limit=1, lease_s=1, wait_s=0.05) == []
    assert not await redis.wait_visible(["q"], wait_s=0.05)
    assert await redis.reserve([], limit=1, lease_s=1, wait_s=0.05) == []


async def test_other_calls_go_on_while_one_waits(server: RedisServer) -> None:
    async with driving(server.url, max_connections=1, namespace="one") as redis:
        task = take(redis)
        await until_blocked(redis, 1)

        await redis.enqueue([message(1, queue="other")])
        leases = await redis.reserve(["other"], limit=1, lease_s=FAR_S)

        assert await redis.settle([(leases[0], Complete())]) == set()
        task.cancel()


async def test_an_idle_worker_issues_less_than_a_command_a_second(redis: RedisDriver) -> None:
    await redis.reserve(["q"], limit=1, lease_s=1, wait_s=0.01)  # now the server knows the scripts
    await redis.command("CONFIG", "RESETSTAT")

    await redis.wait_visible(["q", "r"], wait_s=4)

    stats = parse_info(await redis.command("INFO", "commandstats"))
    sent = {name.removeprefix("cmdstat_"): int(fields.split(",")[0].split("=")[1]) for name, fields in stats.items()}
    # The poll before and the one after; what the scripts do inside counts too and is no traffic.
    assert sent["evalsha"] == 2
    # A new connection says who it is; apart from that the time passes in one blocked read.
    assert sum(sent.get(name, 0) for name in ("blpop", "ping", "evalsha", "eval")) <= 3


async def test_tokens_do_not_accumulate(redis: RedisDriver) -> None:
    task = take(redis)
    await until_blocked(redis, 1)

    for number in range(50):
        await redis.enqueue([message(number)])
    await task

    assert await redis.command("LLEN", "{asynctasq}:wake:q") <= 1
    assert 0 < await redis.command("PTTL", "{asynctasq}:waiting:q") <= 17_000


async def test_nobody_waiting_means_no_token(redis: RedisDriver) -> None:
    await redis.enqueue([message(1)])

    assert await redis.command("EXISTS", "{asynctasq}:wake:q", "{asynctasq}:waiting:q") == 0


async def test_waiting_again_and_again_opens_one_connection(redis: RedisDriver) -> None:
    for _ in range(20):
        task = take(redis)
        await until_blocked(redis, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert await blocked(redis) == 1
    assert len((await redis.command("CLIENT", "LIST")).splitlines()) <= 4


async def test_a_token_for_a_wait_that_was_given_up_goes_to_the_next(redis: RedisDriver, server: RedisServer) -> None:
    async with driving(server.url) as second:
        given_up = asyncio.create_task(redis.wait_visible(["q"], wait_s=FAR_S))
        await until_blocked(redis, 1)
        given_up.cancel()
        task = take(second)
        await until_blocked(redis, 2)

        await second.enqueue([message(1)])

        assert await ids(task) == ["m-1"]


async def test_a_token_for_what_is_visible_later_goes_to_the_next_too(redis: RedisDriver, server: RedisServer) -> None:
    async with driving(server.url) as second:
        given_up = take(redis)
        await until_blocked(redis, 1)
        given_up.cancel()
        task = take(second)
        await until_blocked(redis, 2)

        await second.enqueue([message(1, delay_s=0.2)])

        assert await ids(task) == ["m-1"]


async def test_a_wait_cancelled_in_the_moment_it_is_woken_wakes_the_next(
    redis: RedisDriver, server: RedisServer
) -> None:
    async with driving(server.url) as second, driving(server.url) as producer:
        for steps in range(40):
            woken = take(redis)
            await until_blocked(producer, 1)
            task = take(second)
            await until_blocked(producer, 2)

            await producer.enqueue([message(steps)])
            for _ in range(steps):
                await asyncio.sleep(0)
            woken.cancel()
            await asyncio.wait({woken})

            if woken.cancelled():
                assert await ids(task) == [f"m-{steps}"]
            task.cancel()
            await redis.close()
            await second.close()
            await until_blocked(producer, 0)


async def test_close_ends_the_wait_and_its_connection(redis: RedisDriver, server: RedisServer) -> None:
    async with driving(server.url) as second:
        waiting = asyncio.create_task(redis.wait_visible(["q"], wait_s=FAR_S))
        reserving = take(redis)
        await until_blocked(second, 1)

        async with asyncio.timeout(SOON_S):
            await redis.close()

        assert (await waiting, await reserving) == (False, [])
        await until_blocked(second, 0)


async def test_a_wake_up_for_a_driver_that_closes_wakes_the_next(redis: RedisDriver, server: RedisServer) -> None:
    async def produce() -> None:
        async with driving(server.url) as producer:
            await producer.enqueue([message(1)])

    async with driving(server.url) as second:
        first = take(redis)
        await until_blocked(redis, 1)
        task = take(second)
        await until_blocked(redis, 2)

        # This loop stands still meanwhile, so the token arrives and is not read.
        thread = threading.Thread(target=lambda: asyncio.run(produce()))
        thread.start()
        thread.join()
        await redis.close()

        assert await first == []
        assert await ids(task) == ["m-1"]


class ObservedDriver(RedisDriver):
    """Records whether the latest wait was woken."""

    was_woken = False

    async def wait_visible(self, queues: Sequence[str], *, wait_s: float) -> bool:
        self.was_woken = await super().wait_visible(queues, wait_s=wait_s)
        return self.was_woken


async def test_a_reserve_cancelled_before_it_asks_wakes_the_next(server: RedisServer, redis: RedisDriver) -> None:
    busy = ObservedDriver(server.url, max_connections=1)
    woken = take(busy)
    await until_blocked(redis, 1)
    task = take(redis)
    await until_blocked(redis, 2)
    resources = busy._resources.get_if_open()
    assert resources is not None
    slots = resources.pool._slots

    async def queueing(count: int) -> bool:
        return len(slots._waiters or ()) == count

    async def asks() -> bool:
        return busy.was_woken and await queueing(1)

    # The only connection is busy, then it polls, then it is busy again: the reserve can't be sent.
    first = asyncio.create_task(busy.command("BLPOP", "first", 0))
    await until_blocked(redis, 3)
    await redis.enqueue([message(1)])
    await until(lambda: queueing(1), "it is about to look")
    second = asyncio.create_task(busy.command("BLPOP", "second", 0))
    await until(lambda: queueing(2), "the other command is next")
    await redis.command("LPUSH", "first", "end")
    await until(asks, "the reserve is about to be sent")
    woken.cancel()
    await redis.command("LPUSH", "second", "end")

    assert await ids(task) == ["m-1"]
    await asyncio.wait({first, second})
    await busy.close()


async def test_a_broken_connection_ends_the_wait_with_an_error(redis: RedisDriver) -> None:
    task = take(redis)
    await until_blocked(redis, 1)

    await redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    with pytest.raises(DriverUnavailable, match="can't be reached"):
        await task
    assert not await redis.wait_visible(["q"], wait_s=0.01)


async def test_a_key_for_wake_ups_that_is_damaged_while_a_worker_waits_ends_no_wait(redis: RedisDriver) -> None:
    async def damage() -> None:
        while True:
            await redis.command("SET", "{asynctasq}:wake:q", "x")

    damaging = asyncio.create_task(damage())
    found = [await redis.wait_visible(["q"], wait_s=0.005) for _ in range(30)]
    damaging.cancel()
    await asyncio.wait([damaging])

    assert not any(found)
    await redis.enqueue([message(1)])
    assert await redis.wait_visible(["q"], wait_s=FAR_S)
