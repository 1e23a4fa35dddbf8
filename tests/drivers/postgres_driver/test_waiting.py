"""The PostgreSQL driver while it waits, and when connections are cut, stuck, cancelled or closed."""

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from asynctasq.drivers.postgres_driver import PostgresDriver
from asynctasq.drivers.postgres_driver.pool import Pool
from asynctasq.errors import DriverUnavailable
from asynctasq.kernel.messages import Release
from asynctasq.testing.conformance.harnesses.postgres import PostgresHarness
from asynctasq.testing.servers import Servers
from tests.drivers.postgres_driver.support import Q, ids, make, messages, waits_for_lock
from tests.patience import SOON_S, until

FAR_S = 3600.0


@pytest.fixture
def _looks_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who listens looks by itself only after an hour, so that what comes in time was woken."""
    monkeypatch.setattr("asynctasq.drivers.postgres_driver.loop_resources.LISTEN_POLL_S", FAR_S)


@pytest.fixture
async def other(store: PostgresHarness) -> AsyncIterator[Any]:
    """A connection beside the driver's."""
    connection = await asyncpg.connect(store.url)
    yield connection
    await connection.close()


# -- waiting ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_looks_far_apart")
async def test_a_commit_elsewhere_wakes_who_waits(store: PostgresHarness, other: Any) -> None:
    driver = make(store)
    waiting = asyncio.create_task(driver.reserve([Q], limit=1, lease_s=60, wait_s=FAR_S))
    listening = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN %' AND state = 'idle'"
    await until(lambda: other.fetchval(listening))
    statements = StatementCounter(driver)
    transaction = other.transaction()
    await transaction.start()

    await driver.enqueue_in(other, messages("a"))
    await transaction.commit()
    async with asyncio.timeout(SOON_S):
        leases = await waiting

    assert ids(leases) == ["a"]
    assert statements.count <= 4


@pytest.mark.usefixtures("_looks_far_apart")
@pytest.mark.parametrize("listen", [True, False])
async def test_this_process_wakes_at_once(store: PostgresHarness, listen: bool) -> None:
    driver = make(store, listen=listen, poll_s_max=FAR_S)
    driver_elsewhere = make(store, listen=False)
    statements = StatementCounter(driver)
    waiting = asyncio.create_task(driver.wait_visible([Q], wait_s=FAR_S))
    await until(lambda: statements.reached(1))

    await driver_elsewhere.enqueue(messages("a"))

    async with asyncio.timeout(SOON_S):
        assert await waiting is True


async def test_without_listening_a_message_is_found_by_polling(store: PostgresHarness, other: Any) -> None:
    driver = make(store, listen=False, poll_s_max=0.2)
    await driver.open()
    waiting = asyncio.create_task(driver.reserve([Q], limit=1, lease_s=60, wait_s=FAR_S))
    async with other.transaction():
        await driver.enqueue_in(other, messages("a"))

    async with asyncio.timeout(SOON_S):
        assert ids(await waiting) == ["a"]


@pytest.mark.parametrize(("notify", "notices"), [(True, 1), (False, 0)])
async def test_a_batch_sends_one_notice_or_none(store: PostgresHarness, other: Any, notify: bool, notices: int) -> None:
    driver = make(store, notify=notify)
    heard: list[str] = []
    await other.add_listener(driver._names.channel, lambda *arguments: heard.append(arguments[-1]))

    await driver.enqueue(messages(*map(str, range(50))))
    leases = await driver.reserve([Q], limit=2, lease_s=60)
    await driver.settle([(leases[0], Release(counted=True)), (leases[1], Release(counted=True))])
    await other.fetchval("SELECT 1")  # What was notified before arrives with this answer.

    assert heard == [Q, Q][: 2 * notices]


@pytest.mark.parametrize(("notify", "notices"), [(True, 1), (False, 0)])
async def test_leases_made_shorter_send_one_notice_and_renewals_none(
    store: PostgresHarness, other: Any, notify: bool, notices: int
) -> None:
    driver = make(store, notify=notify)
    await driver.enqueue(messages("a", "b"))
    leases = await driver.reserve([Q], limit=2, lease_s=60)
    heard: list[str] = []
    await other.add_listener(driver._names.channel, lambda *arguments: heard.append(arguments[-1]))

    with driver._wakeups.waiting([Q]) as waiter:
        await driver.extend(leases, lease_s=120)
        renewed = await waiter.wait(0.1)
        await driver.extend(leases, lease_s=1)
        shortened = await waiter.wait(SOON_S)
    await other.fetchval("SELECT 1")  # What was notified before arrives with this answer.

    assert (renewed, shortened, heard) == (False, True, [Q] * notices)


async def test_waiting_ends_when_a_delay_ends(store: PostgresHarness) -> None:
    driver = make(store)
    await driver.enqueue(messages("a", delay_s=0.3))
    statements = StatementCounter(driver)

    leases = await driver.reserve([Q], limit=1, lease_s=60, wait_s=FAR_S)

    assert ids(leases) == ["a"]
    assert statements.count <= 6


@pytest.mark.parametrize(("listen", "most"), [(True, 3), (False, 12)])
async def test_an_idle_wait_asks_little(store: PostgresHarness, listen: bool, most: int) -> None:
    driver = make(store, listen=listen)
    await driver.open()
    statements = StatementCounter(driver)

    assert await driver.wait_visible([Q], wait_s=2) is False

    assert statements.count <= most


async def test_a_locked_message_is_not_asked_for_without_pause(store: PostgresHarness, other: Any) -> None:
    driver = make(store)
    await driver.enqueue(messages("a"))
    [lease] = await driver.reserve([Q], limit=1, lease_s=1)
    driver.clock_offset += 10
    transaction = other.transaction()
    await transaction.start()
    await driver.settle_in(other, [(lease, Release(counted=True))])
    statements = StatementCounter(driver)

    assert await driver.reserve([Q], limit=1, lease_s=60, wait_s=2) == []

    assert statements.count < 40
    await transaction.commit()


@pytest.mark.usefixtures("_looks_far_apart")
async def test_a_lost_listener_listens_again(store: PostgresHarness, other: Any) -> None:
    driver = make(store)
    waiting = asyncio.create_task(driver.reserve([Q], limit=1, lease_s=60, wait_s=FAR_S))
    listening = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN %' AND state = 'idle'"
    pid = await until(lambda: other.fetchval(listening))

    await other.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
    assert await until(lambda: other.fetchval(listening)) != pid
    async with other.transaction():
        await driver.enqueue_in(other, messages("a"))

    async with asyncio.timeout(SOON_S):
        assert ids(await waiting) == ["a"]


class StatementCounter:
    """Counts the statements that a driver sends."""

    def __init__(self, driver: PostgresDriver) -> None:
        self.count = 0
        run = driver._run

        def counting(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return run(*args, **kwargs)

        driver._run = counting  # type: ignore[method-assign] # the one place where all of them pass

    async def reached(self, count: int) -> bool:
        return self.count >= count


# -- faults ----------------------------------------------------------------------------------------


async def test_a_cancelled_reserve_hands_back_what_it_took(store: PostgresHarness, other: Any) -> None:
    driver = make(store)
    await driver.enqueue(messages("a"))
    lock = other.transaction()
    await lock.start()
    await other.execute("LOCK TABLE asynctasq_messages IN ACCESS EXCLUSIVE MODE")
    reserving = asyncio.create_task(driver.reserve([Q], limit=1, lease_s=600))
    await until(lambda: waits_for_lock(store))

    reserving.cancel()
    await asyncio.sleep(0)
    await lock.commit()
    with pytest.raises(asyncio.CancelledError):
        await reserving

    [lease] = await driver.reserve([Q], limit=1, lease_s=60)
    assert (lease.attempt, lease.crashes) == (1, 0)


async def test_a_cancelled_call_on_a_stuck_server_ends_soon(store: PostgresHarness, other: Any) -> None:
    driver = make(store, max_connections=1)
    await driver.enqueue(messages("a"))
    lock = other.transaction()
    await lock.start()
    await other.execute("LOCK TABLE asynctasq_messages IN ACCESS EXCLUSIVE MODE")
    extending = asyncio.create_task(driver.depth(Q))
    await until(lambda: waits_for_lock(store))

    extending.cancel()
    async with asyncio.timeout(SOON_S):
        with pytest.raises(asyncio.CancelledError):
            await extending
    await lock.commit()

    assert (await driver.depth(Q)).ready == 1


async def test_a_command_without_answer_is_given_up(store: PostgresHarness, other: Any) -> None:
    driver = make(store, command_timeout_s=0.2)
    await driver.open()
    lock = other.transaction()
    await lock.start()
    await other.execute("LOCK TABLE asynctasq_messages IN ACCESS EXCLUSIVE MODE")

    with pytest.raises(DriverUnavailable, match=r"no answer within 0\.2 s"):
        await driver.depth(Q)
    await lock.commit()

    assert (await driver.depth(Q)).ready == 0


async def test_cut_connections_are_replaced(store: PostgresHarness) -> None:
    driver = make(store)
    await asyncio.gather(*(driver.depth(Q) for _ in range(5)))

    await store.break_connections()
    with contextlib.suppress(DriverUnavailable):
        await driver.depth(Q)

    assert await driver.enqueue(messages("a")) == ["a"]


async def has_busy(resources: Any) -> bool:
    return bool(resources.pool._busy)


async def test_close_is_bounded_when_the_server_stands_still(store: PostgresHarness, other: Any) -> None:
    driver = make(store)
    await driver.enqueue(messages("a"))
    busy = asyncio.create_task(driver.reserve(["none"], limit=1, lease_s=1, wait_s=60))
    found = "SELECT pid FROM pg_stat_activity WHERE application_name = 'asynctasq' AND datname = current_database()"
    await until(lambda: other.fetchval(f"{found} AND query LIKE 'LISTEN %' AND state = 'idle'"))
    pids = [row[0] for row in await other.fetch(found)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)

    try:
        stuck = asyncio.create_task(driver.depth(Q))
        resources = driver._resources.get_if_open()
        await until(lambda: has_busy(resources))
        async with asyncio.timeout(SOON_S):
            await driver.close()
        with contextlib.suppress(DriverUnavailable):
            await stuck
        assert await busy == []
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def test_close_ends_waiting_calls_with_nothing(store: PostgresHarness) -> None:
    driver = make(store)
    statements = StatementCounter(driver)
    reserving = asyncio.create_task(driver.reserve([Q], limit=1, lease_s=1, wait_s=60))
    waiting = asyncio.create_task(driver.wait_visible([Q], wait_s=60))
    await until(lambda: statements.reached(3))

    await driver.close()

    assert (await reserving, await waiting) == ([], False)
    assert await driver.enqueue(messages("a")) == ["a"]


def test_every_loop_has_its_own_connections(conformance_servers: Servers) -> None:
    store = PostgresHarness(conformance_servers.postgres())
    asyncio.run(store.prepare())
    driver = PostgresDriver(store.url)

    async def use(message_id: str, *, close: bool) -> list[str]:
        await driver.enqueue(messages(message_id))
        leases = await driver.reserve([Q], limit=5, lease_s=60, wait_s=1)
        assert await driver.wait_visible([Q], wait_s=0.01) is False
        if close:
            await driver.close()
        return ids(leases)

    # Those that are not closed are let go of by the next loop, without a warning.
    runs = [asyncio.run(use(name, close=name in "bd")) for name in "abcd"]
    gc.collect()

    assert runs == [["a"], ["b"], ["c"], ["d"]]
    asyncio.run(store.clean_up())


async def test_a_full_pool_waits_instead_of_opening_more() -> None:
    opened: list[Any] = []

    class Connection:
        closed = False

        def is_closed(self) -> bool:
            return self.closed

        def is_in_transaction(self) -> bool:
            return False

        def terminate(self) -> None:
            self.closed = True

    async def connect() -> Any:
        opened.append(Connection())
        return opened[-1]

    async def operation(_connection: Any) -> int:
        await asyncio.sleep(0)
        return len(opened)

    pool = Pool(connect, max_connections=2, command_timeout_s=5)

    assert max(await asyncio.gather(*(pool.run(operation) for _ in range(20)))) == 2


async def test_a_connect_that_is_cancelled_at_any_step_leaves_no_exception_behind(store: PostgresHarness) -> None:
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context)))
    for steps in range(40):
        driver = make(store)
        opening = asyncio.create_task(driver._address.connect(prepare=True))
        for _ in range(steps):
            await asyncio.sleep(0)
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            (await opening).terminate()
        await asyncio.sleep(0)
        gc.collect()

    assert told == []
