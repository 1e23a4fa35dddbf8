"""What only the Redis driver has: its checks at the start, its keys, its limits."""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from asynctasq.drivers.redis_driver import RedisDriver
from asynctasq.drivers.redis_driver import server_checks as _redis_checks
from asynctasq.drivers.redis_driver.server_checks import parse_info
from asynctasq.errors import DispatchError, DriverUnavailable
from asynctasq.kernel.messages import Bury, Complete, DeadReason, ErrorRecord, Lease, Message, Release
from tests.drivers.redis_driver.server import RedisServer, driving
from tests.patience import until


def message(number: int, **changes: object) -> Message:
    return Message(**{"id": f"m-{number}", "queue": "q", "body": b"body", **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer("--save", "", "--appendonly", "no") as server:
        yield server


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[RedisDriver]:
    async with driving(server.url) as driver:
        await driver.command("FLUSHALL")
        yield driver


# -- checks at the start -------------------------------------------------------------------------


async def test_a_start_warns_once_per_address(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="asynctasq")
    _redis_checks.checked_addresses.clear()

    for _ in range(2):
        async with driving(server.url) as driver:
            await driver.open()

    assert [record.getMessage() for record in caplog.records] == [
        f"{server.url}: it keeps nothing on disk: a restart loses every message; set appendonly to 'yes'"
    ]


async def test_a_server_that_forbids_info_and_config_is_used(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="asynctasq")

    with RedisServer("--rename-command", "CONFIG", "", "--rename-command", "INFO", "") as server:
        async with driving(server.url) as driver:
            assert await driver.enqueue([message(1)]) == ["m-1"]
            leases = await driver.reserve(["q"], limit=1, lease_s=1)
            assert await driver.settle([(leases[0], Complete())]) == set()

    assert "could not be checked" in caplog.text


# -- scripts and keys ----------------------------------------------------------------------------


async def test_scripts_are_loaded_again_after_the_server_forgot_them(redis: RedisDriver) -> None:
    await redis.enqueue([message(1)])
    await redis.command("SCRIPT", "FLUSH")

    assert len(await redis.reserve(["q"], limit=1, lease_s=1)) == 1


async def every_operation(driver: RedisDriver) -> None:
    """Call each operation so that each kind of key exists; leave messages behind."""
    late = Message(id="late}{", queue="q-2", body=b"", delay_s=60)
    await driver.enqueue([message(number) for number in range(6)] + [late])
    leases = await driver.reserve(["q", "q-2"], limit=4, lease_s=10)
    await driver.extend(leases, lease_s=20)
    error = ErrorRecord(type="E", message="m")
    follow_ups = (message(9, queue="q-3"),)
    await driver.turn(
        [
            (leases[0], Complete(result=b"r", result_ttl_s=60, follow_ups=follow_ups)),
            (leases[1], Release(counted=True, error=error, delay_s=1)),
            (leases[2], Bury(reason=DeadReason.FAILED, error=error)),
        ],
        ["q", "q-3"],
        limit=1,
        lease_s=10,
    )
    assert await driver.wait_visible(["q"], wait_s=0)
    assert not await driver.wait_visible(["q-4"], wait_s=0)
    await driver.depth("q")
    await driver.redrive("q", limit=1)
    await driver.list_messages("q")
    assert await driver.queues() == ["q", "q-2", "q-3"]
    assert await driver.fetch_result(leases[0].message_id) == b"r"
    assert (await driver.find("late}{")) is not None
    await driver.discard(["m-2"])
    await driver.cancel(["m-5"])
    await driver.purge("q-3")


async def is_formed(node: RedisDriver) -> bool:
    return b"cluster_state:ok" in await node.command("CLUSTER", "INFO")


async def test_all_keys_lie_in_one_slot_of_a_cluster() -> None:
    with RedisServer("--cluster-enabled", "yes", "--save", "") as server:
        async with driving(server.url, namespace="shop") as driver:
            await driver.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await until(lambda: is_formed(driver))

            await every_operation(driver)

            keys = await driver.command("KEYS", "*")
            slots = {await driver.command("CLUSTER", "KEYSLOT", key) for key in keys}
            assert len(keys) > 6
            assert slots == {await driver.command("CLUSTER", "KEYSLOT", "shop")}


async def test_a_node_of_a_cluster_without_our_slot_names_the_one_that_has_it() -> None:
    with RedisServer("--cluster-enabled", "yes") as first, RedisServer("--cluster-enabled", "yes") as second:
        async with driving(first.url) as driver, driving(second.url) as other:
            slot = await driver.command("CLUSTER", "KEYSLOT", "asynctasq")
            await other.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await driver.command("CLUSTER", "MEET", "127.0.0.1", second.port)
            await until(lambda: is_formed(driver))
            await until(lambda: is_formed(other))

            assert await driver.enqueue([message(1)]) == ["m-1"]

            assert await other.command("CLUSTER", "COUNTKEYSINSLOT", slot) > 0
            assert len(await driver.reserve(["q"], limit=1, lease_s=1)) == 1


async def test_nothing_is_left_once_a_queue_is_empty(redis: RedisDriver) -> None:
    before = await redis.command("DBSIZE")
    await redis.enqueue([message(number) for number in range(3000)])
    while leases := await redis.reserve(["q"], limit=700, lease_s=5):
        assert await redis.settle([(lease, Complete()) for lease in leases]) == set()

    assert (before, await redis.command("DBSIZE")) == (0, 0)


async def test_the_memory_of_the_server_returns_to_the_start(redis: RedisDriver) -> None:
    async def used_memory() -> int:
        await redis.command("MEMORY", "PURGE")
        await redis.command("SCRIPT", "FLUSH")
        return int(parse_info(await redis.command("INFO", "memory"))["used_memory"])

    before = await used_memory()
    await redis.enqueue([message(number, body=b"x" * 1000) for number in range(10_000)])
    full = await used_memory()
    while leases := await redis.reserve(["q"], limit=1000, lease_s=5):
        await redis.settle([(lease, Complete()) for lease in leases])

    assert full - before > 10_000_000
    assert await used_memory() - before < 2_000_000


async def test_a_result_is_removed_by_the_server_itself(redis: RedisDriver) -> None:
    await redis.enqueue([message(1)])
    leases = await redis.reserve(["q"], limit=1, lease_s=5)
    await redis.settle([(leases[0], Complete(result=b"r", result_ttl_s=60))])

    assert 0 < await redis.command("PTTL", "{asynctasq}:result:m-1") <= 60_000


# -- limits --------------------------------------------------------------------------------------


async def test_a_hundred_thousand_messages_are_stored_in_one_step(redis: RedisDriver) -> None:
    messages = [message(number, queue="q" if number % 1000 else "r") for number in range(100_000)]

    new = await redis.enqueue(messages)
    again = await redis.enqueue([*messages, message(100_000)])

    assert len(new) == 100_000
    assert again == ["m-100000"]
    assert (await redis.depth("q")).ready + (await redis.depth("r")).ready == 100_001


async def test_thousands_are_leased_extended_and_settled_at_once(redis: RedisDriver) -> None:
    await redis.enqueue([message(number) for number in range(9000)])

    leases = await redis.reserve(["q"], limit=9000, lease_s=5)
    lost = await redis.extend([*leases, forged(leases[0])], lease_s=10)
    settled = [(lease, Release(counted=True, error=ErrorRecord(type="E", message="m"))) for lease in leases]
    lost_again = await redis.settle(settled)

    assert [lease.message_id for lease in leases] == [f"m-{number}" for number in range(9000)]
    assert (lost, lost_again) == ({"m-0"}, set())
    assert await redis.purge("q") == 9000


def forged(lease: Lease) -> Lease:
    return Lease(
        message_id=lease.message_id,
        queue=lease.queue,
        body=b"",
        token=lease.token[:-1] + ("1" if lease.token[-1] == "0" else "0"),
        attempt=1,
        crashes=0,
        enqueued_at=0,
        expires_at=0,
    )


async def test_more_than_one_command_can_carry_is_refused(redis: RedisDriver) -> None:
    with pytest.raises(DispatchError, match="split them"):
        await redis.enqueue([message(1)] * 500_001)


async def test_a_full_server_refuses_messages_but_can_be_drained() -> None:
    with RedisServer("--save", "", "--maxmemory-policy", "noeviction") as server:
        async with driving(server.url) as driver:
            await driver.enqueue([message(number) for number in range(100)])
            await driver.command("CONFIG", "SET", "maxmemory", 1)

            with pytest.raises(DriverUnavailable, match="at its memory limit and took nothing"):
                await driver.enqueue([message(1000)])
            leases = await driver.reserve(["q"], limit=100, lease_s=5)
            lost, _ = await driver.turn(
                [(leases[0], Release(counted=True))] + [(lease, Complete()) for lease in leases[1:]],
                ["q"],
                limit=0,
                lease_s=5,
            )

            assert (len(leases), lost) == (100, set())
            assert (await driver.depth("q")).ready == 1


async def test_operations_run_without_script_flags(redis: RedisDriver) -> None:
    """Redis 6.2 does not know the first line that names a script's flags."""
    await redis.open()
    resources = redis._resources.get_if_open()
    assert resources is not None
    resources.pool.has_script_flags = False

    await every_operation(redis)
