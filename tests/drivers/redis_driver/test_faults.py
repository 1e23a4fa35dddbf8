"""Redis that dies, hangs, refuses or moves, and calls that are cancelled: nothing is lost, leaked or told."""

import asyncio
import gc
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from asynctasq.drivers.redis_driver import RedisDriver
from asynctasq.errors import DriverMisconfigured, DriverUnavailable
from asynctasq.kernel.messages import Complete, Lease, Message
from tests.drivers.redis_driver.server import RedisServer, driving, free_port
from tests.patience import SOON_S, until, wait_until

SECRET = "s3cret-word"


def message(number: int) -> Message:
    return Message(id=f"m-{number}", queue="q", body=b"x")


async def stored(driver: RedisDriver, *numbers: int) -> list[Lease]:
    await driver.enqueue([message(number) for number in numbers])
    return await driver.reserve(["q"], limit=len(numbers), lease_s=60)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer("--save", "", "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[RedisDriver]:
    async with driving(server.url, reply_timeout_s=5) as driver:
        await driver.command("FLUSHALL")
        yield driver


# -- servers that go away ------------------------------------------------------------------------


async def test_messages_and_leases_outlive_a_killed_server(redis: RedisDriver, server: RedisServer) -> None:
    leases = await stored(redis, 1, 2)

    await server.restart()

    assert await redis.enqueue([message(2), message(3)]) == ["m-3"]
    assert await redis.settle([(lease, Complete()) for lease in leases]) == set()
    assert (await redis.depth("q")).ready == 1


async def test_a_server_that_is_gone_is_unavailable_until_it_is_back(redis: RedisDriver, server: RedisServer) -> None:
    await redis.enqueue([message(1)])
    server.kill()

    with pytest.raises(DriverUnavailable, match="can't be reached"):
        await redis.reserve(["q"], limit=1, lease_s=1)
    with pytest.raises(DriverUnavailable, match="can't be reached"):
        await redis.depth("q")
    server.start()

    assert len(await redis.reserve(["q"], limit=1, lease_s=1)) == 1


async def test_nothing_listens_at_the_address() -> None:
    port = free_port()

    async with driving(f"redis://127.0.0.1:{port}") as driver:
        with pytest.raises(DriverUnavailable, match=f"redis://127.0.0.1:{port} can't be reached.*check that it runs"):
            await driver.open()


async def test_cut_connections_cost_one_reserve_at_most(redis: RedisDriver, server: RedisServer) -> None:
    await redis.enqueue([message(number) for number in range(20)])
    await asyncio.gather(*(redis.depth("q") for _ in range(8)))
    server.ask("CLIENT KILL TYPE normal SKIPME yes")

    failures = 0
    for _ in range(8):
        try:
            assert len(await redis.reserve(["q"], limit=1, lease_s=60)) == 1
        except DriverUnavailable:
            failures += 1

    assert failures <= 1


async def test_what_may_be_repeated_survives_cut_connections(redis: RedisDriver, server: RedisServer) -> None:
    leases = await stored(redis, 1, 2)
    calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: redis.enqueue([message(3)]),
        lambda: redis.extend(leases, lease_s=60),
        lambda: redis.settle([(leases[0], Complete())]),
        lambda: redis.turn([(leases[1], Complete())], ["q"], limit=5, lease_s=60),
        lambda: redis.depth("q"),
        redis.queues,
    ]

    for call in calls:
        server.ask("CLIENT KILL TYPE normal SKIPME yes")
        await call()

    depth = await redis.depth("q")
    assert (depth.ready, depth.reserved) == (1, 0)


async def test_a_server_that_became_a_replica_is_unavailable(redis: RedisDriver) -> None:
    leases = await stored(redis, 1)
    await redis.command("REPLICAOF", "127.0.0.1", free_port())

    with pytest.raises(DriverUnavailable):
        await redis.enqueue([message(2)])
    with pytest.raises(DriverUnavailable):
        await redis.reserve(["q"], limit=1, lease_s=1)
    await redis.command("REPLICAOF", "NO", "ONE")

    assert await redis.settle([(leases[0], Complete())]) == set()


# -- servers that hang ---------------------------------------------------------------------------


async def test_a_paused_server_is_given_up_and_no_reply_is_mixed_up(server: RedisServer) -> None:
    async with driving(server.url, reply_timeout_s=0.2, namespace="pause") as driver:
        await driver.enqueue([message(1)])
        await driver.command("CLIENT", "PAUSE", 2000, "ALL")

        with pytest.raises(DriverUnavailable, match="did not answer in time"):
            await driver.depth("q")

        async def answers() -> bool:
            try:
                return (await driver.depth("q")).ready == 1
            except DriverUnavailable:
                return False

        await until(answers)
        assert await driver.queues() == ["q"]


async def test_a_busy_pool_is_an_error_in_words(server: RedisServer) -> None:
    timeouts = {"connect_timeout_s": 0.1, "reply_timeout_s": 0.2}
    async with driving(server.url, max_connections=1, **timeouts) as driver, driving(server.url) as control:
        await driver.open()
        await control.command("CLIENT", "PAUSE", 2000, "ALL")

        results = await asyncio.gather(*(driver.depth("q") for _ in range(6)), return_exceptions=True)

        assert all(isinstance(result, DriverUnavailable) for result in results)
        assert any("all 1 connections were busy" in str(result) for result in results)


# -- cancelled calls -----------------------------------------------------------------------------


async def test_a_cancelled_reserve_hands_back_what_it_was_granted(redis: RedisDriver, server: RedisServer) -> None:
    await redis.reserve(["none"], limit=1, lease_s=1)
    await redis.enqueue([message(1), message(2)])
    async with driving(server.url) as control:
        await control.command("CLIENT", "PAUSE", 200, "ALL")
        task = asyncio.create_task(redis.reserve(["q"], limit=2, lease_s=60))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        async def ready() -> bool:
            return (await control.depth("q")).ready == 2

        await asyncio.sleep(0.2)
        await until(ready)
        again = await control.reserve(["q"], limit=2, lease_s=60)

    assert [(lease.message_id, lease.attempt, lease.crashes) for lease in again] == [("m-1", 1, 0), ("m-2", 1, 0)]


Call = Callable[[RedisDriver, list[Lease]], Coroutine[Any, Any, Any]]
CALLS: dict[str, Call] = {
    "enqueue": lambda driver, _: driver.enqueue([message(7)]),
    "reserve": lambda driver, _: driver.reserve(["q"], limit=2, lease_s=60),
    "settle": lambda driver, leases: driver.settle([(lease, Complete()) for lease in leases]),
    "turn": lambda driver, leases: driver.turn([(leases[0], Complete())], ["q"], limit=2, lease_s=60),
    "extend": lambda driver, leases: driver.extend(leases, lease_s=60),
    "wait_visible": lambda driver, _: driver.wait_visible(["empty"], wait_s=1),
    "find": lambda driver, _: driver.find("m-1"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_can_be_cancelled_at_any_await(redis: RedisDriver, name: str) -> None:
    for fresh in (False, True):
        for steps in range(25):
            await redis.command("FLUSHALL")
            leases = await stored(redis, 1, 2)
            await redis.enqueue([message(3), message(4)])
            if fresh:
                await redis.close()
            task = asyncio.create_task(CALLS[name](redis, leases))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})

            # Replies fit their questions, and every message is where exactly one call left it.
            assert await redis.queues() == ["q"]
            assert [lease.message_id for lease in await redis.reserve(["none"], limit=1, lease_s=1)] == []
            present = {f"m-{number}" for number in range(8) if await redis.find(f"m-{number}")}
            assert {"m-3", "m-4"} <= present
            redis.clock_offset += 100
            again = {lease.message_id for lease in await redis.reserve(["q"], limit=10, lease_s=60)}
            assert again == present


async def test_cancelled_calls_leak_no_connection(redis: RedisDriver) -> None:
    for number in range(100):
        task = asyncio.create_task(redis.enqueue([message(number)]))
        for _ in range(number % 12):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})

    assert await redis.command("PING") == b"PONG"
    assert len((await redis.command("CLIENT", "LIST")).splitlines()) <= 21
    assert redis._resources.get_if_open().pool._slots._value == 20  # type: ignore[union-attr]


# -- loops ---------------------------------------------------------------------------------------


def test_one_driver_serves_several_loops_one_after_the_other(server: RedisServer) -> None:
    driver = RedisDriver(server.url, namespace="loops")

    async def once(number: int) -> int:
        await driver.enqueue([message(number)])
        return (await driver.depth("q")).ready

    # Never closed: each loop closes its connections when it ends, without a ResourceWarning.
    counts = [asyncio.run(once(number)) for number in range(3)]
    gc.collect()

    assert counts == [1, 2, 3]


def test_a_loop_that_ends_during_a_wait_ends_the_wait(server: RedisServer) -> None:
    driver = RedisDriver(server.url, namespace="ending")

    async def leave() -> None:
        waiting = asyncio.create_task(driver.wait_visible(["q"], wait_s=60))

        async def is_blocked() -> bool:
            return b"blocked_clients:1" in await driver.command("INFO", "clients")

        await until(is_blocked)
        assert not waiting.done()

    asyncio.run(leave())
    gc.collect()


# -- login, sentinel -----------------------------------------------------------------------------


async def test_a_wrong_password_is_named_without_telling_it() -> None:
    with RedisServer("--requirepass", "right") as server:
        for url in (server.url.replace("//", f"//:{SECRET}@"), server.url.replace("//", f"//me:{SECRET}@"), server.url):
            async with driving(url) as driver:
                with pytest.raises(DriverMisconfigured, match=r"refused access.*check user name, password") as caught:
                    await driver.open()

            frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
            own = [line for line in frames.format() if "/tests/" not in line]
            assert SECRET not in "".join(own)

        async with driving(server.url, password="right") as driver:
            assert await driver.enqueue([message(1)]) == ["m-1"]


async def test_a_database_that_does_not_exist_is_misconfigured(server: RedisServer) -> None:
    async with driving(f"{server.url}/99") as driver:
        with pytest.raises(DriverMisconfigured, match="out of range"):
            await driver.open()


async def test_a_sentinel_leads_to_the_master_and_to_its_successor() -> None:
    # A master waits 5 s for more replicas before it copies to the first, unless it is told otherwise.
    at_once = ("--repl-diskless-sync-delay", "0")
    with RedisServer(*at_once) as first, RedisServer("--replicaof", "127.0.0.1", str(first.port)) as second:
        config = (
            f"sentinel monitor main 127.0.0.1 {first.port} 1\n"
            "sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 1000\n"
        )
        # A sentinel asks a master for its replicas when it first meets it, then every 10 s.
        wait_until(lambda: has_a_replica(first), "the replica is in step")
        with RedisServer(sentinel_config=config) as sentinel:
            nobody = free_port()
            url = f"redis+sentinel://127.0.0.1:{nobody},127.0.0.1:{sentinel.port}/main"
            async with driving(url) as driver, driving(second.url) as replica:
                await driver.enqueue([message(1)])

                async def is_copied() -> bool:
                    return await replica.command("DBSIZE") > 0

                async def is_served() -> bool:
                    try:
                        await driver.enqueue([message(2)])
                    except DriverUnavailable:
                        return False
                    return True

                await until(is_copied, "the message is at the replica")
                await until(lambda: knows_a_replica(sentinel), "the sentinel knows the replica")
                first.kill()

                await until(is_served, "the replica is the master", within_s=2 * SOON_S)
                assert (await driver.depth("q")).ready == 2


def has_a_replica(master: RedisServer) -> bool:
    return b"state=online" in master.ask("INFO replication")


def knows_a_replica(sentinel: RedisServer) -> bool:
    return b"num-slaves\r\n$1\r\n1" in sentinel.ask("SENTINEL MASTER main")


async def test_sentinels_that_know_nothing_are_named() -> None:
    with RedisServer(sentinel_config="") as sentinel:
        async with driving(f"redis+sentinel://127.0.0.1:{sentinel.port}/main") as driver:
            with pytest.raises(
                DriverUnavailable, match=f"master of 'main': 127.0.0.1:{sentinel.port} does not know it"
            ):
                await driver.open()
