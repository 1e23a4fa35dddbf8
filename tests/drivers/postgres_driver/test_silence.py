"""The PostgreSQL driver behind a network that goes silent, or that hides how the server ended a connection."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest

from asynctasq.drivers.postgres_driver import PostgresDriver
from asynctasq.errors import DriverUnavailable
from asynctasq.testing.conformance.harnesses.postgres import PostgresHarness
from tests.drivers.postgres_driver.support import Q, ids, messages
from tests.faults.silent_relay import SilentRelay
from tests.patience import until

FAR_S = 3600.0
OTHERS = "FROM pg_stat_activity WHERE datname = $1 AND application_name = 'asynctasq'"


@pytest.fixture
def relay(request: pytest.FixtureRequest, store: PostgresHarness) -> Iterator[SilentRelay]:
    made = SilentRelay(store.url, hides_ends=getattr(request, "param", False))
    yield made
    made.close()


@pytest.fixture
async def driver(relay: SilentRelay) -> AsyncIterator[PostgresDriver]:
    made = PostgresDriver(relay.url)
    yield made
    await made.close()


@pytest.mark.parametrize("relay", [True], indirect=True)
async def test_a_call_on_a_connection_that_the_server_has_ended_uses_another(
    store: PostgresHarness, relay: SilentRelay, driver: PostgresDriver
) -> None:
    await driver.enqueue(messages("a"))
    pool: Any = driver._resources.get_if_open()
    [connection] = pool.pool._idle
    port = connection._transport.get_extra_info("sockname")[1]

    async with store.admin() as admin:
        assert await admin.fetch(f"SELECT pg_terminate_backend(pid) {OTHERS}", store.database)
        await until(lambda: port in relay.hidden_ends, "the server has said that it ends the session")
    for _ in range(20):  # the client reads that
        await asyncio.sleep(0)

    assert await driver.enqueue(messages("b")) == ["b"]
    assert ids(await driver.reserve([Q], limit=5, lease_s=60)) == ["a", "b"]


async def test_a_listening_connection_that_is_silent_is_replaced(
    monkeypatch: pytest.MonkeyPatch, store: PostgresHarness, relay: SilentRelay, driver: PostgresDriver
) -> None:
    for name in ("listener.PING_S", "listener.SILENCE_S", "loop_resources.LISTEN_POLL_S"):
        monkeypatch.setattr(f"asynctasq.drivers.postgres_driver.{name}", 0.2)
    waiting = asyncio.create_task(_wait_for_ever(driver))
    listens = f"SELECT count(*) {OTHERS} AND query LIKE 'LISTEN %'"
    async with store.admin() as admin:
        await until(lambda: _count(admin, listens, store), "it listens")
        resources: Any = driver._resources.get_if_open()
        before = resources._listener._connection

        relay.begin_silence()
        relay.end_silence()

        await until(
            lambda: resources._listener.listens and resources._listener._connection is not before,
            "another connection listens",
        )
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_one_silent_connection_tells_of_the_others(
    monkeypatch: pytest.MonkeyPatch, relay: SilentRelay, driver: PostgresDriver
) -> None:
    monkeypatch.setattr("asynctasq.drivers.silence.SILENCE_S", 0.2)
    monkeypatch.setattr("asynctasq.drivers.postgres_driver.listener.SILENCE_S", 0.2)
    assert not await driver.wait_visible([Q], wait_s=0)
    resources: Any = driver._resources.get_if_open()
    pool, listener = resources.pool, resources._listener
    assert listener.listens

    relay.begin_silence()
    relay.end_silence()
    with pytest.raises(DriverUnavailable):
        await driver.reserve([Q], limit=1, lease_s=60)

    assert not listener.listens
    assert not await driver.wait_visible([Q], wait_s=0)
    assert listener.listens
    assert pool._idle

    relay.begin_silence()
    relay.end_silence()
    monkeypatch.setattr("asynctasq.drivers.postgres_driver.listener.PING_S", 0.0)
    assert await listener.ensure()

    assert not pool._idle
    assert await driver.reserve([Q], limit=1, lease_s=60) == []


async def _wait_for_ever(driver: PostgresDriver) -> None:
    """Wait as a worker does, which goes on when a poll has met a silent connection."""
    while True:
        with suppress(DriverUnavailable):
            await driver.wait_visible([Q], wait_s=FAR_S)


async def _count(admin: Any, statement: str, store: PostgresHarness) -> int:
    return int(await admin.fetchval(statement, store.database))
